//! Where a new flow would go, and which elements say so.

use super::{
    chain::Pick,
    layout::{Layout, octets},
    names::{AFFINITY, SERVICES, SLOTS},
    realize::{backend_id, realize, service_id, unsupported},
    slots::slots,
    state::State,
};
use crate::{
    dataplane::explain::{Candidate, Explanation, Flow},
    plan::{
        Backend, BackendId, BackendState, Entry, FrontendKey, Listen, Table,
        maglev::{client_hash, slot_of},
    },
    sys::nft::{Data, Nft, concat},
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

/// Whom the kernel remembers for this client.
fn remembered(nft: &mut Nft, layout: &Layout, entry: &Entry, flow: &Flow) -> Option<BackendId> {
    let client = flow.client.filter(|_| entry.frontend.affinity.is_some())?;
    let key = concat(&[&service_id(&entry.frontend.service), &octets(client)]);
    let held = nft.get(&layout.table, AFFINITY, &[key]).ok()?.into_iter().next()?;
    let Some(Data::Bytes(id)) = held.data else { return None };
    entry.backends.iter().find(|b| backend_id(b) == *id).map(|b| b.id.clone())
}

pub(super) fn explain(
    nft: &mut Nft,
    state: &State,
    place: &super::realize::Place,
    flow: &Flow,
) -> Explanation {
    let Some(entry) = find(&state.table, flow).filter(|entry| unsupported(&entry.frontend).is_none()) else {
        let (frontend, service, affinity) = (None, None, None);
        return Explanation { frontend, service, candidates: Vec::new(), affinity, objects: Vec::new() };
    };
    let key = entry.frontend.key;
    let side = &state.sides[usize::from(key.listen.family() == Family::V6)];
    let layout = &side.layout;
    let offset = flow.destination.port().saturating_sub(key.ports.first());
    let allow = &entry.frontend.allow;
    let denied = flow.client.is_some_and(|c| !allow.is_empty() && !allow.iter().any(|n| n.contains(c)));
    let affinity = remembered(nft, layout, entry, flow);
    let bound =
        affinity.as_ref().filter(|id| entry.backends.iter().any(|b| b.id == **id && b.takes_new_flows()));
    let (pick, slots) = slots(entry).unwrap_or((Pick::Random, Vec::new()));
    let sure = match (pick, flow.client) {
        (Pick::Hash, Some(client)) => slots.get(slot_of(client_hash(client), slots.len())).copied(),
        _ => None,
    };
    let share = |index: usize, backend: &Backend| -> f64 {
        let number = |n: usize| f64::from(u32::try_from(n).unwrap_or(u32::MAX));
        match (denied, bound, sure) {
            (true, ..) => 0.0,
            (_, Some(id), _) => f64::from(u8::from(backend.id == *id)),
            (_, _, Some(sure)) => f64::from(u8::from(index == sure)),
            _ if slots.is_empty() => 0.0,
            _ => number(slots.iter().filter(|i| **i == index).count()) / number(slots.len()),
        }
    };
    let candidates = entry.backends.iter().enumerate().map(|(index, backend)| Candidate {
        backend: backend.id.clone(),
        address: backend.socket(offset),
        probability: share(index, backend),
        excluded: reason(backend, denied),
    });
    let counter = side.counters.get(&key).copied().unwrap_or(0);
    let target = realize(layout, place, entry, counter).target;
    let family = if layout.family == Family::V4 { "ip" } else { "ip6" };
    let address = address(&key.listen);
    let (protocol, port) = (key.protocol, flow.destination.port());
    let name = &layout.table.name;
    let mut objects = vec![
        format!("{family} {name} map {SERVICES} {{ {address} . {protocol} . {port} : goto {target} }}"),
        format!("{family} {name} chain {target}"),
    ];
    if !slots.is_empty() {
        objects.push(format!("{family} {name} map {SLOTS}, {} elements", slots.len()));
    }
    Explanation {
        frontend: Some(key),
        service: Some(entry.frontend.service.clone()),
        candidates: candidates.collect(),
        affinity,
        objects,
    }
}
