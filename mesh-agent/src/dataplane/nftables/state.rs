//! What the kernel holds, as last read or written.

use super::{
    ids::{SetId, layouts},
    realize::{Placed, Realized, picked, realize, service_id},
    shape::{Shape, Target},
};
use crate::{
    dataplane::netfilter::{elements::Place, layout::Layout},
    plan::{Entry, Frontend, FrontendKey, Table, maglev},
};
use imbl::OrdMap;

/// Most chains that are alike but for their number, each with a round-robin counter and maps of its own; beyond,
/// frontends share them.
const NUMBERS: u16 = 256;
/// How many of them a frontend tries: with half of them taken it finds none in one of 65,536 cases.
const TRIES: u64 = 16;

/// Elements that are in the way: of nobody, or of a frontend that is damaged.
pub(super) type Debris = Vec<Placed>;

/// Chains and sets of nobody, by name.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Spare {
    pub(super) chains: Vec<String>,
    pub(super) sets: Vec<String>,
}

/// One family. Cloning costs nothing that grows with the services.
#[derive(Clone, Debug)]
pub(super) struct Side {
    pub(super) layout: Layout,
    /// Whether table, sets and base chains are there.
    pub(super) base: bool,
    /// Which of the chains of its shape each frontend has.
    pub(super) numbers: OrdMap<FrontendKey, u16>,
    /// How many frontends use each chain.
    pub(super) chains: OrdMap<Shape, u32>,
    /// How many frontends need each shared element.
    pub(super) shared: OrdMap<(SetId, Vec<u8>), u32>,
    /// To be removed with the next change.
    pub(super) debris: Debris,
    /// Chains and sets to be removed with the next change.
    pub(super) spare: Spare,
}

impl Side {
    pub(super) fn new(layout: Layout) -> Side {
        Side {
            layout,
            base: false,
            numbers: OrdMap::new(),
            chains: OrdMap::new(),
            shared: OrdMap::new(),
            debris: Vec::new(),
            spare: Spare::default(),
        }
    }

    /// Counts what a frontend needs.
    pub(super) fn hold(&mut self, key: FrontendKey, realized: &Realized) {
        if let Target::Pick(shape) = realized.target {
            *self.chains.entry(shape).or_default() += 1;
            self.numbers.insert(key, shape.number);
        }
        for (set, element) in &realized.shared {
            *self.shared.entry((*set, element.key.clone())).or_default() += 1;
        }
    }

    /// The reverse of [`Side::hold`]; the frontend keeps its number in case it comes back at once.
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
        let number = self.numbers.get(&entry.frontend.key).copied();
        realize(&self.layout, place, entry, &picked(&self.layout, entry), number.unwrap_or(0))
    }

    /// The elements of an entry with the number that its frontend has, or will get.
    pub(super) fn realize(&self, place: &Place, entry: &Entry) -> Realized {
        let picked = picked(&self.layout, entry);
        let number = picked.target.shape().map_or(0, |shape| self.number(&entry.frontend, shape));
        realize(&self.layout, place, entry, &picked, number)
    }

    /// The one a frontend has, a free one, or one that it shares: then the one it has, that it need not change each time.
    fn number(&self, frontend: &Frontend, shape: Shape) -> u16 {
        let users = |number| self.chains.get(&Shape { number, ..shape }).copied().unwrap_or(0);
        let free = |number: &u16| users(*number) == 0;
        let held = self.numbers.get(&frontend.key).copied();
        let own = held.filter(free).or_else(|| tries(frontend).find(free)).or(held);
        own.or_else(|| tries(frontend).min_by_key(|number| users(*number))).unwrap_or(0)
    }
}

/// The numbers that a frontend may have. Looking for a free one among all would cost as much for each of thousands.
fn tries(frontend: &Frontend) -> impl Iterator<Item = u16> {
    let service = u64::from_ne_bytes(service_id(&frontend.service));
    let of = service ^ (u64::from(frontend.key.ports.first()) << 32);
    (0..TRIES).map(move |n| {
        let [a, b, ..] = maglev::mix(of.wrapping_add(n)).to_le_bytes();
        u16::from_le_bytes([a, b]) % NUMBERS
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
        State { table: Table::new(), sides: layouts().map(Side::new) }
    }
}
