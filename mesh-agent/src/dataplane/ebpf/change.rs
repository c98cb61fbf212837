//! What differs in the maps between two states of a frontend. Pure.

use super::{
    held::{Held, HeldBackend},
    note::{self, NameBytes},
    realize::{address, first, narrow, number},
};
use crate::plan::{BackendId, FrontendKey};
use ipnetwork::IpNetwork;
use mesh_control::model::{Family, Protocol, ServiceKey};
use mesh_ebpf::{
    common::{self as kernel, AllowKey, MemberKey, V4, V6, direct, state},
    notes::{AllowNote, AllowPlace, BackendNote, FrontendNote},
};
use std::{
    collections::{BTreeMap, HashSet},
    hash::Hash,
    net::{IpAddr, SocketAddr},
};

/// Entries of a map to be written and to be deleted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Entries<K, V> {
    pub(super) put: Vec<(K, V)>,
    pub(super) out: Vec<K>,
}

impl<K, V> Default for Entries<K, V> {
    fn default() -> Self {
        Entries { put: Vec::new(), out: Vec::new() }
    }
}

impl<K: Copy + Eq + Hash, V> Entries<K, V> {
    /// What is written is not deleted: a key may have gone from one frontend to another.
    fn tidy(&mut self) {
        if !self.put.is_empty() && !self.out.is_empty() {
            let put: HashSet<K> = self.put.iter().map(|(key, _)| *key).collect();
            self.out.retain(|key| !put.contains(key));
        }
    }
}

/// Flows that have to end, of the time when a place had this generation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Cut {
    pub(super) index: u32,
    pub(super) generation: u32,
    pub(super) service: ServiceKey,
    pub(super) backend: BackendId,
    pub(super) protocol: Protocol,
    /// Where it is, and at how many ports from the first on.
    pub(super) remote: SocketAddr,
    pub(super) ports: u32,
}

impl Cut {
    /// Whether it is reached at that address.
    pub(super) fn is_at(&self, remote: SocketAddr) -> bool {
        let offset = remote.port().checked_sub(self.remote.port());
        remote.ip() == self.remote.ip() && offset.is_some_and(|offset| u32::from(offset) < self.ports)
    }
}

/// A change of the maps. What leads to new things is written after them; what was led to goes at the end.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Change {
    pub(super) names: Entries<u64, NameBytes>,
    pub(super) vips: Entries<IpAddr, u32>,
    pub(super) services4: Entries<kernel::ServiceKey<V4>, kernel::Service>,
    pub(super) services6: Entries<kernel::ServiceKey<V6>, kernel::Service>,
    pub(super) frontends: Vec<(u32, kernel::Frontend)>,
    pub(super) frontend_notes: Entries<u32, FrontendNote>,
    pub(super) slots: Vec<(u32, u32)>,
    /// Backends that take new flows; slots may lead there.
    pub(super) taking: Vec<(u32, kernel::Backend)>,
    /// Backends that take none; no slot leads there any more.
    pub(super) resting: Vec<(u32, kernel::Backend)>,
    pub(super) backend_notes: Entries<u32, BackendNote>,
    pub(super) members: Entries<MemberKey, u32>,
    pub(super) allow4: Entries<AllowKey<V4>, u8>,
    pub(super) allow6: Entries<AllowKey<V6>, u8>,
    pub(super) allow_notes: Entries<AllowPlace, AllowNote>,
    /// Places whose counts begin anew.
    pub(super) new_frontends: Vec<u32>,
    pub(super) new_backends: Vec<u32>,
    /// Places that nobody has any more; what was counted there is kept by name.
    pub(super) freed_frontends: Vec<u32>,
    pub(super) freed_backends: Vec<u32>,
    pub(super) gone: Vec<(u32, ServiceKey, BackendId, Protocol)>,
    /// Flows that have to end.
    pub(super) cuts: Vec<Cut>,
}

/// The keys that a frontend is found by, with its value for each.
pub(super) enum Ports {
    V4(Vec<(kernel::ServiceKey<V4>, kernel::Service)>),
    V6(Vec<(kernel::ServiceKey<V6>, kernel::Service)>),
}

pub(super) fn ports(key: &FrontendKey, service: kernel::Service) -> Ports {
    let (wide, protocol) = (address(key.listen), number(key.protocol));
    let each = key
        .ports
        .iter()
        .zip(0_u16..)
        .map(|(port, offset)| (port.to_be(), kernel::Service { offset, ..service }));
    match key.listen.family() {
        Family::V4 => Ports::V4(
            each.map(|(port, service)| {
                (kernel::ServiceKey { address: first(wide), port, protocol, pad: 0 }, service)
            })
            .collect(),
        ),
        Family::V6 => Ports::V6(
            each.map(|(port, service)| {
                (kernel::ServiceKey { address: wide, port, protocol, pad: 0 }, service)
            })
            .collect(),
        ),
    }
}

/// Who may connect, as far as a list says so in that family.
pub(super) fn allowed<A>(
    index: u32,
    list: &[IpNetwork],
    address: impl Fn(IpAddr) -> Option<A>,
) -> impl Iterator<Item = (AllowKey<A>, u8)> {
    list.iter().filter_map(move |network| {
        let prefix = 32 + u32::from(network.prefix());
        Some((AllowKey { prefix, frontend: index, address: address(network.network())? }, 1))
    })
}

/// The bytes of an IPv4 address.
pub(super) fn v4(address: IpAddr) -> Option<V4> {
    if let IpAddr::V4(address) = address { Some(address.octets()) } else { None }
}

/// The bytes of an IPv6 address.
pub(super) fn v6(address: IpAddr) -> Option<V6> {
    if let IpAddr::V6(address) = address { Some(address.octets()) } else { None }
}

/// A list of those who may connect, as it was written.
pub(super) fn allow_notes(index: u32, list: &[IpNetwork]) -> impl Iterator<Item = (AllowPlace, AllowNote)> {
    let place = move |at| AllowPlace { frontend: index, at };
    list.iter().zip(0_u32..).map(move |(network, at)| (place(at), note::of_allowed(network)))
}

/// The members of a frontend that has affinity, and those of this node of one that others name them of.
pub(super) fn members(held: &Held) -> impl Iterator<Item = (MemberKey, u32)> {
    let sticky = held.service.flags & kernel::flag::STICKY != 0;
    let frontend = held.index();
    let all = held.backends.values().filter(move |_| sticky);
    all.map(move |b| (MemberKey { id: b.value.id, frontend, short: 0 }, b.index)).chain(tokens(held))
}

/// The members of this node, as others name them.
pub(super) fn tokens(held: &Held) -> impl Iterator<Item = (MemberKey, u32)> {
    let (named, frontend) = (held.direct, held.index());
    let elsewhere = state::REMOTE | state::MASQUERADE;
    let own = held.backends.values().filter(move |b| named && b.value.state & elsewhere == 0);
    own.map(move |b| (MemberKey { id: direct::token(b.value.id).into(), frontend, short: 1 }, b.index))
}

/// Adds what only `new` has to `entries`, and takes out what only `old` has.
fn differ<K: Copy + Eq + Hash + Ord, V: Copy + PartialEq>(
    entries: &mut Entries<K, V>,
    old: impl Iterator<Item = (K, V)>,
    new: impl Iterator<Item = (K, V)>,
) {
    let (mut before, after): (BTreeMap<K, V>, BTreeMap<K, V>) = (old.collect(), new.collect());
    for (key, value) in after {
        if before.remove(&key) != Some(value) {
            entries.put.push((key, value));
        }
    }
    entries.out.extend(before.into_keys());
}

impl Change {
    /// Brings a frontend from `old` to `new`.
    pub(super) fn differ(
        &mut self,
        key: FrontendKey,
        service: &ServiceKey,
        old: Option<&Held>,
        new: Option<&Held>,
    ) {
        self.found(&key, old, new);
        self.policy(old, new);
        self.backends(&key, service, old, new);
        match (old, new) {
            (None, Some(new)) => self.new_frontends.push(new.index()),
            (Some(old), None) => self.freed_frontends.push(old.index()),
            _ => {}
        }
    }

    /// The keys it is found by, and its slots.
    fn found(&mut self, key: &FrontendKey, old: Option<&Held>, new: Option<&Held>) {
        if old.map(|old| old.service) != new.map(|new| new.service) {
            let service = new.or(old).map(|held| held.service).unwrap_or_default();
            match (ports(key, service), new) {
                (Ports::V4(all), Some(_)) => self.services4.put.extend(all),
                (Ports::V6(all), Some(_)) => self.services6.put.extend(all),
                (Ports::V4(all), None) => self.services4.out.extend(all.into_iter().map(|(key, _)| key)),
                (Ports::V6(all), None) => self.services6.out.extend(all.into_iter().map(|(key, _)| key)),
            }
        }
        let Some(new) = new else { return };
        let before = old.filter(|old| old.service.base == new.service.base).map_or(&[][..], |old| &old.slots);
        let changed = new.slots.iter().zip(0_u32..).enumerate();
        self.slots.extend(
            changed
                .filter(|(at, (backend, _))| before.get(*at) != Some(*backend))
                .map(|(_, (backend, offset))| (new.service.base + offset, *backend)),
        );
    }

    /// Its policy, and who may connect.
    fn policy(&mut self, old: Option<&Held>, new: Option<&Held>) {
        let index = new.or(old).map_or(0, Held::index);
        if let Some(new) = new {
            if old.is_none_or(|old| old.policy != new.policy) {
                self.frontends.push((index, new.policy));
            }
            if old.is_none_or(|old| old.note != new.note) {
                self.frontend_notes.put.push((index, new.note));
            }
        } else {
            self.frontend_notes.out.push(index);
        }
        let list = |held: Option<&Held>| held.map_or(Vec::new(), |held| held.allow.clone());
        let (before, after) = (list(old), list(new));
        if before != after {
            differ(&mut self.allow4, allowed(index, &before, v4), allowed(index, &after, v4));
            differ(&mut self.allow6, allowed(index, &before, v6), allowed(index, &after, v6));
            differ(&mut self.allow_notes, allow_notes(index, &before), allow_notes(index, &after));
        }
    }

    /// Its backends, and what becomes of their flows.
    fn backends(&mut self, key: &FrontendKey, service: &ServiceKey, old: Option<&Held>, new: Option<&Held>) {
        let family = key.listen.family();
        let cut = |id: &BackendId, held: &HeldBackend| Cut {
            index: held.index,
            generation: held.value.generation,
            service: service.clone(),
            backend: id.clone(),
            protocol: key.protocol,
            remote: SocketAddr::new(narrow(held.value.address, family), held.value.port),
            ports: key.ports.count(),
        };
        for (id, backend) in new.into_iter().flat_map(|new| &new.backends) {
            let before = old.and_then(|old| old.backends.get(id));
            if before == Some(backend) {
                continue;
            }
            let keeps = |held: &HeldBackend| held.value.state & state::KEEPS != 0;
            let same = before.is_some_and(|before| before.value.generation == backend.value.generation);
            if let Some(before) = before
                && (!same || (keeps(before) && !keeps(backend)))
            {
                self.cuts.push(cut(id, before));
            }
            if !same {
                // Of a place that nobody ever had nothing is counted.
                if backend.value.generation != 1 {
                    self.new_backends.push(backend.index);
                }
                self.gone.extend(before.map(|_| (backend.index, service.clone(), id.clone(), key.protocol)));
            }
            if before.is_none_or(|before| before.value != backend.value) {
                let takes = backend.value.state & state::ACTIVE != 0;
                let list = if takes { &mut self.taking } else { &mut self.resting };
                list.push((backend.index, backend.value));
            }
            if before.is_none_or(|before| before.note != backend.note) {
                self.backend_notes.put.push((backend.index, backend.note));
            }
        }
        let still = |id: &BackendId| new.is_some_and(|new| new.backends.contains_key(id));
        for (id, backend) in old.into_iter().flat_map(|old| &old.backends).filter(|(id, _)| !still(id)) {
            self.cuts.push(cut(id, backend));
            self.resting.push((backend.index, kernel::Backend { state: state::RESET, ..backend.value }));
            self.backend_notes.out.push(backend.index);
            self.freed_backends.push(backend.index);
            self.gone.push((backend.index, service.clone(), id.clone(), key.protocol));
        }
        differ(&mut self.members, old.into_iter().flat_map(members), new.into_iter().flat_map(members));
    }

    /// Also deletes what `debris` says, unless it is written. To be called last.
    pub(super) fn finish(&mut self, debris: Change) {
        self.services4.out.extend(debris.services4.out);
        self.services6.out.extend(debris.services6.out);
        self.names.out.extend(debris.names.out);
        self.vips.out.extend(debris.vips.out);
        self.frontend_notes.out.extend(debris.frontend_notes.out);
        self.backend_notes.out.extend(debris.backend_notes.out);
        self.members.out.extend(debris.members.out);
        self.allow4.out.extend(debris.allow4.out);
        self.allow6.out.extend(debris.allow6.out);
        self.allow_notes.out.extend(debris.allow_notes.out);
        self.freed_frontends.extend(debris.freed_frontends);
        self.freed_backends.extend(debris.freed_backends);
        self.resting.extend(debris.resting);
        self.services4.tidy();
        self.services6.tidy();
        self.names.tidy();
        self.vips.tidy();
        self.frontend_notes.tidy();
        self.backend_notes.tidy();
        self.members.tidy();
        self.allow4.tidy();
        self.allow6.tidy();
        self.allow_notes.tidy();
    }
}
