//! From a change of the table to transactions. Pure but for libnftnl's buffers.

use super::{
    chain::timeouts,
    ids::{self, ALWAYS, SetId},
    realize::Realized,
    sets::{chains, set},
    shape::{Shape, Target},
    state::{Spare, State},
};
use crate::{
    dataplane::netfilter::{
        base::{Outline, lay},
        elements::Place,
        layout::Layout,
    },
    plan::{FrontendKey, Table},
    sys::nft::{Data, Element, Transaction},
};
use imbl::ordmap::DiffItem;
use std::collections::{BTreeMap, BTreeSet};

/// Elements by set, in an order that is the same every time.
type BySet = BTreeMap<SetId, Vec<Element>>;

/// What the chains of several shapes may name alike.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Extra {
    /// The flows of backends limited to so many.
    Most(u32),
    /// Timeouts of so many seconds.
    Idle(u32),
}

fn extras(shape: &Shape) -> impl Iterator<Item = Extra> {
    shape.most.map(Extra::Most).into_iter().chain(shape.idle.map(Extra::Idle))
}

/// What happens to one family, in two transactions: packets that are under way in what goes come to their end before.
#[derive(Debug, Default)]
pub(super) struct Step {
    /// Whether table, sets and base chains have to be laid.
    lay: bool,
    /// Debris, and elements that are replaced: to be deleted first.
    pub(super) out: BySet,
    spare: Spare,
    /// To be made, with the elements that lead there.
    chains: Vec<Shape>,
    extras: BTreeSet<Extra>,
    into: BySet,
    /// What nothing stands for any more: in the second transaction.
    pub(super) gone: BySet,
    gone_chains: Vec<Shape>,
    gone_extras: BTreeSet<Extra>,
}

/// A change of both families.
pub(super) struct Change {
    /// What there will be.
    pub(super) next: State,
    /// By family as in [`State::sides`].
    pub(super) steps: [Step; 2],
}

impl Change {
    /// Brings the frontends named in `touched` from `state` to what `work` says.
    pub(super) fn plan(
        state: &State,
        place: &Place,
        work: &Table,
        touched: &BTreeSet<FrontendKey>,
    ) -> Change {
        let mut next = State { table: work.clone(), sides: state.sides.clone() };
        let mut steps = <[Step; 2]>::default();
        for ((side, step), held) in next.sides.iter_mut().zip(&mut steps).zip(&state.sides) {
            step.lay = !std::mem::replace(&mut side.base, true);
            step.spare = std::mem::take(&mut side.spare);
            for (set, element) in side.debris.drain(..) {
                step.out.entry(set).or_default().push(element);
            }
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
                    None => drop(side.numbers.remove(key)),
                }
                let shared = old.iter().chain(&new).flat_map(|realized| &realized.shared);
                needed.extend(shared.map(|(set, element)| (*set, element.key.clone())));
                step.differ(old, new);
            }
            for at in needed {
                let element = Element { key: at.1.clone(), ..Element::default() };
                match (held.shared.contains_key(&at), side.shared.contains_key(&at)) {
                    (false, true) => step.into.entry(at.0).or_default().push(element),
                    (true, false) => step.gone.entry(at.0).or_default().push(element),
                    _ => {}
                }
            }
            for difference in held.chains.diff(&side.chains) {
                match difference {
                    DiffItem::Add(shape, _) => step.chains.push(*shape),
                    DiffItem::Remove(shape, _) => step.gone_chains.push(*shape),
                    DiffItem::Update { .. } => {}
                }
            }
            if step.chains.iter().chain(&step.gone_chains).any(|shape| extras(shape).next().is_some()) {
                let all = |shapes: &imbl::OrdMap<Shape, u32>| -> BTreeSet<Extra> {
                    shapes.keys().flat_map(extras).collect()
                };
                let (before, after) = (all(&held.chains), all(&side.chains));
                step.extras = &after - &before;
                step.gone_extras = &before - &after;
            }
        }
        Change { next, steps }
    }

    /// Whether the kernel has anything to do.
    pub(super) fn is_empty(&self) -> bool {
        self.steps.iter().all(|step| !step.adds() && !step.removes())
    }

    /// The transaction that brings what is new. Whatever refers comes after what it refers to, and goes before it.
    pub(super) fn bring(&self, outline: &Outline) -> Option<Transaction> {
        let mut batch = Transaction::new();
        for (side, step) in self.next.sides.iter().zip(&self.steps).filter(|(_, step)| step.adds()) {
            step.bring(&mut batch, &side.layout, outline);
        }
        self.steps.iter().any(Step::adds).then_some(batch)
    }

    /// The one after it, which removes what is old.
    pub(super) fn remove(&self) -> Option<Transaction> {
        let mut batch = Transaction::new();
        for (side, step) in self.next.sides.iter().zip(&self.steps).filter(|(_, step)| step.removes()) {
            step.remove(&mut batch, &side.layout);
        }
        self.steps.iter().any(Step::removes).then_some(batch)
    }
}

impl Step {
    fn adds(&self) -> bool {
        let still = self.out.is_empty() && self.into.is_empty() && self.spare == Spare::default();
        self.lay || !still
    }

    fn removes(&self) -> bool {
        !(self.gone.is_empty() && self.gone_chains.is_empty())
    }

    /// Takes out what only `old` has and puts in what only `new` has.
    fn differ(&mut self, old: Option<Realized>, new: Option<Realized>) {
        let mut before: BTreeMap<(SetId, Vec<u8>), Element> =
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
            self.gone.entry(set).or_default().push(element);
        }
    }

    fn bring(&self, batch: &mut Transaction, layout: &Layout, outline: &Outline) {
        let table = &layout.table;
        if self.lay {
            bare(batch, layout, outline);
        }
        for (set, out) in &self.out {
            batch.delete_elements(table, &set.to_string(), out.iter());
        }
        for chain in &self.spare.chains {
            batch.delete_chain(table, chain);
        }
        for set in &self.spare.sets {
            batch.delete_set(table, set);
        }
        for extra in &self.extras {
            match extra {
                Extra::Most(most) => batch.add_set(table, &set(layout, SetId::Most(*most))),
                Extra::Idle(seconds) => {
                    timeouts(*seconds).iter().for_each(|t| batch.add_timeout(table, t));
                }
            }
        }
        for shape in &self.chains {
            for id in ids::of(*shape) {
                batch.add_set(table, &set(layout, id));
            }
            let name = shape.to_string();
            batch.add_chain(table, &name, None);
            for (expressions, comment) in shape.rules(layout) {
                batch.add_rule(table, &name, &expressions, &comment);
            }
            let shapes = SetId::Shapes { local: shape.local }.to_string();
            batch.add_elements(table, &shapes, std::iter::once(&way(Target::Pick(*shape))));
        }
        for (set, into) in &self.into {
            batch.add_elements(table, &set.to_string(), into.iter());
        }
    }

    fn remove(&self, batch: &mut Transaction, layout: &Layout) {
        let table = &layout.table;
        for (set, gone) in &self.gone {
            batch.delete_elements(table, &set.to_string(), gone.iter());
        }
        for shape in &self.gone_chains {
            let shapes = SetId::Shapes { local: shape.local }.to_string();
            batch.delete_elements(table, &shapes, std::iter::once(&way(Target::Pick(*shape))));
            batch.delete_chain(table, &shape.to_string());
            for id in ids::of(*shape) {
                batch.delete_set(table, &id.to_string());
            }
        }
        for extra in &self.gone_extras {
            match extra {
                Extra::Most(most) => batch.delete_set(table, &SetId::Most(*most).to_string()),
                Extra::Idle(seconds) => {
                    timeouts(*seconds).iter().for_each(|t| batch.delete_timeout(table, t));
                }
            }
        }
    }
}

/// The element that leads to a chain.
pub(super) fn way(target: Target) -> Element {
    Element { key: target.id().to_vec(), data: Some(Data::Goto(target.to_string())), ..Element::default() }
}

/// Lays a table without frontends.
fn bare(batch: &mut Transaction, layout: &Layout, outline: &Outline) {
    let table = &layout.table;
    lay(batch, table, ALWAYS.map(|id| set(layout, id)), chains(layout, outline));
    let refusals = [way(Target::Reject), way(Target::Drop)];
    for local in [false, true] {
        batch.add_elements(table, &SetId::Shapes { local }.to_string(), refusals.iter());
    }
}
