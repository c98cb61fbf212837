//! Picking a backend for a new flow, and the chances of each: the reference for every scheduler.

use crate::plan::{
    Backend, BackendId, Entry,
    maglev::{MaglevTable, backend_hash, client_hash, mix, table_size},
};
use mesh_control::model::Scheduler;
use std::{collections::BTreeMap, net::IpAddr};

/// What a frontend's scheduler remembers from one pick to the next.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// The backend picked last.
    last: Option<BackendId>,
    /// Smooth weighted round robin: how far each is ahead or behind.
    credit: BTreeMap<BackendId, i64>,
    /// Picks so far, the seed of the next random one.
    picks: u64,
}

/// One that may be picked, and its open flows.
pub(super) type Taker<'a> = (&'a Backend, u64);

impl Memory {
    /// The next backend out of `takers`, which are sorted by id.
    pub(super) fn pick(&mut self, entry: &Entry, takers: &[Taker<'_>], client: IpAddr) -> Option<BackendId> {
        let first = takers.first()?;
        self.picks += 1;
        let picked = match entry.frontend.scheduler {
            Scheduler::Rr => {
                let after = |(b, _): &&Taker<'_>| self.last.as_ref().is_none_or(|last| b.id > *last);
                takers.iter().find(after).unwrap_or(first).0
            }
            Scheduler::Wrr => self.weighted(takers)?,
            Scheduler::Lc => least_loaded(takers)?,
            Scheduler::Random => {
                let total: u64 = takers.iter().map(|(b, _)| u64::from(b.weight)).sum();
                let mut point = mix(self.picks).checked_rem(total)?;
                let falls = |(b, _): &&Taker<'_>| {
                    let here = point < u64::from(b.weight);
                    point = point.saturating_sub(u64::from(b.weight));
                    here
                };
                takers.iter().find(falls)?.0
            }
            Scheduler::Maglev => {
                let table = maglev(entry, takers);
                takers.get(table.pick(client_hash(client))?)?.0
            }
        };
        self.last = Some(picked.id.clone());
        Some(picked.id.clone())
    }

    /// Everybody earns its weight, the richest pays the sum: the picks of one backend lie evenly apart.
    fn weighted<'a>(&mut self, takers: &[Taker<'a>]) -> Option<&'a Backend> {
        self.credit.retain(|id, _| takers.iter().any(|(b, _)| b.id == *id));
        let mut total = 0;
        for (b, _) in takers {
            *self.credit.entry(b.id.clone()).or_default() += i64::from(b.weight);
            total += i64::from(b.weight);
        }
        let credit = |b: &Backend| self.credit.get(&b.id).copied().unwrap_or(0);
        let picked = takers.iter().rev().max_by_key(|(b, _)| credit(b))?.0;
        *self.credit.entry(picked.id.clone()).or_default() -= total;
        Some(picked)
    }
}

/// The chance of each taker for the next flow. Round robin tells its shares, not its next: by the time anybody acts
/// on the answer other clients have moved it on.
pub(super) fn shares(entry: &Entry, takers: &[Taker<'_>], client: Option<IpAddr>) -> Vec<f64> {
    let only = |id: Option<&BackendId>| {
        takers.iter().map(|(b, _)| if Some(&b.id) == id { 1.0 } else { 0.0 }).collect::<Vec<f64>>()
    };
    let total: f64 = takers.iter().map(|(b, _)| f64::from(b.weight)).sum();
    match (entry.frontend.scheduler, client) {
        (Scheduler::Rr, _) => takers.iter().map(|_| 1.0 / count(takers.len())).collect(),
        (Scheduler::Wrr | Scheduler::Random, _) => {
            takers.iter().map(|(b, _)| f64::from(b.weight) / total).collect()
        }
        (Scheduler::Lc, _) => only(least_loaded(takers).map(|b| &b.id)),
        (Scheduler::Maglev, Some(client)) => {
            let index = maglev(entry, takers).pick(client_hash(client));
            only(index.and_then(|i| takers.get(i)).map(|(b, _)| &b.id))
        }
        (Scheduler::Maglev, None) => {
            let table = maglev(entry, takers);
            (0..takers.len()).map(|i| table.share(i)).collect()
        }
    }
}

/// The fewest flows for its weight, counting the flow to come; the least id among equals.
fn least_loaded<'a>(takers: &[Taker<'a>]) -> Option<&'a Backend> {
    let load = |(b, active): &Taker<'_>| (u128::from(*active) + 1, u128::from(b.weight));
    let best = takers.iter().min_by(|a, b| {
        let ((x, u), (y, v)) = (load(a), load(b));
        (x * v).cmp(&(y * u)).then_with(|| a.0.id.cmp(&b.0.id))
    });
    best.map(|(b, _)| *b)
}

fn maglev(entry: &Entry, takers: &[Taker<'_>]) -> MaglevTable {
    let weights: Vec<(u64, u16)> = takers.iter().map(|(b, _)| (backend_hash(&b.id), b.weight)).collect();
    MaglevTable::build(&weights, table_size(entry.backends.len()))
}

fn count(n: usize) -> f64 {
    f64::from(u32::try_from(n).unwrap_or(u32::MAX))
}
