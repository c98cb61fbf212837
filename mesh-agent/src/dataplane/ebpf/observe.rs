//! Reading back what the maps hold, and comparing it with what it should be.

use super::{
    change::{self, Ports, allow_notes, allowed, members, tokens, v4, v6},
    held::Held,
    maps::Maps,
    note::{self, Names},
    realize::Place,
    state::State,
};
use crate::plan::{Backend, Entry, Frontend, FrontendKey, Listen};
use ipnetwork::IpNetwork;
use mesh_ebpf::{
    Backends, Map, Plain,
    common::{self as kernel, AllowKey, MemberKey, ServiceKey, V4, V6},
    notes::{AllowNote, AllowPlace, BackendNote},
};
use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
    io,
    net::IpAddr,
    sync::Arc,
};

/// All that is held. What stands for something is taken out; the rest is debris.
struct Found {
    services4: HashMap<ServiceKey<V4>, kernel::Service>,
    services6: HashMap<ServiceKey<V6>, kernel::Service>,
    frontends: Vec<kernel::Frontend>,
    backends: Vec<kernel::Backend>,
    slots: Vec<u32>,
    members: HashMap<MemberKey, u32>,
    allow4: HashMap<AllowKey<V4>, u8>,
    allow6: HashMap<AllowKey<V6>, u8>,
    allow_notes: HashMap<AllowPlace, AllowNote>,
    backend_notes: HashMap<u32, BackendNote>,
    vips: HashMap<IpAddr, u32>,
}

fn all<K: Plain + Eq + Hash, V: Plain>(map: &Map<K, V>) -> io::Result<HashMap<K, V>> {
    Ok(map.entries()?.into_iter().collect())
}

/// The backends of every place that was ever used: those have a generation, and they are the first ones.
fn backends(held: &Backends) -> Vec<kernel::Backend> {
    let used = (0..).map_while(|index| held.get(index)).take_while(|backend| backend.generation != 0);
    // What programs count is nothing that was written.
    used.map(|backend| kernel::Backend { active: 0, begun: 0, ..backend }).collect()
}

/// The services of a family, without whose turn it is.
fn services<A>(
    map: &Map<ServiceKey<A>, kernel::Service>,
) -> io::Result<HashMap<ServiceKey<A>, kernel::Service>>
where
    ServiceKey<A>: Plain + Eq + Hash,
{
    let mut all = all(map)?;
    all.values_mut().for_each(|service| service.turn = 0);
    Ok(all)
}

/// Removes a key; whether it had that value.
fn had<K: Eq + Hash, V: PartialEq>(map: &mut HashMap<K, V>, key: &K, value: &V) -> bool {
    map.get(key) == Some(value) && map.remove(key).is_some()
}

fn forget<K: Eq + Hash, V>(map: &mut HashMap<K, V>, keys: impl Iterator<Item = K>) {
    for key in keys {
        map.remove(&key);
    }
}

impl Found {
    fn of(maps: &Maps) -> io::Result<Found> {
        let (services4, services6) = (services(&maps.services4)?, services(&maps.services6)?);
        let led = || services4.values().chain(services6.values());
        let slots = led().map(|s: &kernel::Service| s.base.saturating_add(s.slots)).max().unwrap_or(0);
        let backend_notes = all(&maps.backend_notes)?;
        let vips4 = maps.vips4.entries()?.into_iter().map(|(vip, n)| (vip.into(), n));
        let vips6 = maps.vips6.entries()?.into_iter().map(|(vip, n)| (vip.into(), n));
        Ok(Found {
            slots: maps.slots.range(0, slots)?,
            services4,
            services6,
            frontends: Vec::new(),
            backends: backends(&maps.backends),
            members: all(&maps.members)?,
            allow4: all(&maps.allow4)?,
            allow6: all(&maps.allow6)?,
            allow_notes: all(&maps.allow_notes)?,
            backend_notes,
            vips: vips4.chain(vips6).collect(),
        })
    }

    fn service(&self, key: &FrontendKey) -> Option<kernel::Service> {
        match change::ports(key, kernel::Service::default()) {
            Ports::V4(all) => self.services4.get(&all.first()?.0).copied(),
            Ports::V6(all) => self.services6.get(&all.first()?.0).copied(),
        }
    }

    /// Whether the maps hold just this. Its entries are taken out when they do.
    fn take(&mut self, key: &FrontendKey, held: &Held) -> bool {
        let at = |index: u32| usize::try_from(index).unwrap_or(usize::MAX);
        let index = held.index();
        let slots = at(held.service.base)..at(held.service.base.saturating_add(held.service.slots));
        let sound = self.frontends.get(at(index)) == Some(&held.policy)
            && (held.slots.is_empty() || self.slots.get(slots) == Some(&held.slots[..]))
            && held.backends.values().all(|b| {
                self.backends.get(at(b.index)) == Some(&b.value)
                    && self.backend_notes.get(&b.index) == Some(&b.note)
            })
            && members(held).all(|(key, index)| self.members.get(&key) == Some(&index))
            && allow_notes(index, &held.allow).all(|(key, _)| self.allow_notes.contains_key(&key))
            && allowed(index, &held.allow, v4).all(|(key, _)| self.allow4.contains_key(&key))
            && allowed(index, &held.allow, v6).all(|(key, _)| self.allow6.contains_key(&key))
            && !matches!(key.listen, Listen::Vip(vip) if !self.vips.contains_key(&vip));
        let sound = sound
            && match change::ports(key, held.service) {
                Ports::V4(all) => all.iter().all(|(key, service)| had(&mut self.services4, key, service)),
                Ports::V6(all) => all.iter().all(|(key, service)| had(&mut self.services6, key, service)),
            };
        if sound {
            forget(&mut self.backend_notes, held.backends.values().map(|b| b.index));
            forget(&mut self.members, members(held).map(|(key, _)| key));
            forget(&mut self.allow_notes, allow_notes(index, &held.allow).map(|(key, _)| key));
            forget(&mut self.allow4, allowed(index, &held.allow, v4).map(|(key, _)| key));
            forget(&mut self.allow6, allowed(index, &held.allow, v6).map(|(key, _)| key));
        }
        sound
    }

    /// The list of those who may connect, of each frontend.
    fn lists(&self) -> HashMap<u32, Vec<IpNetwork>> {
        let mut sorted: Vec<_> = self.allow_notes.iter().collect();
        sorted.sort_unstable_by_key(|(place, _)| **place);
        let mut lists = HashMap::<u32, Vec<IpNetwork>>::new();
        for (place, allowed) in sorted {
            lists.entry(place.frontend).or_default().extend(note::allowed(allowed));
        }
        lists
    }

    /// The backends of each frontend, with their places.
    fn members(&self, names: &Names) -> HashMap<u32, Vec<(Backend, u32)>> {
        let mut lists = HashMap::<u32, Vec<(Backend, u32)>>::new();
        for (index, held) in &self.backend_notes {
            let value = usize::try_from(*index).ok().and_then(|at| self.backends.get(at));
            if let Some(value) = value
                && let Some(backend) = note::backend(held, value, names)
            {
                lists.entry(value.frontend).or_default().push((backend, *index));
            }
        }
        for list in lists.values_mut() {
            list.sort_unstable_by(|(a, i), (b, j)| a.id.cmp(&b.id).then(i.cmp(j)));
            list.dedup_by(|(b, _), (a, _)| a.id == b.id);
        }
        lists
    }
}

/// Reads everything. A frontend that does not stand as it should is left out: whoever wants it puts it anew.
pub(super) fn read(maps: &Maps, place: &Place, unix: u64) -> io::Result<State> {
    let names: Names =
        maps.names.entries()?.into_iter().map(|(key, bytes)| (key, note::read_name(&bytes))).collect();
    let mut state = State::empty(maps.sizes());
    let mut read = Found::of(maps)?;
    let mut notes: BTreeMap<u32, _> = maps.frontend_notes.entries()?.into_iter().collect();
    read.frontends = maps.frontends.range(0, notes.keys().max().map_or(0, |most| most.saturating_add(1)))?;
    let (mut lists, mut backends) = (read.lists(), read.members(&names));
    state.generations = read.backends.iter().map(|backend| backend.generation).collect();
    notes.keys().for_each(|index| state.frontends.hold(*index));
    read.backend_notes.keys().for_each(|index| state.backends.hold(*index));
    notes.retain(|index, held| {
        let frontend = note::frontend(held, &names, lists.remove(index).unwrap_or_default());
        let list = backends.remove(index).unwrap_or_default();
        frontend
            .and_then(|frontend| adopt(&mut state, &mut read, place, unix, *index, frontend, list))
            .is_none()
    });
    debris(&mut state, read, notes.into_keys(), &names);
    Ok(state)
}

fn adopt(
    state: &mut State,
    read: &mut Found,
    place: &Place,
    unix: u64,
    index: u32,
    frontend: Frontend,
    list: Vec<(Backend, u32)>,
) -> Option<()> {
    let key = frontend.key;
    let base = read.service(&key).map_or(0, |service| service.base);
    let (backends, places): (Vec<Backend>, Vec<u32>) = list.into_iter().unzip();
    let mut places = places.into_iter();
    let entry = Entry { frontend: Arc::new(frontend), backends: backends.into() };
    let mut held = Held::new(&entry, place, unix, index, base, |_, _| {
        let place = places.next().unwrap_or(u32::MAX);
        let generation =
            usize::try_from(place).ok().and_then(|at| read.backends.get(at)).map_or(0, |b| b.generation);
        (place, generation)
    });
    // What is not there yet is put there afterwards: nothing else of it changes.
    let named = tokens(&held).all(|(key, index)| read.members.get(&key) == Some(&index));
    held.direct &= named;
    let free = held.slots.is_empty() || state.slots.hold(held.service.base, held.service.slots);
    if !free || !read.take(&key, &held) {
        return None;
    }
    state.adopt(entry, held);
    Some(())
}

/// What is left over.
fn debris(state: &mut State, read: Found, frontends: impl Iterator<Item = u32>, names: &Names) {
    let wanted = state.vips();
    let debris = &mut state.debris;
    for index in frontends {
        debris.frontend_notes.out.push(index);
        debris.freed_frontends.push(index);
    }
    for index in read.backend_notes.into_keys() {
        let value =
            usize::try_from(index).ok().and_then(|at| read.backends.get(at)).copied().unwrap_or_default();
        debris.resting.push((index, kernel::Backend { state: kernel::state::RESET, ..value }));
        debris.backend_notes.out.push(index);
        debris.freed_backends.push(index);
    }
    debris.services4.out.extend(read.services4.into_keys());
    debris.services6.out.extend(read.services6.into_keys());
    debris.members.out.extend(read.members.into_keys());
    debris.allow4.out.extend(read.allow4.into_keys());
    debris.allow6.out.extend(read.allow6.into_keys());
    debris.allow_notes.out.extend(read.allow_notes.into_keys());
    debris.vips.out.extend(read.vips.into_keys().filter(|vip| !wanted.contains(vip)));
    let unused: Vec<u64> = names.keys().copied().filter(|name| !state.uses_name(name)).collect();
    state.debris.names.out.extend(unused);
}
