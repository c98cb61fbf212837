//! One endpoint of this node: what its source says, what the checks say, whether it drains. Pure.

use super::local::{Process, SourceId, Verdict};
use mesh_control::model::Endpoint;

/// What is known of an endpoint's health.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Health {
    /// Nothing checks it: ready as its source declares.
    Unchecked,
    /// A check has not succeeded yet: not ready.
    Waiting,
    /// The last verdict.
    Checked(Verdict),
}

impl Health {
    fn allows(self) -> bool {
        matches!(self, Health::Unchecked | Health::Checked(Verdict::Healthy))
    }
}

/// When a drain is over.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Until {
    /// By this process's steady clock, which no step of the wall clock moves, in milliseconds.
    pub(super) at: u64,
    /// As other nodes are told: unix milliseconds, by the wall clock as it stood when the drain began.
    pub(super) wall: u64,
}

/// An endpoint as the writer keeps it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Instance {
    /// Who brought it.
    pub(super) source: SourceId,
    /// As the source says.
    pub(super) said: Endpoint,
    /// As the checks say.
    pub(super) health: Health,
    /// Its source no longer mentions it: removed then.
    pub(super) leaving: Option<Until>,
    /// An operator drains it; old flows are reset then.
    pub(super) drained: Option<Until>,
    /// An operator drains the whole node; likewise.
    pub(super) node_drained: Option<Until>,
}

impl Instance {
    pub(super) fn new(source: SourceId, said: Endpoint, health: Health) -> Self {
        Instance { source, said, health, leaving: None, drained: None, node_drained: None }
    }

    /// Takes a new word of its source. Another address or port is another process: its health is `fresh`.
    pub(super) fn say(&mut self, source: &SourceId, said: &Endpoint, fresh: Health) {
        if !Process::from(said).is(&self.said) {
            self.health = fresh;
        }
        self.source = source.clone();
        self.said = said.clone();
        self.leaving = None;
    }

    /// What the mesh is told.
    pub(super) fn announced(&self) -> Endpoint {
        let mut e = self.said.clone();
        let deadline = [self.leaving, self.drained, self.node_drained].into_iter().flatten().min();
        match deadline {
            Some(deadline) => {
                e.ready = false;
                e.serving = true;
                e.terminating = true;
                e.drain_until = Some(deadline.wall);
            }
            None => {
                e.ready &= self.health.allows();
                e.serving &= self.health.allows();
            }
        }
        e
    }
}
