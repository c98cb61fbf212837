//! The state of a node's exchanges over TCP.

use super::io::ExchangeId;
use crate::{member::Identity, model::NodeName};
use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
};

/// Between two periodic exchanges with a random member, in milliseconds; also between two tries of seeds whose nodes
/// are not up.
pub(super) const PERIOD: u64 = 10_000;

/// Longest time between two periodic exchanges, when probes say that all is equal.
pub(super) const ANYWAY: u64 = 60_000;

/// Buckets that the first listing covers, before it is known how much that brings.
pub(super) const FIRST_GROUP: usize = 2;

/// The exchanges of one node.
#[derive(Debug)]
pub(super) struct Exchanges {
    pub(super) running: BTreeMap<ExchangeId, Exchange>,
    pub(super) next: u64,
    pub(super) seeds: Vec<Seed>,
    pub(super) next_seed: usize,
    /// When to exchange with a random member, and how often soon.
    pub(super) periodic_at: u64,
    pub(super) seed_at: u64,
    pub(super) soon: u8,
    /// When to exchange even if probes say that all is equal.
    pub(super) anyway_at: u64,
    /// When an exchange may next be brought forward.
    pub(super) hurry_at: u64,
    pub(super) met: VecDeque<Identity>,
    pub(super) done: u64,
    pub(super) failed: u64,
}

#[derive(Debug)]
pub(super) struct Seed {
    pub(super) text: String,
    /// Who answered there last.
    pub(super) answered: Option<NodeName>,
}

#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) role: Role,
    pub(super) deadline: u64,
    pub(super) learned: usize,
    /// Bytes that arrived since the last listing.
    pub(super) arrived: usize,
}

#[derive(Debug)]
pub(super) enum Role {
    /// This node began it.
    Initiator {
        to: Option<Identity>,
        seed: Option<usize>,
        /// The suspect that is tried.
        confirm: Option<SocketAddr>,
        /// Buckets still to compare; absent until the peer's hashes arrived.
        todo: Option<VecDeque<u8>>,
        /// Buckets that the next listing covers: fewer when the last ones were answered with much.
        group: usize,
    },
    /// This node began it to ask who is there: at this address, or at a seed.
    Asking { place: Option<SocketAddr> },
    /// A peer did, and said who it is or not yet.
    Responder { greeted: bool },
}

impl Role {
    /// An exchange with a member; `confirm` if that is the last try before it is down.
    pub(super) fn to(id: Identity, confirm: bool) -> Role {
        let confirm = confirm.then_some(id.addr);
        Role::Initiator { to: Some(id), seed: None, confirm, todo: None, group: FIRST_GROUP }
    }
}

impl Exchanges {
    pub(super) fn new(seeds: &[String], now: u64) -> Exchanges {
        let seed = |text: &String| Seed { text: text.clone(), answered: None };
        Exchanges {
            running: BTreeMap::new(),
            next: 0,
            seeds: seeds.iter().map(seed).collect(),
            next_seed: 0,
            periodic_at: now + PERIOD,
            seed_at: now,
            soon: 0,
            anyway_at: now,
            hurry_at: now,
            met: VecDeque::new(),
            done: 0,
            failed: 0,
        }
    }

    /// Run, and failed.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.done, self.failed)
    }

    /// Whether every seed turned out to be this node (or there is none).
    pub(super) fn seeds_are_all(&self, me: &NodeName) -> bool {
        self.seeds.iter().all(|seed| seed.answered.as_ref() == Some(me))
    }

    pub(super) fn outgoing(&self) -> usize {
        self.running.keys().filter(|id| id.0 < ExchangeId::ACCEPTED).count()
    }
}
