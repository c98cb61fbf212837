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
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// Longer than any drain, and still in the range of the clock.
const FAR: Duration = Duration::from_secs(10 * 365 * 86_400);

#[derive(Clone, Copy, Debug)]
struct Deadline {
    /// As it was told, Unix milliseconds.
    wall: u64,
    /// The same moment by the steady clock.
    at: Instant,
}

/// What must outlive views: which backend flows belong to. One per backend and frontend.
#[derive(Debug)]
pub(super) struct BackendSlot {
    pub(super) id: BackendId,
    pub(super) stats: Arc<BackendStats>,
    /// UDP sessions leave it at their next datagram: it is down or removed.
    leave: AtomicBool,
    /// When flows left are reset; absent while it does not drain.
    deadline: Mutex<Option<Deadline>>,
}

impl BackendSlot {
    /// A slot for a new backend.
    pub(super) fn new(id: BackendId, stats: Arc<BackendStats>) -> Self {
        BackendSlot { id, stats, leave: AtomicBool::new(false), deadline: Mutex::default() }
    }

    /// Takes over the backend's state; absent means that it is removed. `clock` is the steady clock and the wall clock
    /// (Unix milliseconds) at this moment: from here on a deadline follows the steady one, so that a step of the wall
    /// clock neither ends nor prolongs a drain.
    pub(super) fn set_state(&self, state: Option<BackendState>, clock: (Instant, u64)) {
        self.leave.store(matches!(state, None | Some(BackendState::Down)), Relaxed);
        let wall = match state {
            Some(BackendState::Draining { deadline }) => deadline,
            _ => None,
        };
        let mut held = self.deadline.lock().unwrap_or_else(PoisonError::into_inner);
        // The same word again is no news of the clock.
        if held.map(|d| d.wall) != wall {
            let (now, unix) = clock;
            *held = wall.map(|wall| {
                let left = Duration::from_millis(wall.saturating_sub(unix)).min(FAR);
                Deadline { wall, at: now + left }
            });
        }
    }

    /// Whether a UDP session must leave it.
    pub(super) fn leaves(&self) -> bool {
        self.leave.load(Relaxed)
    }

    /// When flows left are reset, while it drains with a deadline.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.deadline.lock().unwrap_or_else(PoisonError::into_inner).map(|d| d.at)
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
        let mut state = self.scheduling.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.view.load();
        let old: Vec<&BackendId> = before.backends.iter().map(|b| &b.id).collect();
        *state = state.carried(&old, view.backends.iter().map(|b| &b.id));
        self.view.store(Arc::new(view));
        drop(state);
        self.changed.send_modify(|n| *n = n.wrapping_add(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_under_way_follows_no_step_of_the_wall_clock() {
        let name = |text| mesh_control::model::Name::new(text).unwrap();
        let slot = BackendSlot::new(BackendId { instance: name("a"), node: name("n") }, Arc::default());
        let until = |wall| Some(BackendState::Draining { deadline: Some(wall) });
        let start = Instant::now();
        slot.set_state(until(10_000), (start, 4_000));
        assert_eq!(slot.deadline(), Some(start + Duration::from_secs(6)));
        // The clock is set forward by an hour and the same word comes again, as after an audit.
        let later = start + Duration::from_secs(1);
        slot.set_state(until(10_000), (later, 3_605_000));
        assert_eq!(slot.deadline(), Some(start + Duration::from_secs(6)));
        // Another word is news.
        slot.set_state(until(3_607_000), (later, 3_605_000));
        assert_eq!(slot.deadline(), Some(later + Duration::from_secs(2)));
        slot.set_state(Some(BackendState::Active), (later, 0));
        assert_eq!(slot.deadline(), None);
    }
}
