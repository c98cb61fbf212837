//! Where a new flow would go, and which entries of which maps say so.

use super::{
    held::Held,
    maps::Maps,
    realize::{picked, service_hash, wide},
    state::State,
};
use crate::{
    dataplane::explain::{Candidate, Explanation, Flow},
    plan::{
        Backend, BackendId, BackendState, Entry, FrontendKey, Listen,
        maglev::{client_hash, slot_of},
    },
    sys::clock,
};
use mesh_control::model::{Family, PortRange, Scheduler};
use mesh_ebpf::common::StickyKey;
use std::net::IpAddr;

/// The frontend that a flow meets: one on the very address before one on every local address.
fn find<'a>(state: &'a State, flow: &Flow) -> Option<&'a Entry> {
    let (ip, port) = (flow.destination.ip(), flow.destination.port());
    let single = PortRange::single(port).ok()?;
    let places = [Listen::Vip(ip), Listen::Address(ip), Listen::AnyLocal(Family::of(&ip))];
    places.into_iter().find_map(|listen| {
        let key = FrontendKey { listen, ports: single, protocol: flow.protocol };
        let within = |key: &FrontendKey| {
            key.listen == listen && key.protocol == flow.protocol && key.ports.contains(port)
        };
        state.table.get(&key).or_else(|| state.table.values().find(|entry| within(&entry.frontend.key)))
    })
}

/// Whom the kernel remembers for this client.
fn remembered(maps: &Maps, entry: &Entry, held: &Held, client: IpAddr) -> Option<BackendId> {
    entry.frontend.affinity?;
    let key = StickyKey { service: service_hash(&entry.frontend.service), client: wide(client) };
    let known = maps.affinity.get(&key).ok()??;
    let fresh = known.until > clock::coarse().0;
    held.backends.iter().find(|(_, backend)| fresh && backend.value.id == known.id).map(|(id, _)| id.clone())
}

/// What every backend's chance depends on.
struct Odds<'a> {
    entry: &'a Entry,
    denied: bool,
    bound: Option<&'a BackendId>,
    slots: Vec<usize>,
    /// Open flows of each backend.
    open: Vec<u64>,
    client: Option<IpAddr>,
}

impl Odds<'_> {
    fn full(&self, index: usize) -> bool {
        self.entry.frontend.max_connections.is_some_and(|most| self.open[index] >= u64::from(most))
    }

    fn reason(&self, index: usize, backend: &Backend) -> Option<String> {
        Some(match backend.state {
            BackendState::Draining { .. } => "draining".into(),
            BackendState::Down => "down".into(),
            BackendState::Active if backend.weight == 0 => "weight 0".into(),
            BackendState::Active if self.denied => "the client may not connect".into(),
            BackendState::Active if self.full(index) => "at its connection limit".into(),
            BackendState::Active => return None,
        })
    }

    /// Open flows with the one to come for its weight: less is `lc`'s choice.
    fn lightest(&self, one: usize, other: usize) -> std::cmp::Ordering {
        let weight = |index: usize| u64::from(self.entry.backends[index].weight);
        ((self.open[one] + 1) * weight(other)).cmp(&((self.open[other] + 1) * weight(one)))
    }

    fn chance(&self, index: usize, backend: &Backend) -> f64 {
        let number = |n: usize| f64::from(u32::try_from(n).unwrap_or(u32::MAX));
        if self.denied || !backend.takes_new_flows() {
            return 0.0;
        }
        if let Some(bound) = self.bound {
            return f64::from(u8::from(backend.id == *bound));
        }
        let open: Vec<usize> = self.slots.iter().copied().filter(|slot| !self.full(*slot)).collect();
        match (self.entry.frontend.scheduler, self.client) {
            (Scheduler::Maglev, Some(client)) => {
                let slot = self.slots.get(slot_of(client_hash(client), self.slots.len()));
                f64::from(u8::from(slot == Some(&index)))
            }
            (Scheduler::Lc, _) => {
                let Some(least) = open.iter().copied().min_by(|a, b| self.lightest(*a, *b)) else {
                    return 0.0;
                };
                let alike = open.iter().filter(|slot| self.lightest(**slot, least).is_eq());
                if alike.clone().any(|slot| *slot == index) { 1.0 / number(alike.count()) } else { 0.0 }
            }
            _ if open.is_empty() => 0.0,
            _ => number(open.iter().filter(|slot| **slot == index).count()) / number(open.len()),
        }
    }
}

pub(super) fn explain(maps: Option<&Maps>, state: &State, flow: &Flow) -> Explanation {
    let found = find(state, flow).and_then(|entry| Some((entry, state.held.get(&entry.frontend.key)?)));
    let (Some((entry, held)), Some(maps)) = (found, maps) else {
        let (frontend, service, affinity) = (None, None, None);
        return Explanation { frontend, service, candidates: Vec::new(), affinity, objects: Vec::new() };
    };
    let key = entry.frontend.key;
    let offset = flow.destination.port().saturating_sub(key.ports.first());
    let allow = &entry.frontend.allow;
    let affinity = flow.client.and_then(|client| remembered(maps, entry, held, client));
    let open = |backend: &Backend| {
        let index = held.backends.get(&backend.id).map_or(u32::MAX, |held| held.index);
        maps.backends.get(index).and_then(|held| u64::try_from(held.active).ok()).unwrap_or(0)
    };
    let bound =
        affinity.as_ref().filter(|id| entry.backends.iter().any(|b| b.id == **id && b.takes_new_flows()));
    let odds = Odds {
        entry,
        denied: flow.client.is_some_and(|c| !allow.is_empty() && !allow.iter().any(|n| n.contains(c))),
        bound,
        slots: picked(entry),
        open: entry.backends.iter().map(open).collect(),
        client: flow.client,
    };
    let candidates = entry.backends.iter().enumerate().map(|(index, backend)| Candidate {
        backend: backend.id.clone(),
        address: backend.socket(offset),
        probability: odds.chance(index, backend),
        excluded: odds.reason(index, backend),
    });
    let candidates = candidates.collect();
    let family = if key.listen.family() == Family::V4 { 4 } else { 6 };
    let address = match key.listen {
        Listen::Vip(address) | Listen::Address(address) => address.to_string(),
        Listen::AnyLocal(Family::V4) => "0.0.0.0".into(),
        Listen::AnyLocal(Family::V6) => "::".into(),
    };
    let (protocol, port, service) = (key.protocol, flow.destination.port(), held.service);
    let mut objects = vec![
        format!("map services{family} {{ {address} . {protocol} . {port} : frontend {} }}", service.frontend),
        format!("map frontends {}", service.frontend),
    ];
    if service.slots > 0 {
        objects.push(format!("map slots {}..{}", service.base, service.base + service.slots));
    }
    let at = |backend: &Backend| held.backends.get(&backend.id).map(|held| held.index.to_string());
    let places: Vec<String> = entry.backends.iter().filter_map(at).take(8).collect();
    if !places.is_empty() {
        objects.push(format!("map backends {}", places.join(", ")));
    }
    Explanation {
        frontend: Some(key),
        service: Some(entry.frontend.service.clone()),
        candidates,
        affinity,
        objects,
    }
}
