//! Where a new flow would go, without changing anything.

use super::{
    choose::loads,
    pick::chances,
    registry::{Held, Registry},
    view::Gate,
};
use crate::{
    dataplane::{Candidate, Explanation, Flow},
    plan::{Backend, BackendState, FrontendKey, Listen, maglev::client_hash},
};
use mesh_control::model::{Family, Protocol};
use std::{net::IpAddr, os::fd::AsRawFd, time::Instant};

/// The frontend that a flow meets: the kernel prefers a socket bound to the very address. Whether an address is one
/// of this node's is not asked: a flow to a foreign address would not come here at all.
fn find<'a>(registry: &'a Registry, flow: &Flow) -> Option<&'a Held> {
    let (ip, port) = (flow.destination.ip(), flow.destination.port());
    let exact = (flow.destination, flow.protocol);
    if let Some(found) = registry.ports.get(&exact) {
        return registry.frontends.get(&found.owner);
    }
    let covers = |key: &FrontendKey| {
        key.protocol == flow.protocol
            && key.ports.contains(port)
            && key.listen == Listen::AnyLocal(Family::of(&ip))
    };
    registry.frontends.values().find(|held| covers(&held.frontend.key))
}

fn reason(backend: &Backend, denied: bool) -> String {
    match backend.state {
        BackendState::Draining { .. } => "draining".into(),
        BackendState::Down => "down".into(),
        BackendState::Active if backend.weight == 0 => "weight 0".into(),
        BackendState::Active if denied => "the client may not connect".into(),
        BackendState::Active => "at its connection limit".into(),
    }
}

/// Explains a flow.
pub(super) fn explain(registry: &Registry, flow: &Flow, now: Instant) -> Explanation {
    let Some(held) = find(registry, flow) else {
        return Explanation {
            frontend: None,
            service: None,
            candidates: Vec::new(),
            affinity: None,
            objects: Vec::new(),
        };
    };
    let view = held.state.view.load();
    let mut loads = loads(&view, &[]);
    let denied = flow.client.is_some_and(|client: IpAddr| !view.allows(client));
    if denied {
        loads.iter_mut().for_each(|load| load.eligible = false);
    }
    let affinity = match (view.frontend.affinity, flow.client) {
        (Some(affinity), Some(client)) => view
            .service
            .affinity()
            .get(client, now, affinity.timeout)
            .filter(|id| view.position(id).is_some())
            .cloned(),
        _ => None,
    };
    let bound = affinity.as_ref().and_then(|id| view.position(id)).filter(|at| loads[*at].eligible);
    let probabilities = match bound {
        Some(at) => (0..loads.len()).map(|i| if i == at { 1.0 } else { 0.0 }).collect(),
        None => chances(view.frontend.scheduler, &loads, view.maglev.as_ref(), flow.client.map(client_hash)),
    };
    let offset = flow.destination.port().saturating_sub(held.frontend.key.ports.first());
    let candidates = view
        .backends
        .iter()
        .zip(&loads)
        .zip(probabilities)
        .map(|((backend, load), probability)| Candidate {
            backend: backend.id.clone(),
            address: backend.socket(offset),
            probability,
            excluded: (!load.eligible).then(|| reason(backend, denied)),
        })
        .collect();
    Explanation {
        frontend: Some(held.frontend.key),
        service: Some(held.frontend.service.clone()),
        candidates,
        affinity,
        objects: objects(registry, held, flow, view.gate()),
    }
}

/// The listening sockets, named as `ss -e` shows them.
fn objects(registry: &Registry, held: &Held, flow: &Flow, gate: Gate) -> Vec<String> {
    let how = match (gate, flow.protocol) {
        (Gate::Open, Protocol::Tcp) => "listening",
        (Gate::Open, Protocol::Udp) => "bound",
        (Gate::Refuse, Protocol::Tcp) => "bound and not listening, so that the kernel refuses",
        (Gate::Refuse, Protocol::Udp) => "connected to itself, so that the kernel refuses",
        (Gate::Silent, _) => "not answering",
    };
    registry
        .sockets(held.frontend.key)
        .filter(|socket| socket.address.port() == flow.destination.port())
        .map(|socket| {
            let inode = rustix::fs::fstat(&socket.socket).map_or(0, |stat| stat.st_ino);
            let fd = socket.as_raw_fd();
            format!("{} socket {} (fd {fd}, inode {inode}), {how}", flow.protocol, socket.address)
        })
        .collect()
}
