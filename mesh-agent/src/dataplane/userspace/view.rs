//! A frontend as workers see it: an immutable view, swapped whole when the frontend changes.

use super::{
    pick::PickState,
    service::ServiceState,
    stats::{BackendStats, FrontendStats},
};
use crate::plan::{
    Backend, BackendId, BackendState, Frontend, FrontendKey,
    maglev::{MaglevTable, backend_hash, table_size},
};
use arc_swap::ArcSwap;
use mesh_control::model::{NoBackend, Protocol, Scheduler};
use std::{
    net::IpAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};
use tokio::sync::watch;

/// What must outlive views: which backend flows belong to. One per backend and frontend.
#[derive(Debug)]
pub(super) struct BackendSlot {
    pub(super) id: BackendId,
    pub(super) stats: Arc<BackendStats>,
    /// UDP sessions leave it at their next datagram: it is down or removed.
    leave: AtomicBool,
    /// Unix milliseconds at which flows left are reset; `u64::MAX` while it does not drain.
    deadline: AtomicU64,
}

impl BackendSlot {
    /// A slot for a new backend.
    pub(super) fn new(id: BackendId, stats: Arc<BackendStats>) -> Self {
        BackendSlot { id, stats, leave: AtomicBool::new(false), deadline: AtomicU64::new(u64::MAX) }
    }

    /// Takes over the backend's state; absent means that it is removed.
    pub(super) fn set_state(&self, state: Option<BackendState>) {
        self.leave.store(matches!(state, None | Some(BackendState::Down)), Relaxed);
        let deadline = match state {
            Some(BackendState::Draining { deadline: Some(deadline) }) => deadline,
            _ => u64::MAX,
        };
        self.deadline.store(deadline, Relaxed);
    }

    /// Whether a UDP session must leave it.
    pub(super) fn leaves(&self) -> bool {
        self.leave.load(Relaxed)
    }

    /// When flows left are reset (Unix milliseconds), while it drains with a deadline.
    pub(super) fn deadline(&self) -> Option<u64> {
        Some(self.deadline.load(Relaxed)).filter(|deadline| *deadline != u64::MAX)
    }
}

/// What the kernel does with packets of new flows on a frontend's sockets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Gate {
    /// They come in.
    Open,
    /// Refused: TCP RST, ICMP port unreachable.
    Refuse,
    /// Not answered.
    Silent,
}

/// Policy and backends of a frontend at one moment.
#[derive(Debug)]
pub(super) struct View {
    pub(super) frontend: Arc<Frontend>,
    pub(super) service: Arc<ServiceState>,
    pub(super) stats: Arc<FrontendStats>,
    /// Sorted by id.
    pub(super) backends: Arc<[Backend]>,
    /// One for each of `backends`.
    pub(super) slots: Vec<Arc<BackendSlot>>,
    /// Over `backends`; those that take no new flow have no slot in it.
    pub(super) maglev: Option<MaglevTable>,
    /// Whether any backend takes new flows.
    pub(super) ready: bool,
}

impl View {
    /// A view of `backends`, sorted by id, with their slots.
    pub(super) fn new(
        frontend: Arc<Frontend>,
        service: Arc<ServiceState>,
        stats: Arc<FrontendStats>,
        backends: Vec<(Backend, Arc<BackendSlot>)>,
    ) -> Self {
        let (backends, slots): (Vec<_>, Vec<_>) = backends.into_iter().unzip();
        let maglev = (frontend.scheduler == Scheduler::Maglev).then(|| {
            let weight = |b: &Backend| if b.takes_new_flows() { b.weight } else { 0 };
            let entries: Vec<_> = backends.iter().map(|b| (backend_hash(&b.id), weight(b))).collect();
            MaglevTable::build(&entries, table_size(entries.len()))
        });
        let ready = backends.iter().any(Backend::takes_new_flows);
        View { frontend, service, stats, backends: backends.into(), slots, maglev, ready }
    }

    /// The backends with their slots, as [`View::new`] takes them.
    pub(super) fn parts(&self) -> Vec<(Backend, Arc<BackendSlot>)> {
        self.backends.iter().cloned().zip(self.slots.iter().cloned()).collect()
    }

    /// Where a backend stands in the lists.
    pub(super) fn position(&self, id: &BackendId) -> Option<usize> {
        self.backends.binary_search_by(|b| b.id.cmp(id)).ok()
    }

    /// Whether a client may connect.
    pub(super) fn allows(&self, client: IpAddr) -> bool {
        let allow = &self.frontend.allow;
        allow.is_empty() || allow.iter().any(|network| network.contains(client))
    }

    /// What the kernel should do with new flows. UDP sockets stay open while a backend may have sessions left,
    /// because old and new flows share them.
    pub(super) fn gate(&self) -> Gate {
        let shared = self.frontend.key.protocol == Protocol::Udp
            && self.backends.iter().any(|b| b.state != BackendState::Down);
        if self.ready || shared {
            return Gate::Open;
        }
        match self.frontend.no_backend {
            NoBackend::Reject => Gate::Refuse,
            NoBackend::Drop => Gate::Silent,
            NoBackend::Hold => Gate::Open,
        }
    }
}

/// A frontend that is there.
#[derive(Debug)]
pub(super) struct FrontendState {
    /// Tells it from an earlier one with the same key.
    pub(super) id: u64,
    pub(super) key: FrontendKey,
    pub(super) view: ArcSwap<View>,
    pub(super) scheduling: Mutex<PickState>,
    /// Bumped after every change of the view; who waits for a backend watches it.
    pub(super) changed: watch::Sender<u64>,
}

impl FrontendState {
    /// A frontend with its first view.
    pub(super) fn new(id: u64, view: View) -> Self {
        FrontendState {
            id,
            key: view.frontend.key,
            view: ArcSwap::from_pointee(view),
            scheduling: Mutex::default(),
            changed: watch::Sender::new(0),
        }
    }

    /// Swaps the view; the scheduler's memory follows the backends that stay.
    pub(super) fn publish(&self, view: View) {
        let mut state = self.scheduling.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let before = self.view.load();
        let old: Vec<&BackendId> = before.backends.iter().map(|b| &b.id).collect();
        *state = state.carried(&old, view.backends.iter().map(|b| &b.id));
        self.view.store(Arc::new(view));
        drop(state);
        self.changed.send_modify(|n| *n = n.wrapping_add(1));
    }
}
