//! What a node knows of others with its name or address; [`super::naming`] acts on it.

use crate::{hash::hash64, member::Identity, model::NodeName};
use std::{collections::BTreeMap, net::SocketAddr};

/// What this node knows of rivals.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// A number of this process, unlike every other's.
    pub(super) run: u64,
    pub(super) silence: Option<Silence>,
    /// When each address may be asked again.
    pub(super) asked: BTreeMap<SocketAddr, u64>,
    /// Living rivals, what is wrong, and until when it is shown.
    pub(super) rivals: BTreeMap<NodeName, (String, u64)>,
    /// Others with one name: since when, and what was said of it.
    pub(super) doubled: BTreeMap<NodeName, (u64, Option<String>)>,
}

/// Why this node keeps silent, and whom it asks.
#[derive(Debug)]
pub(super) struct Silence {
    pub(super) why: String,
    pub(super) rival: Identity,
    /// Where it answered.
    pub(super) place: SocketAddr,
    pub(super) ask_at: u64,
    pub(super) unanswered: u8,
}

impl Names {
    pub(super) fn new(sender: &[u8]) -> Names {
        Names { run: hash64(&[sender]), ..Names::default() }
    }

    /// Why this node keeps silent, if it does.
    pub(super) fn silenced(&self) -> Option<&String> {
        self.silence.as_ref().map(|silence| &silence.why)
    }

    /// What is wrong with a node's name or address.
    pub(super) fn trouble(&self, name: &NodeName) -> Option<String> {
        let doubled = || self.doubled.get(name).and_then(|(_, told)| told.as_ref());
        self.rivals.get(name).map(|(what, _)| what).or_else(doubled).cloned()
    }
}
