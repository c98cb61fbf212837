//! The schedulers: which backend the next flow goes to. Pure: loads, weights and random numbers are arguments.

use crate::plan::{BackendId, maglev::MaglevTable};
use mesh_control::model::Scheduler;

/// A backend as a scheduler sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Load {
    /// Its weight, at least 1 when it is eligible.
    pub(super) weight: u16,
    /// Flows open to it now.
    pub(super) active: u64,
    /// Whether this flow may go to it.
    pub(super) eligible: bool,
}

/// What a scheduler remembers of one frontend between two flows.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct PickState {
    /// Where round robin goes on.
    next: usize,
    /// Smooth weighted round robin: the credit of each backend, in their order.
    credit: Vec<i64>,
}

impl PickState {
    /// The state for a changed list of backends (both sorted by id): whoever stays keeps its credit, and round robin
    /// goes on behind the same backend.
    pub(super) fn carried<'a>(
        &self,
        old: &[&'a BackendId],
        new: impl ExactSizeIterator<Item = &'a BackendId>,
    ) -> PickState {
        let mut next = 0;
        let mut credit = Vec::with_capacity(new.len());
        for id in new {
            match old.binary_search(&id) {
                Ok(at) => {
                    credit.push(self.credit.get(at).copied().unwrap_or(0));
                    next += usize::from(at < self.next);
                }
                Err(at) => {
                    credit.push(0);
                    next += usize::from(at < self.next);
                }
            }
        }
        PickState { next, credit }
    }

    /// The index of the backend for a new flow; absent when none is eligible.
    ///
    /// `hash` is the client's ([`crate::plan::maglev::client_hash`]), `random` a fresh random number; `maglev` is the
    /// table over the same list. A client whose maglev slot belongs to a backend that is not eligible goes on by
    /// hashing again, so that its clients spread over the others.
    pub(super) fn pick(
        &mut self,
        scheduler: Scheduler,
        loads: &[Load],
        maglev: Option<&MaglevTable>,
        hash: u64,
        random: u64,
    ) -> Option<usize> {
        match scheduler {
            Scheduler::Rr => self.round_robin(loads),
            Scheduler::Wrr => self.smooth(loads),
            Scheduler::Lc => self.least_connections(loads),
            Scheduler::Maglev => {
                maglev.and_then(|table| by_table(loads, table, hash)).or_else(|| by_share(loads, hash))
            }
            Scheduler::Random => by_share(loads, random),
        }
    }

    fn round_robin(&mut self, loads: &[Load]) -> Option<usize> {
        let from = self.next % loads.len().max(1);
        let at = (from..loads.len()).chain(0..from).find(|i| loads[*i].eligible)?;
        self.next = at + 1;
        Some(at)
    }

    /// Smooth weighted round robin, as nginx's upstream module describes it: everybody earns its weight, the richest
    /// is picked and pays the sum. A backend of weight 5 among two of weight 1 gives `a a b a c a a`.
    fn smooth(&mut self, loads: &[Load]) -> Option<usize> {
        self.credit.resize(loads.len(), 0);
        let mut total = 0;
        let mut best: Option<usize> = None;
        for (i, load) in loads.iter().enumerate().filter(|(_, load)| load.eligible) {
            let weight = i64::from(load.weight);
            total += weight;
            self.credit[i] += weight;
            if best.is_none_or(|b| self.credit[i] > self.credit[b]) {
                best = Some(i);
            }
        }
        let best = best?;
        self.credit[best] -= total;
        Some(best)
    }

    /// The fewest flows in proportion to weight, counting the one to come; equals take turns.
    fn least_connections(&mut self, loads: &[Load]) -> Option<usize> {
        let from = self.next % loads.len().max(1);
        let order = (from..loads.len()).chain(0..from);
        let best = order
            .filter(|i| loads[*i].eligible)
            .reduce(|best, i| if lighter(&loads[i], &loads[best]) { i } else { best })?;
        self.next = best + 1;
        Some(best)
    }
}

/// Whether `a` with one flow more is less loaded per weight than `b` with one more.
fn lighter(a: &Load, b: &Load) -> bool {
    cost(a) * u128::from(b.weight) < cost(b) * u128::from(a.weight)
}

fn cost(load: &Load) -> u128 {
    u128::from(load.active) + 1
}

/// How often a client hashes again before it takes whatever is eligible.
const REHASHES: u32 = 32;

fn by_table(loads: &[Load], table: &MaglevTable, hash: u64) -> Option<usize> {
    let mut hash = hash;
    for _ in 0..REHASHES {
        let at = table.pick(hash)?;
        if loads.get(at).is_some_and(|load| load.eligible) {
            return Some(at);
        }
        hash = crate::plan::maglev::mix(hash);
    }
    None
}

/// Picks in proportion to weight by a uniform number.
fn by_share(loads: &[Load], number: u64) -> Option<usize> {
    let total: u64 = loads.iter().filter(|load| load.eligible).map(|load| u64::from(load.weight)).sum();
    let mut at = number.checked_rem(total)?;
    for (i, load) in loads.iter().enumerate().filter(|(_, load)| load.eligible) {
        match at.checked_sub(u64::from(load.weight)) {
            Some(rest) => at = rest,
            None => return Some(i),
        }
    }
    None
}

/// The chance of each backend to get the next flow, for people. `hash` is the client's, when it is known.
///
/// For `rr` and `wrr` it is the share over a full round; for `lc` equals share alike.
pub(super) fn chances(
    scheduler: Scheduler,
    loads: &[Load],
    maglev: Option<&MaglevTable>,
    hash: Option<u64>,
) -> Vec<f64> {
    let mut out = vec![0.0; loads.len()];
    let eligible = || (0..loads.len()).filter(|i| loads[*i].eligible);
    match scheduler {
        Scheduler::Rr => spread(&mut out, eligible().map(|i| (i, 1.0)).collect()),
        Scheduler::Wrr | Scheduler::Random => {
            spread(&mut out, eligible().map(|i| (i, f64::from(loads[i].weight))).collect());
        }
        Scheduler::Lc => {
            let best = eligible().reduce(|b, i| if lighter(&loads[i], &loads[b]) { i } else { b });
            let equal = eligible().filter(|i| best.is_some_and(|b| !lighter(&loads[b], &loads[*i])));
            spread(&mut out, equal.map(|i| (i, 1.0)).collect());
        }
        Scheduler::Maglev => match hash {
            Some(hash) => {
                let at = PickState::default().pick(scheduler, loads, maglev, hash, hash);
                spread(&mut out, at.map(|at| (at, 1.0)).into_iter().collect());
            }
            None => {
                let slots = maglev.map_or(&[][..], MaglevTable::slots);
                let mut shares = vec![0.0; loads.len()];
                for slot in slots.iter().map(|slot| usize::from(*slot)).filter(|slot| *slot < loads.len()) {
                    shares[slot] += 1.0;
                }
                spread(&mut out, eligible().map(|i| (i, shares[i])).collect());
            }
        },
    }
    out
}

fn spread(out: &mut [f64], shares: Vec<(usize, f64)>) {
    let total: f64 = shares.iter().map(|(_, share)| share).sum();
    if total > 0.0 {
        for (i, share) in shares {
            out[i] = share / total;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::maglev::{backend_hash, client_hash, mix, table_size};
    use std::net::{IpAddr, Ipv4Addr};

    fn loads(weights: &[u16]) -> Vec<Load> {
        weights.iter().map(|w| Load { weight: *w, active: 0, eligible: *w > 0 }).collect()
    }

    fn run(scheduler: Scheduler, loads: &[Load], n: usize) -> Vec<usize> {
        let mut state = PickState::default();
        let mut random = 1;
        let mut next = || {
            random = mix(random + 1);
            random
        };
        (0..n).map(|_| state.pick(scheduler, loads, None, 0, next()).unwrap()).collect()
    }

    fn count(picks: &[usize], n: usize) -> Vec<usize> {
        (0..n).map(|i| picks.iter().filter(|p| **p == i).count()).collect()
    }

    fn ids(names: &[&str]) -> Vec<BackendId> {
        names
            .iter()
            .map(|n| BackendId { instance: n.parse().unwrap(), node: "n1".parse().unwrap() })
            .collect()
    }

    #[test]
    fn round_robin_takes_turns_and_leaves_out_who_is_not_eligible() {
        assert_eq!(run(Scheduler::Rr, &loads(&[1, 9, 3]), 6), [0, 1, 2, 0, 1, 2]);
        assert_eq!(run(Scheduler::Rr, &loads(&[1, 0, 3]), 4), [0, 2, 0, 2]);
        assert_eq!(PickState::default().pick(Scheduler::Rr, &loads(&[0, 0]), None, 0, 0), None);
        assert_eq!(PickState::default().pick(Scheduler::Rr, &[], None, 0, 0), None);
    }

    #[test]
    fn weighted_round_robin_is_exact_and_smooth() {
        assert_eq!(run(Scheduler::Wrr, &loads(&[5, 1, 1]), 7), [0, 0, 1, 0, 2, 0, 0]);
        assert_eq!(count(&run(Scheduler::Wrr, &loads(&[3, 2, 1]), 600), 3), [300, 200, 100]);
    }

    #[test]
    fn least_connections_goes_by_weight() {
        let mut all = loads(&[1, 3]);
        let mut state = PickState::default();
        for _ in 0..400 {
            let at = state.pick(Scheduler::Lc, &all, None, 0, 0).unwrap();
            all[at].active += 1;
        }
        assert_eq!((all[0].active, all[1].active), (100, 300));
        assert_eq!(count(&run(Scheduler::Lc, &loads(&[1, 1, 1]), 30), 3), [10, 10, 10]);
    }

    #[test]
    fn random_follows_the_weights() {
        let counts = count(&run(Scheduler::Random, &loads(&[1, 3, 0]), 8000), 3);
        assert!((1800..2200).contains(&counts[0]) && counts[2] == 0, "{counts:?}");
    }

    #[test]
    fn maglev_keeps_clients_when_another_backend_is_away() {
        let ids = ids(&["a", "b", "c", "d"]);
        let entries: Vec<_> = ids.iter().map(|id| (backend_hash(id), 1)).collect();
        let table = MaglevTable::build(&entries, table_size(ids.len()));
        let all = loads(&[1, 1, 1, 1]);
        let mut without = all.clone();
        without[2].eligible = false;
        let mut state = PickState::default();
        let mut moved = [0; 4];
        for n in 0..4000 {
            let hash = client_hash(IpAddr::from(Ipv4Addr::from_bits(0x0a00_0000 + n)));
            let before = state.pick(Scheduler::Maglev, &all, Some(&table), hash, 0).unwrap();
            let after = state.pick(Scheduler::Maglev, &without, Some(&table), hash, 0).unwrap();
            assert!(before == 2 || before == after, "client {n} moved from {before} to {after}");
            if before == 2 {
                moved[after] += 1;
            }
        }
        assert!([0, 1, 3].iter().all(|i| moved[*i] > 200) && moved[2] == 0, "{moved:?}");
    }

    #[test]
    fn a_changed_list_keeps_credit_and_turn() {
        let (before, after) = (ids(&["a", "b", "d"]), ids(&["a", "c", "d"]));
        let old: Vec<&BackendId> = before.iter().collect();
        let state = PickState { next: 2, credit: vec![1, 2, 3] };
        let new = state.carried(&old, after.iter());
        // The turn was behind b, so it goes on with c.
        assert_eq!(new, PickState { next: 1, credit: vec![1, 0, 3] });
    }

    #[test]
    fn chances_add_up_and_agree_with_picks() {
        let loads = loads(&[1, 3, 0]);
        assert_eq!(chances(Scheduler::Rr, &loads, None, None), [0.5, 0.5, 0.0]);
        assert_eq!(chances(Scheduler::Wrr, &loads, None, None), [0.25, 0.75, 0.0]);
        assert_eq!(chances(Scheduler::Lc, &loads, None, None), [0.0, 1.0, 0.0]);
        assert_eq!(chances(Scheduler::Maglev, &loads, None, Some(3)).iter().sum::<f64>(), 1.0);
    }
}
