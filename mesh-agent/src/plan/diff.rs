//! What to do to a data plane that holds one table and should hold another.

use super::{
    backend::{Backend, BackendId},
    frontend::{Frontend, FrontendKey, Listen},
    ops::{Entry, Op, Table},
};
use imbl::ordmap::DiffItem;
use mesh_control::model::{Family, PortRange, Protocol};
use std::{
    cmp::Ordering,
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
};

/// The operations that make `realized` equal `desired`, in the order that [`Op`] promises; empty when they are equal.
/// Parts that the two tables share are not looked at.
#[must_use]
pub fn diff(realized: &Table, desired: &Table) -> Vec<Op> {
    let mut phases = Phases::default();
    for item in realized.diff(desired) {
        match item {
            DiffItem::Add(_, new) => phases.entry(None, Some(new)),
            DiffItem::Remove(_, old) => phases.entry(Some(old), None),
            DiffItem::Update { old: (_, old), new: (_, new) } => phases.entry(Some(old), Some(new)),
        }
    }
    phases.ops()
}

/// As [`diff`], for the given frontends only: costs time in those, whatever the size of the tables.
#[must_use]
pub fn diff_keys<'a>(
    realized: &Table,
    desired: &Table,
    keys: impl IntoIterator<Item = &'a FrontendKey>,
) -> Vec<Op> {
    let mut phases = Phases::default();
    for key in keys {
        phases.entry(realized.get(key), desired.get(key));
    }
    phases.ops()
}

/// What the operations mean: the reference that every data plane is held to. Returns the index of each operation
/// that had no place, which is a backend put at a frontend that is not there; it changes nothing.
pub fn apply_ops(table: &mut Table, ops: &[Op]) -> Vec<usize> {
    // Backends are edited in a plain list and frozen once, or a frontend of n backends would cost n copies of n.
    let mut open: BTreeMap<FrontendKey, Option<Opened>> = BTreeMap::new();
    let mut misplaced = Vec::new();
    for (index, op) in ops.iter().enumerate() {
        let slot = open.entry(op.frontend()).or_insert_with_key(|key| table.get(key).map(Opened::new));
        match (op, slot) {
            (Op::PutFrontend(frontend), Some(opened)) => opened.frontend = Arc::clone(frontend),
            (Op::PutFrontend(frontend), slot) => {
                *slot = Some(Opened { frontend: Arc::clone(frontend), backends: Vec::new() });
            }
            (Op::PutBackend { backend, .. }, Some(opened)) => opened.put(backend),
            (Op::PutBackend { .. }, None) => misplaced.push(index),
            (Op::RemoveBackend { backend, .. }, Some(opened)) => opened.remove(backend),
            (Op::RemoveBackend { .. }, None) => {}
            (Op::RemoveFrontend(_), slot) => *slot = None,
        }
    }
    for (key, slot) in open {
        match slot {
            Some(opened) => {
                let entry = Entry { frontend: opened.frontend, backends: opened.backends.into() };
                match table.get(&key) {
                    Some(held) if *held == entry => {}
                    Some(held) => {
                        let entry = entry.sharing(held);
                        table.insert(key, entry);
                    }
                    None => drop(table.insert(key, entry)),
                }
            }
            None => drop(table.remove(&key)),
        }
    }
    misplaced
}

/// An entry while operations are applied to it.
struct Opened {
    frontend: Arc<Frontend>,
    backends: Vec<Backend>,
}

impl Opened {
    fn new(entry: &Entry) -> Opened {
        Opened { frontend: Arc::clone(&entry.frontend), backends: entry.backends.to_vec() }
    }

    fn put(&mut self, backend: &Backend) {
        match self.backends.binary_search_by(|b| b.id.cmp(&backend.id)) {
            Ok(at) => self.backends[at] = backend.clone(),
            Err(at) => self.backends.insert(at, backend.clone()),
        }
    }

    fn remove(&mut self, id: &BackendId) {
        if let Ok(at) = self.backends.binary_search_by(|b| b.id.cmp(id)) {
            self.backends.remove(at);
        }
    }
}

/// The operations so far, by phase.
#[derive(Default)]
struct Phases {
    created: Vec<FrontendKey>,
    puts: Vec<Op>,
    put_backends: Vec<Op>,
    remove_backends: Vec<Op>,
    removed: Vec<FrontendKey>,
}

impl Phases {
    fn entry(&mut self, old: Option<&Entry>, new: Option<&Entry>) {
        match (old, new) {
            (Some(old), None) => self.removed.push(old.frontend.key),
            (_, Some(new)) => {
                if old.is_none() {
                    self.created.push(new.frontend.key);
                }
                if old.is_none_or(|old| old.frontend != new.frontend) {
                    self.puts.push(Op::PutFrontend(Arc::clone(&new.frontend)));
                }
                self.backends(new.frontend.key, old.map_or(&[], |old| &*old.backends), &new.backends);
            }
            (None, None) => {}
        }
    }

    /// Walks two lists sorted by id.
    fn backends(&mut self, frontend: FrontendKey, mut old: &[Backend], mut new: &[Backend]) {
        if std::ptr::eq(old, new) {
            return;
        }
        loop {
            let order = match (old.first(), new.first()) {
                (None, None) => return,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(a), Some(b)) => a.id.cmp(&b.id),
            };
            if order.is_le()
                && let [a, rest @ ..] = old
            {
                if order.is_lt() {
                    self.remove_backends.push(Op::RemoveBackend { frontend, backend: a.id.clone() });
                    old = rest;
                    continue;
                }
                if new.first() == Some(a) {
                    (old, new) = (rest, &new[1..]);
                    continue;
                }
                old = rest;
            }
            if let [b, rest @ ..] = new {
                self.put_backends.push(Op::PutBackend { frontend, backend: b.clone() });
                new = rest;
            }
        }
    }

    fn ops(self) -> Vec<Op> {
        let ground = Ground::new(&self.created);
        let (first, last): (Vec<_>, Vec<_>) = self.removed.into_iter().partition(|key| ground.meets(key));
        let mut ops: Vec<Op> = first.into_iter().map(Op::RemoveFrontend).collect();
        ops.extend(self.puts);
        ops.extend(self.put_backends);
        ops.extend(self.remove_backends);
        ops.extend(last.into_iter().map(Op::RemoveFrontend));
        ops
    }
}

/// The ports that frontends to be created stand on, by what their listeners compete for.
#[derive(Default)]
struct Ground {
    exact: HashMap<(Protocol, IpAddr), Vec<PortRange>>,
    any: HashMap<(Protocol, Family), Vec<PortRange>>,
    single: HashMap<(Protocol, Family), Vec<PortRange>>,
}

impl Ground {
    fn new(created: &[FrontendKey]) -> Ground {
        let mut ground = Ground::default();
        for FrontendKey { listen, ports, protocol } in created {
            let family = (*protocol, listen.family());
            match listen {
                Listen::Vip(a) | Listen::Address(a) => {
                    ground.exact.entry((*protocol, *a)).or_default().push(*ports);
                }
                Listen::AnyLocal(_) => ground.any.entry(family).or_default().push(*ports),
            }
            if let Listen::Address(_) = listen {
                ground.single.entry(family).or_default().push(*ports);
            }
        }
        ground
    }

    fn meets(&self, key: &FrontendKey) -> bool {
        let among = |ports: Option<&Vec<PortRange>>| {
            ports.is_some_and(|ports| ports.iter().any(|p| p.overlaps(key.ports)))
        };
        let family = (key.protocol, key.listen.family());
        match key.listen {
            Listen::Vip(a) => among(self.exact.get(&(key.protocol, a))),
            Listen::Address(a) => among(self.exact.get(&(key.protocol, a))) || among(self.any.get(&family)),
            Listen::AnyLocal(_) => among(self.any.get(&family)) || among(self.single.get(&family)),
        }
    }
}
