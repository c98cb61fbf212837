//! Where a new flow would go, and which elements say so.

use super::{
    ids::{self, SetId},
    realize::{service_id, unsupported},
    shape::Pick,
    slots::slots,
    state::State,
};
use crate::{
    dataplane::{
        explain::{Candidate, Explanation, Flow},
        netfilter::{
            elements::{Place, backend_id},
            explain::{address, find, reason},
            layout::{Layout, octets},
        },
    },
    plan::{
        Backend, BackendId, Entry, Listen,
        maglev::{client_hash, slot_of},
    },
    sys::nft::{Data, Nft, concat},
};
use mesh_control::model::Family;

/// Whom the kernel remembers for this client.
fn remembered(nft: &mut Nft, layout: &Layout, entry: &Entry, flow: &Flow) -> Option<BackendId> {
    let client = flow.client.filter(|_| entry.frontend.affinity.is_some())?;
    let key = concat(&[&service_id(&entry.frontend.service), &octets(client)]);
    let held = nft.get(&layout.table, &SetId::Affinity.to_string(), &[key]).ok()?.into_iter().next()?;
    let Some(Data::Bytes(id)) = held.data else { return None };
    entry.backends.iter().find(|b| backend_id(b) == *id).map(|b| b.id.clone())
}

pub(super) fn explain(nft: &mut Nft, state: &State, place: &Place, flow: &Flow) -> Explanation {
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
    let target = side.realize_held(place, entry).target;
    let family = if layout.family == Family::V4 { "ip" } else { "ip6" };
    let address = address(&key.listen);
    let (protocol, port) = (key.protocol, flow.destination.port());
    let name = &layout.table.name;
    let shape = u32::from_ne_bytes(target.id());
    let shapes = SetId::Shapes { local: matches!(key.listen, Listen::AnyLocal(_)) };
    let mut objects = vec![
        format!("{family} {name} map {} {{ {address} . {protocol} . {port} : {shape:#x} }}", SetId::Services),
        format!("{family} {name} map {shapes} {{ {shape:#x} : goto {target} }}"),
        format!("{family} {name} chain {target}"),
    ];
    let maps = target.shape().into_iter().flat_map(ids::of);
    objects.extend(maps.map(|map| format!("{family} {name} map {map}")));
    Explanation {
        frontend: Some(key),
        service: Some(entry.frontend.service.clone()),
        candidates: candidates.collect(),
        affinity,
        objects,
    }
}
