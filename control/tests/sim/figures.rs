//! What is measured of a mesh, in simulated time.

use super::{
    Sim,
    parts::{put_plain, service},
};
use mesh_control::model::Origin;

/// One measured figure.
#[derive(Debug)]
pub(crate) struct Figure {
    pub(crate) what: String,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    /// It should be at most this.
    pub(crate) goal: Option<f64>,
}

pub(crate) fn figure(what: &str, value: f64, unit: &'static str, goal: Option<f64>) -> Figure {
    Figure { what: what.to_owned(), value, unit, goal }
}

/// Median and worst, in seconds, of times in milliseconds.
pub(crate) fn median_and_worst(mut times: Vec<u64>) -> (f64, f64) {
    times.sort_unstable();
    let at = |i: usize| times.get(i).map_or(0.0, |ms| *ms as f64 / 1_000.0);
    (at(times.len() / 2), at(times.len().saturating_sub(1)))
}

impl Sim {
    /// Bytes that each node sends a second while nothing is asked of the mesh, without the headers of IP, UDP and TCP.
    pub(crate) fn idle_bytes(&mut self, seconds: u64) -> f64 {
        let before = self.traffic;
        self.run(self.now + seconds * 1_000);
        let bytes = (self.traffic[1] - before[1]) + (self.traffic[3] - before[3]);
        bytes as f64 / (seconds * self.alive().len() as u64) as f64
    }

    /// Runs until `good` on every node that lives, looking every `step` milliseconds; how long it took on each.
    pub(crate) fn times(
        &mut self,
        limit: u64,
        step: u64,
        what: &str,
        good: impl Fn(&Sim, usize) -> bool,
    ) -> Vec<u64> {
        let (start, mut waiting, mut times) = (self.now, self.alive(), Vec::new());
        loop {
            let (now, before) = (self.now - start, waiting.len());
            waiting.retain(|i| !good(self, *i));
            times.extend(std::iter::repeat_n(now, before - waiting.len()));
            if waiting.is_empty() {
                return times;
            }
            let left = waiting.len();
            assert!(now < limit, "{}: {what}: {left} nodes lack it after {limit} ms", self.failed());
            self.run(self.now + step);
        }
    }

    /// Declares the service of number `s` at node `i` and sees how long the nodes take to show it.
    pub(crate) fn time_update(&mut self, i: usize, s: usize) -> Vec<u64> {
        self.submit(i, vec![put_plain(Origin::Cluster, service(s))]);
        self.times(60_000, 5, "one update", |sim, j| sim.view(j).services.contains_key(&service(s)))
    }

    /// How long it takes until all that live hold the same and see each other, in milliseconds.
    pub(crate) fn time_until_equal(&mut self, limit: u64, step: u64) -> u64 {
        let start = self.now;
        let up = self.alive().len();
        while !self.are_equal(up) {
            assert!(self.now < start + limit, "{}: they differ after {limit} ms", self.failed());
            self.run(self.now + step);
        }
        self.now - start
    }

    /// Whether all that live hold the same, see `up` nodes up and the same services.
    fn are_equal(&self, up: usize) -> bool {
        let alive = self.alive();
        let first = self.node(alive[0]);
        let (hash, services) = (first.state_hash(), &first.snapshot().services);
        alive.iter().all(|i| self.node(*i).state_hash() == hash)
            && alive.iter().all(|i| {
                let view = self.view(*i);
                view.nodes.values().filter(|n| n.state.is_up()).count() == up && view.services == *services
            })
    }
}
