//! Who stands where: frontends with the places they have in the maps. Pure.

use super::{
    change::Change,
    held::Held,
    note::{self, backend_names, frontend_names, name_entry},
    realize::{Place, picked},
    space::{Numbers, Regions},
};
use crate::plan::{Backend, BackendId, BackendState, Entry, FrontendKey, Listen, Table};
use mesh_ebpf::common as kernel;
use std::{
    collections::{BTreeSet, HashMap, HashSet},
    net::IpAddr,
};

/// The time: Unix time, and that since the plane began; both in milliseconds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Now {
    pub(super) unix: u64,
    pub(super) since: u64,
}

/// What the maps hold, and what of them is free.
#[derive(Debug)]
pub(super) struct State {
    pub(super) table: Table,
    pub(super) held: HashMap<FrontendKey, Held>,
    pub(super) frontends: Numbers,
    pub(super) backends: Numbers,
    pub(super) slots: Regions,
    /// Of every backend's place that was ever used.
    pub(super) generations: Vec<u32>,
    /// How many use a name, and a VIP.
    names: HashMap<u64, u32>,
    vips: HashMap<IpAddr, u32>,
    /// When a backend's drain deadline comes, Unix ms, and whose it is.
    due: BTreeSet<(u64, FrontendKey)>,
    /// What is in the maps and stands for nothing.
    pub(super) debris: Change,
}

/// Counts one more; whether it is the first.
fn more<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, u32>, key: K) -> bool {
    let count = counts.entry(key).or_default();
    *count += 1;
    *count == 1
}

/// Counts one less; whether none is left.
fn less<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, u32>, key: &K) -> bool {
    match counts.get_mut(key) {
        Some(count @ 2..) => *count -= 1,
        _ => drop(counts.remove(key)),
    }
    !counts.contains_key(key)
}

fn vip(key: &FrontendKey) -> Option<IpAddr> {
    if let Listen::Vip(address) = key.listen { Some(address) } else { None }
}

impl State {
    /// Nothing, in maps of these sizes: frontends, backends, slots.
    pub(super) fn empty([frontends, backends, slots]: [u32; 3]) -> State {
        State {
            table: Table::new(),
            held: HashMap::new(),
            frontends: Numbers::new(frontends),
            backends: Numbers::new(backends),
            slots: Regions::new(slots),
            generations: Vec::new(),
            names: HashMap::new(),
            vips: HashMap::new(),
            due: BTreeSet::new(),
            debris: Change::default(),
        }
    }

    /// Takes in a frontend that was read; its places are marked as used already, its slots here.
    pub(super) fn adopt(&mut self, entry: Entry, held: Held) {
        let key = entry.frontend.key;
        for name in names(&entry) {
            more(&mut self.names, note::name_key(name));
        }
        if let Some(vip) = vip(&key) {
            more(&mut self.vips, vip);
        }
        self.follow_deadlines(&entry, 0);
        self.held.insert(key, held);
        self.table.insert(key, entry);
    }

    /// Makes an entry stand at its key, or nothing, and adds to `change` what differs in the maps. What has no room is
    /// named, and all stays as it is.
    pub(super) fn put(
        &mut self,
        place: &Place,
        key: FrontendKey,
        entry: Option<&Entry>,
        now: Now,
        change: &mut Change,
    ) -> Result<(), &'static str> {
        let old = self.held.remove(&key);
        let new = entry.map(|entry| self.find_room(place, entry, old.as_ref(), now)).transpose();
        let new = match new {
            Ok(new) => new,
            Err(full) => {
                self.held.extend(old.map(|old| (key, old)));
                return Err(full);
            }
        };
        let before = self.table.remove(&key);
        let service = entry.or(before.as_ref()).map(|entry| entry.frontend.service.clone());
        if let Some(service) = service {
            change.differ(key, &service, old.as_ref(), new.as_ref());
        }
        for name in entry.into_iter().flat_map(names) {
            if more(&mut self.names, note::name_key(name)) {
                change.names.put.push(name_entry(name));
            }
        }
        for name in before.iter().flat_map(names) {
            let name = note::name_key(name);
            if less(&mut self.names, &name) {
                change.names.out.push(name);
            }
        }
        if let Some(vip) = vip(&key) {
            if entry.is_some() && more(&mut self.vips, vip) {
                change.vips.put.push((vip, 1));
            }
            if before.is_some() && less(&mut self.vips, &vip) {
                change.vips.out.push(vip);
            }
        }
        if let Some(old) = &old {
            let kept =
                new.as_ref().is_some_and(|new| new.service.base == old.service.base && new.service.slots > 0);
            if !kept {
                self.slots.give(old.service.base, old.service.slots, now.since);
            }
        }
        if let (Some(entry), Some(new)) = (entry, new) {
            self.follow_deadlines(entry, now.unix);
            self.held.insert(key, new);
            self.table.insert(key, entry.clone());
        }
        Ok(())
    }

    /// The places of an entry: those it has, and free ones for what is new.
    fn find_room(
        &mut self,
        place: &Place,
        entry: &Entry,
        old: Option<&Held>,
        now: Now,
    ) -> Result<Held, &'static str> {
        let known = |id: &BackendId| old.and_then(|old| old.backends.get(id));
        if entry.backends.iter().filter(|b| known(&b.id).is_none()).count() > self.backends.left() {
            return Err("backends");
        }
        if old.is_none() && self.frontends.left() == 0 {
            return Err("frontends");
        }
        let count = u32::try_from(picked(entry).len()).map_err(|_| "slots")?;
        let base = match old.map(|old| old.service) {
            Some(service) if service.slots == count => service.base,
            _ if count == 0 => 0,
            _ => self.slots.take(count, now.since).ok_or("slots")?,
        };
        let index = old.map(Held::index).or_else(|| self.frontends.take()).ok_or("frontends")?;
        let (backends, generations) = (&mut self.backends, &mut self.generations);
        let at = |backend: &Backend, value: &kernel::Backend| match known(&backend.id) {
            Some(held) => {
                let moved = (held.value.address, held.value.port) != (value.address, value.port);
                if moved {
                    next(generations, held.index);
                }
                (held.index, held.value.generation.wrapping_add(u32::from(moved)))
            }
            // There is room for it, as was asked above.
            None => {
                let index = backends.take().unwrap_or(u32::MAX);
                (index, next(generations, index))
            }
        };
        Ok(Held::new(entry, place, now.unix, index, base, at))
    }

    fn follow_deadlines(&mut self, entry: &Entry, now: u64) {
        for backend in entry.backends.iter() {
            if let BackendState::Draining { deadline: Some(at) } = backend.state
                && at > now
            {
                self.due.insert((at, entry.frontend.key));
            }
        }
    }

    /// When the next deadline comes (Unix ms).
    pub(super) fn next_due(&self) -> Option<u64> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Takes out the frontends whose deadlines have come.
    pub(super) fn take_due(&mut self, unix: u64) -> BTreeSet<FrontendKey> {
        let mut due = BTreeSet::new();
        while let Some((at, key)) = self.due.first().copied().filter(|(at, _)| *at <= unix) {
            self.due.remove(&(at, key));
            due.insert(key);
        }
        due
    }

    /// The VIPs in use.
    pub(super) fn vips(&self) -> HashSet<IpAddr> {
        self.vips.keys().copied().collect()
    }

    /// Whether something is called so.
    pub(super) fn uses_name(&self, name: &u64) -> bool {
        self.names.contains_key(name)
    }

    /// Gives back the places that a change has freed, once it is complete.
    pub(super) fn settle(&mut self, change: &Change) {
        change.freed_frontends.iter().for_each(|index| self.frontends.give(*index));
        change.freed_backends.iter().for_each(|index| self.backends.give(*index));
    }
}

/// Counts a place's generation up.
fn next(generations: &mut Vec<u32>, index: u32) -> u32 {
    let at = usize::try_from(index).unwrap_or(0);
    if generations.len() <= at {
        generations.resize(at + 1, 0);
    }
    generations[at] = generations[at].wrapping_add(1);
    generations[at]
}

/// The names that an entry's notes refer to.
fn names(entry: &Entry) -> impl Iterator<Item = &str> {
    frontend_names(&entry.frontend)
        .into_iter()
        .chain(entry.backends.iter().flat_map(|b| backend_names(&b.id)))
}
