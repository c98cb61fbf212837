//! When endpoints that leave are removed. Pure.

use super::{Merge, millis};
use crate::source::instance::Until;
use mesh_control::model::ServiceKey;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// The next deadline of every service that has one: one entry a service, however often its instances come and go.
#[derive(Debug, Default)]
pub(super) struct Deadlines {
    by_time: BTreeSet<(u64, ServiceKey)>,
    by_service: BTreeMap<ServiceKey, u64>,
}

impl Deadlines {
    fn set(&mut self, key: &ServiceKey, next: Option<u64>) {
        let before = match next {
            Some(at) => self.by_service.insert(key.clone(), at),
            None => self.by_service.remove(key),
        };
        if let Some(at) = before {
            self.by_time.remove(&(at, key.clone()));
        }
        if let Some(at) = next {
            self.by_time.insert((at, key.clone()));
        }
    }

    fn first(&self) -> Option<&(u64, ServiceKey)> {
        self.by_time.first()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.by_time.len()
    }
}

impl Merge {
    /// Removes endpoints whose drain is over.
    pub fn tick(&mut self, now: u64) {
        while let Some((_, key)) = self.deadlines.first().filter(|(at, _)| *at <= now).cloned() {
            if let Some(all) = self.instances.get_mut(&key) {
                all.retain(|_, i| i.leaving.is_none_or(|until| until.at > now));
            }
            self.schedule(&key);
            self.touch(&key);
        }
    }

    /// When [`Merge::tick`] has something to do, by the clock of its `now`.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// What the wall clock shows when `now` is 0, unix milliseconds: what other nodes are told of drains that begin
    /// from here on. Those under way keep to `now`, wherever the wall clock is set to.
    pub fn set_wall_ahead(&mut self, ahead: u64) {
        self.wall_ahead = ahead;
    }

    /// The end of a drain that begins now.
    pub(super) fn until(&self, now: u64, drain: Duration) -> Until {
        let at = now.saturating_add(millis(drain));
        Until { at, wall: at.saturating_add(self.wall_ahead) }
    }

    /// Notes when the next instance of a service goes.
    pub(super) fn schedule(&mut self, key: &ServiceKey) {
        let leaving = self.instances.get(key).into_iter().flatten().filter_map(|(_, i)| Some(i.leaving?.at));
        self.deadlines.set(key, leaving.min());
    }
}
