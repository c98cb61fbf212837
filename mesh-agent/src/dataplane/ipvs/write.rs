//! From a change of the table to what is sent to the kernel. Pure.

use super::{
    realize::{Placed, Program, Realized, realize},
    rules::{chains, sets},
    site::Site,
    state::{Shared, State, hold, ip, release, side},
};
use crate::{
    dataplane::netfilter::{base::lay, sets::Common},
    plan::{FrontendKey, Table},
    sys::{
        ipvs::{Command, Virtual},
        nft::{Element, Transaction},
    },
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

type BySet = BTreeMap<&'static str, Vec<Element>>;

/// What happens to the elements of one family.
#[derive(Debug, Default)]
pub(super) struct Elements {
    pub(super) out: BySet,
    pub(super) into: BySet,
}

/// A change of everything.
#[derive(Debug, Default)]
pub(super) struct Change {
    pub(super) touched: BTreeSet<FrontendKey>,
    /// By family, as [`State::sides`].
    pub(super) elements: [Elements; 2],
    /// By what they are about, in order: what comes or changes before what goes.
    pub(super) commands: Vec<Command>,
    /// What IPVS holds of these afterwards; `None` when they are gone.
    programs: BTreeMap<Virtual, Option<Program>>,
    shared: [Shared; 2],
    /// VIPs that come and that go.
    pub(super) vips: (BTreeSet<IpAddr>, BTreeSet<IpAddr>),
}

impl Change {
    /// Brings the frontends named in `touched` from `state` to what `work` says at `now` (Unix ms).
    pub(super) fn plan(
        state: &State,
        site: &Site,
        work: &Table,
        touched: &BTreeSet<FrontendKey>,
        now: u64,
    ) -> Change {
        let mut change = Change { touched: touched.clone(), ..Change::default() };
        let mut wanted: BTreeMap<Virtual, Option<Program>> =
            state.strays.iter().map(|stray| (*stray, None)).collect();
        for (i, held) in state.sides.iter().enumerate() {
            let elements = &mut change.elements[i];
            for (set, element) in &held.debris {
                elements.out.entry(set).or_default().push(element.clone());
            }
            let mut needed: BTreeMap<(&'static str, Vec<u8>), ()> = BTreeMap::new();
            let mut counts: Vec<(bool, Realized)> = Vec::new();
            for key in touched.iter().filter(|key| side(key.listen.family()) == i) {
                let of = |table: &Table| {
                    table.get(key).map(|entry| realize(&held.layout, site, entry, &state.numbers, now))
                };
                let (old, new) = (of(&state.table), of(work));
                for realized in old.iter().chain(&new) {
                    needed.extend(realized.shared.iter().map(|(set, e)| ((*set, e.key.clone()), ())));
                    for of in realized.programs.keys() {
                        // A range that is cut anew: what one frontend leaves another may have.
                        wanted.entry(*of).or_insert(None);
                    }
                }
                for (of, (_, program)) in new.iter().flat_map(|new| &new.programs) {
                    wanted.insert(*of, Some(program.clone()));
                }
                elements.differ(old.as_ref(), new.as_ref());
                counts.extend(old.map(|old| (false, old)));
                counts.extend(new.map(|new| (true, new)));
            }
            // Only what is touched is counted anew.
            let mut shared: Shared =
                needed.keys().filter_map(|k| held.shared.get(k).map(|n| (k.clone(), *n))).collect();
            // New ones first, so that none falls to nothing in between.
            counts.sort_by_key(|(new, _)| !new);
            for (new, realized) in &counts {
                if *new { hold(&mut shared, realized) } else { release(&mut shared, realized) }
            }
            for (at, ()) in needed {
                let element = Element { key: at.1.clone(), ..Element::default() };
                let vip = if at.0 == Common::Vips.name() { ip(&at.1) } else { None };
                match (held.shared.contains_key(&at), shared.contains_key(&at)) {
                    (false, true) => {
                        elements.into.entry(at.0).or_default().push(element);
                        change.vips.0.extend(vip);
                    }
                    (true, false) => {
                        elements.out.entry(at.0).or_default().push(element);
                        change.vips.1.extend(vip);
                    }
                    _ => {}
                }
                change.shared[i].insert(at.clone(), shared.get(&at).copied().unwrap_or(0));
            }
        }
        let mut last = Vec::new();
        for (of, program) in &wanted {
            commands(of, state.programs.get(of), program.as_ref(), &mut change.commands, &mut last);
        }
        change.commands.append(&mut last);
        change.programs = wanted;
        change
    }

    /// Whether nf_tables has anything to do.
    pub(super) fn is_quiet(&self, state: &State) -> bool {
        let still = |elements: &Elements| elements.out.is_empty() && elements.into.is_empty();
        self.elements.iter().all(still) && state.sides.iter().all(|side| side.base)
    }

    /// What nf_tables has to do.
    pub(super) fn transaction(&self, state: &State, site: &Site) -> Transaction {
        let mut batch = Transaction::new();
        for (side, elements) in state.sides.iter().zip(&self.elements) {
            let table = &side.layout.table;
            if !side.base {
                lay(&mut batch, table, sets(&side.layout, site), chains(&side.layout, site));
            }
            for (set, out) in &elements.out {
                batch.delete_elements(table, set, out.iter());
            }
            for (set, into) in &elements.into {
                batch.add_elements(table, set, into.iter());
            }
        }
        batch
    }

    /// Notes that it was done.
    pub(super) fn done(self, state: &mut State, work: &Table) {
        for (side, shared) in state.sides.iter_mut().zip(self.shared) {
            side.base = true;
            side.debris.clear();
            for (key, count) in shared {
                match count {
                    0 => drop(side.shared.remove(&key)),
                    count => drop(side.shared.insert(key, count)),
                }
            }
        }
        for (of, program) in self.programs {
            match program {
                Some(program) => drop(state.programs.insert(of, program)),
                None => drop(state.programs.remove(&of)),
            }
        }
        state.strays.clear();
        state.table = work.clone();
    }
}

/// From one to the other, never by deleting what stays: what comes or changes goes to `first`, what leaves to `last`.
fn commands(
    of: &Virtual,
    held: Option<&Program>,
    wanted: Option<&Program>,
    first: &mut Vec<Command>,
    last: &mut Vec<Command>,
) {
    let none = BTreeMap::new();
    let Some(wanted) = wanted else {
        last.extend(held.map(|_| Command::DelService(*of)));
        return;
    };
    match held {
        None => first.push(Command::NewService(*of, wanted.service.clone())),
        Some(held) if held.service != wanted.service => {
            first.push(Command::SetService(*of, wanted.service.clone()));
        }
        Some(_) => {}
    }
    let held = held.map_or(&none, |held| &held.destinations);
    for (at, destination) in &wanted.destinations {
        match held.get(at) {
            None => first.push(Command::NewDest(*of, *at, *destination)),
            Some(held) if held != destination => first.push(Command::SetDest(*of, *at, *destination)),
            Some(_) => {}
        }
    }
    let gone = held.keys().filter(|at| !wanted.destinations.contains_key(at));
    last.extend(gone.map(|at| Command::DelDest(*of, *at)));
}

impl Elements {
    /// Takes out what only `old` has and puts in what only `new` has.
    fn differ(&mut self, old: Option<&Realized>, new: Option<&Realized>) {
        let by_key = |(set, element): &Placed| ((*set, element.key.clone()), element.clone());
        let mut before: BTreeMap<(&'static str, Vec<u8>), Element> =
            old.into_iter().flat_map(|r| &r.own).map(by_key).collect();
        for (set, element) in new.into_iter().flat_map(|r| &r.own) {
            match before.remove(&(*set, element.key.clone())) {
                Some(held) if held == *element => continue,
                Some(held) => self.out.entry(set).or_default().push(held),
                None => {}
            }
            self.into.entry(set).or_default().push(element.clone());
        }
        for ((set, _), element) in before {
            self.out.entry(set).or_default().push(element);
        }
    }
}
