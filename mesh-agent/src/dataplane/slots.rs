//! Schedulers as lists of slots: a new flow picks a slot by number, and a slot leads to a backend. Pure.

use crate::plan::{
    Entry,
    maglev::{MaglevTable, backend_hash, table_size},
};
use mesh_control::model::Scheduler;

/// Most slots of a weighted frontend; weights are rounded to fit.
const MOST: u64 = 1024;

/// Slots, each an index into the entry's backends; empty when none takes new flows. Round robin takes them in turn,
/// `random` any, `maglev` by the client's hash; for `lc` they are the backends to compare.
pub(super) fn slots(entry: &Entry) -> Vec<usize> {
    let weight = |even: bool| {
        let weigh = |(i, b): (usize, &crate::plan::Backend)| {
            b.takes_new_flows().then_some((i, if even { 1 } else { u64::from(b.weight) }))
        };
        scaled(entry.backends.iter().enumerate().filter_map(weigh).collect())
    };
    match entry.frontend.scheduler {
        Scheduler::Rr | Scheduler::Lc => smooth(&weight(true)),
        Scheduler::Wrr => smooth(&weight(false)),
        Scheduler::Random => {
            let repeat =
                |(i, weight): &(usize, u64)| std::iter::repeat_n(*i, usize::try_from(*weight).unwrap_or(0));
            weight(false).iter().flat_map(repeat).collect()
        }
        Scheduler::Maglev => maglev(entry),
    }
}

/// Every node builds the same table from the same backends, whatever their state.
fn maglev(entry: &Entry) -> Vec<usize> {
    let weight = |b: &crate::plan::Backend| if b.takes_new_flows() { b.weight } else { 0 };
    let list: Vec<(u64, u16)> = entry.backends.iter().map(|b| (backend_hash(&b.id), weight(b))).collect();
    let table = MaglevTable::build(&list, table_size(list.len()));
    table.slots().iter().map(|slot| usize::from(*slot)).collect()
}

/// Weights without their common divisor, rounded when there would be too many slots.
fn scaled(mut weights: Vec<(usize, u64)>) -> Vec<(usize, u64)> {
    let divisor = weights.iter().fold(0, |divisor, (_, weight)| gcd(divisor, *weight)).max(1);
    let sum: u64 = weights.iter().map(|(_, weight)| weight / divisor).sum();
    for (_, weight) in &mut weights {
        *weight /= divisor;
        if sum > MOST {
            *weight = (*weight * MOST / sum).max(1);
        }
    }
    weights
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Smooth weighted round robin, one whole turn of it: within any stretch each has its share to within one.
fn smooth(weights: &[(usize, u64)]) -> Vec<usize> {
    let total: u64 = weights.iter().map(|(_, weight)| weight).sum();
    if weights.iter().all(|(_, weight)| *weight == 1) {
        return weights.iter().map(|(i, _)| *i).collect();
    }
    let mut credits = vec![0_u64; weights.len()];
    let mut order = Vec::new();
    for turn in 1..=total {
        // The one that is due first: credit grows by weight each turn, and the taker pays the total.
        let due = |i: usize, (_, weight): &(usize, u64)| (turn * weight).saturating_sub(credits[i] * total);
        let best = weights.iter().enumerate().max_by_key(|(i, w)| (due(*i, w), std::cmp::Reverse(*i)));
        if let Some((i, (backend, _))) = best {
            credits[i] += 1;
            order.push(*backend);
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_of_weighted_round_robin_is_spread() {
        assert_eq!(smooth(&scaled(vec![(0, 100), (2, 200), (3, 100)])), [2, 0, 3, 2]);
        assert_eq!(smooth(&scaled(vec![(4, 7), (5, 7)])), [4, 5], "without the common divisor");
        let heavy = scaled(vec![(0, 60_000), (1, 59_999), (2, 1)]);
        assert!(heavy.iter().map(|(_, w)| w).sum::<u64>() <= MOST + 1 && heavy[2].1 == 1, "{heavy:?}");
    }

    #[test]
    fn every_stretch_of_a_turn_has_its_share() {
        let weights = [(0, 1), (1, 5), (2, 3)];
        let turn = smooth(&weights);
        let endless: Vec<usize> = turn.iter().copied().cycle().take(90).collect();
        for (backend, weight) in weights {
            for (start, len) in (0..40).flat_map(|s| (1..50).map(move |l| (s, l))) {
                let got = endless[start..start + len].iter().filter(|b| **b == backend).count();
                let share =
                    f64::from(u32::try_from(len).unwrap()) * f64::from(u32::try_from(weight).unwrap()) / 9.0;
                assert!((f64::from(u32::try_from(got).unwrap()) - share).abs() <= 2.0, "{turn:?}");
            }
        }
    }
}
