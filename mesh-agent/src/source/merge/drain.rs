//! Draining that an operator orders, beside that of endpoints which leave. Pure.

use super::{Merge, NoSuchEndpoint};
use crate::source::instance::Until;
use mesh_control::model::{Name, ServiceKey, Snapshot};
use std::time::Duration;

impl Merge {
    /// Drains an endpoint while its source still has it: no new flow from now on, old ones reset after `deadline`, or
    /// after the service's own drain time. It stays out until [`Merge::undrain`]. A second call changes the deadline
    /// only when it names one. Not kept over a restart.
    ///
    /// # Errors
    /// When this node has no such endpoint.
    pub fn drain(
        &mut self,
        now: u64,
        snapshot: &Snapshot,
        key: &ServiceKey,
        instance: &Name,
        deadline: Option<Duration>,
    ) -> Result<(), NoSuchEndpoint> {
        let until = match deadline {
            Some(deadline) => self.until(now, deadline),
            None => self.drained_by(now, snapshot, key),
        };
        let drained = &mut self.instance(key, instance)?.drained;
        if deadline.is_some() {
            *drained = Some(until);
        } else {
            drained.get_or_insert(until);
        }
        self.touch(key);
        Ok(())
    }

    /// Takes a drained endpoint back.
    ///
    /// # Errors
    /// When this node has no such endpoint.
    pub fn undrain(&mut self, key: &ServiceKey, instance: &Name) -> Result<(), NoSuchEndpoint> {
        self.instance(key, instance)?.drained = None;
        self.touch(key);
        Ok(())
    }

    /// Drains every endpoint of this node, also those that come later, or takes that back.
    pub fn drain_node(&mut self, now: u64, snapshot: &Snapshot, draining: bool) {
        self.info.draining = draining;
        let keys: Vec<ServiceKey> = self.instances.keys().cloned().collect();
        for key in keys {
            self.follow_node(now, snapshot, &key);
            self.touch(&key);
        }
    }

    /// Gives the instances of a service the node's drain, or takes it from them.
    pub(super) fn follow_node(&mut self, now: u64, snapshot: &Snapshot, key: &ServiceKey) {
        let until = self.info.draining.then(|| self.drained_by(now, snapshot, key));
        for instance in self.instances.get_mut(key).into_iter().flat_map(|all| all.values_mut()) {
            instance.node_drained = until.map(|until| instance.node_drained.unwrap_or(until));
        }
    }

    /// When a drain of the service's own time that begins now is over.
    fn drained_by(&self, now: u64, snapshot: &Snapshot, key: &ServiceKey) -> Until {
        self.until(now, self.drain_time(snapshot, key).unwrap_or_default())
    }
}
