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
    /// Sorted by key. Nearly always one or two: a map's node has room for eleven.
    frontends: Mutex<Vec<(FrontendKey, Arc<FrontendStats>)>>,
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
        let idle = |stats: &BackendStats| stats.active() == 0;
        let excess = excess(all.values(), idle);
        drop_first(excess, |go| all.retain(|_, stats| !go(Arc::strong_count(stats) == 1 && idle(stats))));
        Arc::clone(all.entry((id.clone(), protocol)).or_default())
    }

    /// The counters of a frontend; those of one that comes back go on.
    pub(super) fn frontend(&self, key: FrontendKey) -> Arc<FrontendStats> {
        let mut all = lock(&self.frontends);
        if let Ok(at) = all.binary_search_by_key(&key, |(key, _)| *key) {
            return Arc::clone(&all[at].1);
        }
        let excess = excess(all.iter().map(|(_, stats)| stats), |_| true);
        drop_first(excess, |go| all.retain(|(_, stats)| !go(Arc::strong_count(stats) == 1)));
        let stats = Arc::<FrontendStats>::default();
        let at = all.partition_point(|(other, _)| *other < key);
        all.reserve_exact(1);
        all.insert(at, (key, Arc::clone(&stats)));
        stats
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

/// How many entries that nobody holds and that `may_go` there are beyond [`KEPT`].
fn excess<'a, V: 'a>(all: impl Iterator<Item = &'a Arc<V>>, may_go: impl Fn(&V) -> bool) -> usize {
    all.filter(|stats| Arc::strong_count(stats) == 1 && may_go(stats)).count().saturating_sub(KEPT)
}

/// Calls `retain` with what says whether an entry that may go goes: the first `count` do.
fn drop_first(mut count: usize, retain: impl FnOnce(&mut dyn FnMut(bool) -> bool)) {
    if count > 0 {
        retain(&mut |may_go| {
            let go = may_go && count > 0;
            count -= usize::from(go);
            go
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
