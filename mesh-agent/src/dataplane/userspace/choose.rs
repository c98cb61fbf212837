//! Choosing a backend for a new flow: affinity first, then the scheduler, within limits.

use super::{
    pick::Load,
    stats::ActiveGuard,
    view::{BackendSlot, FrontendState, View},
};
use crate::plan::{BackendId, maglev::client_hash};
use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, PoisonError},
    time::Instant,
};

/// A backend for a flow.
#[derive(Debug)]
pub(super) struct Chosen {
    pub(super) slot: Arc<BackendSlot>,
    pub(super) address: SocketAddr,
    /// Keeps the flow in the backend's gauge.
    pub(super) guard: ActiveGuard,
}

/// Why there is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum NoChoice {
    /// No backend takes new flows, or all were tried.
    NoBackend,
    /// Those that do have as many flows as they may.
    Limited,
}

/// A flow that looks for a backend.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seeker<'a> {
    pub(super) client: IpAddr,
    /// How far the port it dialled lies above the frontend's first.
    pub(super) port_offset: u16,
    /// Backends that failed it.
    pub(super) tried: &'a [BackendId],
    pub(super) now: Instant,
    pub(super) random: u64,
}

/// What the scheduler sees of a view; `tried` backends are left out.
pub(super) fn loads(view: &View, tried: &[BackendId]) -> Vec<Load> {
    let limit = view.frontend.max_connections.map_or(u64::MAX, u64::from);
    view.backends
        .iter()
        .zip(&view.slots)
        .map(|(backend, slot)| {
            let active = slot.stats.active();
            let eligible = backend.takes_new_flows() && active < limit && !tried.contains(&backend.id);
            Load { weight: backend.weight, active, eligible }
        })
        .collect()
}

/// Picks a backend and counts the flow in.
///
/// # Errors
/// [`NoChoice`] when there is none.
pub(super) fn choose(frontend: &FrontendState, view: &View, seeker: Seeker<'_>) -> Result<Chosen, NoChoice> {
    if !view.ready {
        return Err(NoChoice::NoBackend);
    }
    let Some(affinity) = view.frontend.affinity else {
        return schedule(frontend, view, seeker);
    };
    // Held over the choice, so that two first flows of a client at once go to one backend.
    let mut table = view.service.affinity();
    let known = table.get(seeker.client, seeker.now, affinity.timeout).and_then(|id| view.position(id));
    let chosen = match known.and_then(|at| enter(view, at, seeker)) {
        Some(chosen) => chosen,
        None => schedule(frontend, view, seeker)?,
    };
    table.put(seeker.client, &chosen.slot.id, seeker.now);
    Ok(chosen)
}

/// Counts the flow in at the backend of that position, if it may go there.
fn enter(view: &View, at: usize, seeker: Seeker<'_>) -> Option<Chosen> {
    let (backend, slot) = (&view.backends[at], &view.slots[at]);
    if !backend.takes_new_flows() || seeker.tried.contains(&backend.id) {
        return None;
    }
    let guard = ActiveGuard::enter(&slot.stats, view.frontend.max_connections)?;
    Some(Chosen { slot: Arc::clone(slot), address: backend.socket(seeker.port_offset), guard })
}

fn schedule(frontend: &FrontendState, view: &View, seeker: Seeker<'_>) -> Result<Chosen, NoChoice> {
    let mut loads = loads(view, seeker.tried);
    let hash = client_hash(seeker.client);
    // Another worker may take the last place between the look and the entry; then look again without that backend.
    loop {
        let picked = {
            let mut state = frontend.scheduling.lock().unwrap_or_else(PoisonError::into_inner);
            state.pick(view.frontend.scheduler, &loads, view.maglev.as_ref(), hash, seeker.random)
        };
        let Some(at) = picked else {
            let full = view.backends.iter().any(|b| b.takes_new_flows() && !seeker.tried.contains(&b.id));
            return Err(if full { NoChoice::Limited } else { NoChoice::NoBackend });
        };
        match enter(view, at, seeker) {
            Some(chosen) => return Ok(chosen),
            None => loads[at].eligible = false,
        }
    }
}
