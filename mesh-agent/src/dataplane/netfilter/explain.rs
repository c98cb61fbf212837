//! What flows meet. Pure.

use crate::{
    dataplane::explain::Flow,
    plan::{Backend, BackendState, Entry, FrontendKey, Listen, Table},
};
use mesh_control::model::{Family, PortRange};

/// The frontend that a flow meets: one on the very address before one on every local address.
pub(in crate::dataplane) fn find<'a>(table: &'a Table, flow: &Flow) -> Option<&'a Entry> {
    let (ip, port) = (flow.destination.ip(), flow.destination.port());
    let single = PortRange::single(port).ok()?;
    let places = [Listen::Vip(ip), Listen::Address(ip), Listen::AnyLocal(Family::of(&ip))];
    places.into_iter().find_map(|listen| {
        let key = FrontendKey { listen, ports: single, protocol: flow.protocol };
        let within = |key: &FrontendKey| {
            key.listen == listen && key.protocol == flow.protocol && key.ports.contains(port)
        };
        table.get(&key).or_else(|| {
            let range = table.values().find(|e| within(&e.frontend.key));
            range.filter(|e| e.frontend.key.ports.count() > 1)
        })
    })
}

/// The address of a frontend as `nft` writes it in our sets.
pub(in crate::dataplane) fn address(listen: &Listen) -> String {
    match listen {
        Listen::Vip(a) | Listen::Address(a) => a.to_string(),
        Listen::AnyLocal(Family::V4) => "0.0.0.0".into(),
        Listen::AnyLocal(Family::V6) => "::".into(),
    }
}

/// Why a backend gets no new flow.
pub(in crate::dataplane) fn reason(backend: &Backend, denied: bool) -> Option<String> {
    Some(match backend.state {
        BackendState::Draining { .. } => "draining".into(),
        BackendState::Down => "down".into(),
        BackendState::Active if backend.weight == 0 => "weight 0".into(),
        BackendState::Active if denied => "the client may not connect".into(),
        BackendState::Active => return None,
    })
}
