//! What is kept per service rather than per frontend: affinity and counters.

use super::{
    affinity::AffinityTable,
    stats::{BackendStats, FrontendStats},
};
use crate::{
    dataplane::{BackendCounters, FrontendCounters},
    plan::{BackendId, FrontendKey},
};
use mesh_control::model::{Protocol, ServiceKey};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Most removed backends, and most removed frontends, whose totals a service keeps. Beyond that the totals of those
/// without flows go first.
const KEPT: usize = 256;

/// A service of the table.
#[derive(Debug)]
pub(super) struct ServiceState {
    key: ServiceKey,
    affinity: Mutex<AffinityTable>,
    backends: Mutex<BTreeMap<(BackendId, Protocol), Arc<BackendStats>>>,
    frontends: Mutex<BTreeMap<FrontendKey, Arc<FrontendStats>>>,
}

/// Locks; what a panicked holder left is a plain map and stays usable.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ServiceState {
    /// A service that remembers at most `affinity_entries` clients.
    pub(super) fn new(key: ServiceKey, affinity_entries: usize) -> Self {
        ServiceState {
            key,
            affinity: Mutex::new(AffinityTable::new(affinity_entries)),
            backends: Mutex::default(),
            frontends: Mutex::default(),
        }
    }

    /// Its affinity table, locked. Hold it shortly: every new flow of the service waits for it.
    pub(super) fn affinity(&self) -> MutexGuard<'_, AffinityTable> {
        lock(&self.affinity)
    }

    /// The counters of a backend; those of one that comes back go on.
    pub(super) fn backend(&self, id: &BackendId, protocol: Protocol) -> Arc<BackendStats> {
        let mut all = lock(&self.backends);
        if let Some(stats) = all.get(&(id.clone(), protocol)) {
            return Arc::clone(stats);
        }
        trim(&mut all, |stats| stats.active() == 0);
        Arc::clone(all.entry((id.clone(), protocol)).or_default())
    }

    /// The counters of a frontend; those of one that comes back go on.
    pub(super) fn frontend(&self, key: FrontendKey) -> Arc<FrontendStats> {
        let mut all = lock(&self.frontends);
        if !all.contains_key(&key) {
            trim(&mut all, |_| true);
        }
        Arc::clone(all.entry(key).or_default())
    }

    /// Appends its counters. `state_of` gives the state of a backend that some frontend has; any other is `removed`.
    pub(super) fn read(
        &self,
        state_of: impl Fn(&BackendId, Protocol) -> Option<&'static str>,
        backends: &mut Vec<BackendCounters>,
        frontends: &mut Vec<FrontendCounters>,
    ) {
        for ((id, protocol), stats) in lock(&self.backends).iter() {
            let state = state_of(id, *protocol).unwrap_or("removed");
            backends.push(stats.read(self.key.clone(), id.clone(), state, *protocol));
        }
        for (key, stats) in lock(&self.frontends).iter() {
            frontends.push(stats.read(self.key.clone(), *key));
        }
    }
}

/// Drops entries that nobody holds and `may_go`, when more than [`KEPT`] of them are kept.
fn trim<K: Ord + Clone, V>(all: &mut BTreeMap<K, Arc<V>>, may_go: impl Fn(&V) -> bool) {
    let unused = |stats: &Arc<V>| Arc::strong_count(stats) == 1 && may_go(stats);
    let mut excess = all.values().filter(|stats| unused(stats)).count().saturating_sub(KEPT);
    if excess > 0 {
        all.retain(|_, stats| {
            let go = excess > 0 && unused(stats);
            excess -= usize::from(go);
            !go
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_of_removed_backends_come_back_and_are_bounded() {
        let service = ServiceState::new("web".parse().unwrap(), 10);
        let id =
            |n: usize| BackendId { instance: format!("i{n}").parse().unwrap(), node: "n1".parse().unwrap() };
        service.backend(&id(9999), Protocol::Tcp).established();
        assert_eq!(established(&service), 1);
        drop(service.backend(&id(9999), Protocol::Tcp));
        assert_eq!(established(&service), 1);
        for n in 0..1000 {
            service.backend(&id(n), Protocol::Tcp);
        }
        assert!(lock(&service.backends).len() <= KEPT + 1);
    }

    fn established(service: &ServiceState) -> u64 {
        let (mut backends, mut frontends) = (Vec::new(), Vec::new());
        service.read(|_, _| None, &mut backends, &mut frontends);
        assert!(backends.iter().all(|b| b.state == "removed"));
        backends.iter().map(|b| b.established).sum()
    }
}
