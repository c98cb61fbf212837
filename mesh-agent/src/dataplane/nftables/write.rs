//! From a change of the table to one transaction. Pure but for libnftnl's buffers.

use super::{
    chain::Shape,
    realize::{Place, Placed, Realized},
    sets::{Base, Outline, chains, counting_set, sets},
    state::{Side, State},
};
use crate::{
    plan::{self, FrontendKey},
    sys::nft::{Element, Set, Table, Transaction},
};
use imbl::ordmap::DiffItem;
use std::collections::{BTreeMap, BTreeSet};

/// Elements by set, in an order that is the same every time.
type BySet = BTreeMap<&'static str, Vec<Element>>;

/// What happens to the elements of one family.
#[derive(Debug, Default)]
pub(super) struct Elements {
    /// To be deleted, as they were written.
    pub(super) out: BySet,
    /// To be added.
    pub(super) into: BySet,
}

/// A change of both families.
pub(super) struct Change {
    /// What there will be.
    pub(super) next: State,
    /// Elements, by family as in [`State::sides`].
    pub(super) elements: [Elements; 2],
}

impl Change {
    /// Brings the frontends named in `touched` from `state` to what `work` says.
    pub(super) fn plan(
        state: &State,
        place: &Place,
        work: &plan::Table,
        touched: &BTreeSet<FrontendKey>,
    ) -> Change {
        let mut next = State { table: work.clone(), sides: state.sides.clone() };
        let mut elements = <[Elements; 2]>::default();
        for ((side, elements), held) in next.sides.iter_mut().zip(&mut elements).zip(&state.sides) {
            elements.debris(side);
            let mut needed = BTreeSet::new();
            let family = side.layout.family;
            for key in touched.iter().filter(|key| key.listen.family() == family) {
                let old = state.table.get(key).map(|entry| held.realize_held(place, entry));
                if let Some(old) = &old {
                    side.release(old);
                }
                let new = work.get(key).map(|entry| side.realize(place, entry));
                match &new {
                    Some(new) => side.hold(*key, new),
                    None => drop(side.counters.remove(key)),
                }
                needed.extend(old.iter().chain(&new).flat_map(shared_keys));
                elements.differ(old, new);
            }
            for (set, key) in needed {
                let at = (set, key);
                let element = || Element { key: at.1.clone(), ..Element::default() };
                match (held.shared.contains_key(&at), side.shared.contains_key(&at)) {
                    (false, true) => elements.into.entry(set).or_default().push(element()),
                    (true, false) => elements.out.entry(set).or_default().push(element()),
                    _ => {}
                }
            }
        }
        Change { next, elements }
    }

    /// Whether the kernel has anything to do.
    pub(super) fn is_empty(&self, state: &State) -> bool {
        let still = |elements: &Elements| elements.out.is_empty() && elements.into.is_empty();
        self.elements.iter().all(still)
            && state.sides.iter().all(|side| side.base && side.spare_chains.is_empty())
    }

    /// The transaction that does it. Whatever refers comes after what it refers to, and goes before it.
    pub(super) fn transaction(&mut self, state: &State, outline: &Outline) -> Transaction {
        let mut batch = Transaction::new();
        for ((side, held), elements) in self.next.sides.iter_mut().zip(&state.sides).zip(&self.elements) {
            if !held.base {
                let layout = &side.layout;
                lay(&mut batch, &layout.table, &sets(layout), chains(layout, outline));
                side.base = true;
            }
            let (layout, table) = (&side.layout, &side.layout.table);
            let limits =
                |side: &Side| -> BTreeSet<u32> { side.chains.keys().filter_map(|s| s.most).collect() };
            let (mut changed, mut gone) = (Vec::<Shape>::new(), Vec::<Shape>::new());
            for difference in held.chains.diff(&side.chains) {
                match difference {
                    DiffItem::Add(shape, _) => changed.push(*shape),
                    DiffItem::Remove(shape, _) => gone.push(*shape),
                    DiffItem::Update { .. } => {}
                }
            }
            let limited = changed.iter().chain(&gone).any(|shape| shape.most.is_some());
            let (before, after) = if limited {
                (limits(held), limits(side))
            } else {
                <(BTreeSet<u32>, BTreeSet<u32>)>::default()
            };
            for most in after.difference(&before) {
                batch.add_set(table, &counting_set(layout, *most));
            }
            for shape in changed {
                let name = shape.to_string();
                batch.add_chain(table, &name, None);
                for (expressions, comment) in shape.rules(layout) {
                    batch.add_rule(table, &name, &expressions, &comment);
                }
            }
            for (set, out) in &elements.out {
                batch.delete_elements(table, set, out.iter());
            }
            for (set, into) in &elements.into {
                batch.add_elements(table, set, into.iter());
            }
            for name in gone.iter().map(ToString::to_string).chain(held.spare_chains.iter().cloned()) {
                batch.delete_chain(table, &name);
            }
            for most in before.difference(&after) {
                batch.delete_set(table, &counting_set(layout, *most));
            }
            side.spare_chains.clear();
        }
        batch
    }
}

impl Elements {
    fn debris(&mut self, side: &mut Side) {
        for (set, element) in side.debris.drain(..) {
            self.out.entry(set).or_default().push(element);
        }
    }

    /// Takes out what only `old` has and puts in what only `new` has.
    fn differ(&mut self, old: Option<Realized>, new: Option<Realized>) {
        let mut before: BTreeMap<(&'static str, Vec<u8>), Element> =
            old.into_iter().flat_map(|r| r.own).map(|(set, e)| ((set, e.key.clone()), e)).collect();
        for (set, element) in new.into_iter().flat_map(|r| r.own) {
            match before.remove(&(set, element.key.clone())) {
                Some(held) if held == element => continue,
                Some(held) => self.out.entry(set).or_default().push(held),
                None => {}
            }
            self.into.entry(set).or_default().push(element);
        }
        for ((set, _), element) in before {
            self.out.entry(set).or_default().push(element);
        }
    }
}

fn shared_keys(realized: &Realized) -> Vec<(&'static str, Vec<u8>)> {
    let key = |(set, element): &Placed| (*set, element.key.clone());
    realized.shared.iter().map(key).collect()
}

/// Table, sets and the chains that are always there; what had its name is gone.
pub(in crate::dataplane) fn lay(batch: &mut Transaction, table: &Table, sets: &[Set], bases: Vec<Base>) {
    batch.delete_table(table);
    batch.add_table(table);
    for set in sets {
        batch.add_set(table, set);
    }
    for base in &bases {
        batch.add_chain(table, base.name, base.hook.as_ref());
    }
    for base in bases {
        for (expressions, comment) in base.rules {
            batch.add_rule(table, base.name, &expressions, &comment);
        }
    }
}
