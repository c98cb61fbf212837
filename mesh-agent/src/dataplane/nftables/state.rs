//! What the kernel holds, as last read or written.

use super::{
    chain::{Pick, Shape, Target},
    layout::Layout,
    realize::{Place, Placed, Realized, realize, service_id},
};
use crate::plan::{Entry, Frontend, FrontendKey, Table, maglev};
use imbl::OrdMap;

/// Most round-robin counters of frontends with as many slots; beyond, frontends share them. Each has a chain of its own,
/// and the kernel checks every element that is added against every rule that names the set: with 1,024 of them, loading
/// 10,000 services of 10 endpoints took four seconds.
const COUNTERS: u16 = 64;
/// How many of them a frontend tries: with half of them taken it finds none in one of 65,536 cases.
const TRIES: u64 = 16;

/// Elements that are in the way: of nobody, or of a frontend that is damaged.
pub(super) type Debris = Vec<Placed>;

/// One family. Cloning costs nothing that grows with the services.
#[derive(Clone, Debug)]
pub(super) struct Side {
    pub(super) layout: Layout,
    /// Whether table, sets and base chains are there.
    pub(super) base: bool,
    /// Which round-robin counter each frontend has.
    pub(super) counters: OrdMap<FrontendKey, u16>,
    /// How many frontends use each chain.
    pub(super) chains: OrdMap<Shape, u32>,
    /// How many frontends need each shared element.
    pub(super) shared: OrdMap<(&'static str, Vec<u8>), u32>,
    /// To be removed with the next change.
    pub(super) debris: Debris,
    /// Chains to be removed with the next change.
    pub(super) spare_chains: Vec<String>,
}

impl Side {
    pub(super) fn new(layout: Layout) -> Side {
        Side {
            layout,
            base: false,
            counters: OrdMap::new(),
            chains: OrdMap::new(),
            shared: OrdMap::new(),
            debris: Vec::new(),
            spare_chains: Vec::new(),
        }
    }

    /// Counts what a frontend needs.
    pub(super) fn hold(&mut self, key: FrontendKey, realized: &Realized) {
        if let Target::Pick(shape) = realized.target {
            *self.chains.entry(shape).or_default() += 1;
            if let Pick::Next(counter) = shape.pick {
                self.counters.insert(key, counter);
            }
        }
        for (set, element) in &realized.shared {
            *self.shared.entry((set, element.key.clone())).or_default() += 1;
        }
    }

    /// The reverse of [`Side::hold`]; the frontend keeps its counter in case it comes back at once.
    pub(super) fn release(&mut self, realized: &Realized) {
        if let Target::Pick(shape) = realized.target {
            less(&mut self.chains, &shape);
        }
        for (set, element) in &realized.shared {
            less(&mut self.shared, &(*set, element.key.clone()));
        }
    }

    /// The elements of an entry that is held.
    pub(super) fn realize_held(&self, place: &Place, entry: &Entry) -> Realized {
        let counter = self.counters.get(&entry.frontend.key).copied();
        realize(&self.layout, place, entry, counter.unwrap_or(0))
    }

    /// The elements of an entry with the counter that its frontend has, or will get.
    pub(super) fn realize(&self, place: &Place, entry: &Entry) -> Realized {
        let key = entry.frontend.key;
        let held = self.counters.get(&key).copied();
        let first = realize(&self.layout, place, entry, held.unwrap_or(0));
        let Some(shape @ Shape { pick: Pick::Next(_), .. }) = first.target.shape() else { return first };
        let with = |counter| Shape { pick: Pick::Next(counter), ..shape };
        let users = |counter| self.chains.get(&with(counter)).copied().unwrap_or(0);
        let tries: Vec<u16> = tries(&entry.frontend).collect();
        let free = |counter: &u16| users(*counter) == 0;
        // Its own, a free one, or one that it shares: then the one it has, that it need not change each time.
        let counter =
            held.filter(free).or_else(|| tries.iter().copied().find(|counter| free(counter))).or(held);
        let counter = counter.or_else(|| tries.iter().copied().min_by_key(|counter| users(*counter)));
        let counter = counter.unwrap_or(0);
        if Some(counter) == held.or(Some(0)) { first } else { realize(&self.layout, place, entry, counter) }
    }
}

/// The counters that a frontend may have. Looking for a free one among all would cost as much for each of thousands.
fn tries(frontend: &Frontend) -> impl Iterator<Item = u16> {
    let service = u64::from_ne_bytes(service_id(&frontend.service));
    let of = service ^ (u64::from(frontend.key.ports.first()) << 32);
    (0..TRIES).map(move |n| {
        let [a, b, ..] = maglev::mix(of.wrapping_add(n)).to_le_bytes();
        u16::from_le_bytes([a, b]) % COUNTERS
    })
}

fn less<K: Ord + Clone>(counts: &mut OrdMap<K, u32>, key: &K) {
    match counts.get_mut(key) {
        Some(count @ 2..) => *count -= 1,
        _ => drop(counts.remove(key)),
    }
}

/// Both families and the table they stand for.
#[derive(Clone, Debug)]
pub(super) struct State {
    pub(super) table: Table,
    pub(super) sides: [Side; 2],
}

impl State {
    pub(super) fn empty() -> State {
        State { table: Table::new(), sides: Layout::both().map(Side::new) }
    }
}
