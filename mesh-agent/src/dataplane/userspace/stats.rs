//! Lock-free counters that workers write and `counters()` reads.

use crate::{
    dataplane::{BackendCounters, FrontendCounters},
    plan::{BackendId, FrontendKey},
};
use mesh_control::model::{Protocol, ServiceKey};
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

/// Counts of one backend of a service for one protocol, over all frontends of the service.
#[derive(Debug, Default)]
pub(super) struct BackendStats {
    active: AtomicU64,
    established: AtomicU64,
    failed: AtomicU64,
    reset: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
}

impl BackendStats {
    /// Flows open now.
    pub(super) fn active(&self) -> u64 {
        self.active.load(Relaxed)
    }

    /// A flow reached the backend.
    pub(super) fn established(&self) {
        self.established.fetch_add(1, Relaxed);
    }

    /// The backend refused or did not answer.
    pub(super) fn failed(&self) {
        self.failed.fetch_add(1, Relaxed);
    }

    /// A flow was cut by us.
    pub(super) fn reset(&self) {
        self.reset.fetch_add(1, Relaxed);
    }

    /// `n` bytes went from client to backend.
    pub(super) fn bytes_in(&self, n: u64) {
        self.bytes_in.fetch_add(n, Relaxed);
    }

    /// `n` bytes went from backend to client.
    pub(super) fn bytes_out(&self, n: u64) {
        self.bytes_out.fetch_add(n, Relaxed);
    }

    /// The counters at this moment.
    pub(super) fn read(
        &self,
        service: ServiceKey,
        backend: BackendId,
        state: &'static str,
        protocol: Protocol,
    ) -> BackendCounters {
        BackendCounters {
            service,
            backend,
            state,
            protocol,
            active: self.active(),
            established: self.established.load(Relaxed),
            failed: self.failed.load(Relaxed),
            reset: self.reset.load(Relaxed),
            bytes_in: self.bytes_in.load(Relaxed),
            bytes_out: self.bytes_out.load(Relaxed),
        }
    }
}

/// One open flow in a backend's `active` gauge, for as long as it lives.
#[derive(Debug)]
pub(super) struct ActiveGuard(Arc<BackendStats>);

impl ActiveGuard {
    /// Counts a flow in, unless `limit` flows are open already.
    pub(super) fn enter(stats: &Arc<BackendStats>, limit: Option<u32>) -> Option<Self> {
        let before = stats.active.fetch_add(1, Relaxed);
        if limit.is_some_and(|limit| before >= u64::from(limit)) {
            stats.active.fetch_sub(1, Relaxed);
            return None;
        }
        Some(ActiveGuard(Arc::clone(stats)))
    }
}

impl Drop for ActiveGuard {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Relaxed);
    }
}

/// What a frontend turned away.
#[derive(Debug, Default)]
pub(super) struct FrontendStats {
    no_backend: AtomicU64,
    denied: AtomicU64,
    limited: AtomicU64,
}

impl FrontendStats {
    /// A new flow found no backend.
    pub(super) fn no_backend(&self) {
        self.no_backend.fetch_add(1, Relaxed);
    }

    /// A new flow came from an address that may not connect.
    pub(super) fn denied(&self) {
        self.denied.fetch_add(1, Relaxed);
    }

    /// A new flow met a limit.
    pub(super) fn limited(&self) {
        self.limited.fetch_add(1, Relaxed);
    }

    /// The counters at this moment.
    pub(super) fn read(&self, service: ServiceKey, frontend: FrontendKey) -> FrontendCounters {
        FrontendCounters {
            service,
            frontend,
            no_backend: self.no_backend.load(Relaxed),
            denied: self.denied.load(Relaxed),
            limited: self.limited.load(Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guard_holds_the_limit_and_gives_back() {
        let stats = Arc::new(BackendStats::default());
        let first = ActiveGuard::enter(&stats, Some(1)).unwrap();
        assert!(ActiveGuard::enter(&stats, Some(1)).is_none());
        assert_eq!(stats.active(), 1);
        drop(first);
        assert_eq!(stats.active(), 0);
        assert!(ActiveGuard::enter(&stats, Some(1)).is_some());
    }
}
