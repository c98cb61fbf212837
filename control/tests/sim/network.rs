//! What the network makes of what nodes send.

use super::{Slot, address, index, wheel::Wheel};
use mesh_control::node::{ExchangeId, Input, Output, Target};
use rand::{RngExt, rngs::StdRng};
use std::collections::{BTreeSet, HashMap};

/// Latency of TCP, in milliseconds; frames of one connection keep their order.
const TCP: u64 = 2;

/// What the network does to datagrams.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Weather {
    /// Share of datagrams lost.
    pub(crate) loss: f64,
    /// Share delivered twice.
    pub(crate) duplicates: f64,
    /// Longest delay in milliseconds; differing delays reorder.
    pub(crate) delay: u64,
    /// How far wall clocks are off at most at first, either way, in milliseconds.
    pub(crate) skew: i64,
}

pub(super) enum Event {
    /// For this run of a node.
    To(usize, u64, Input),
    Tick(usize),
    /// A stall ends.
    Wake(usize, u64),
    /// Time to write the state file.
    Keep(usize, u64),
}

/// A connection's end, by node and id.
type End = (usize, ExchangeId);

pub(super) struct Network {
    pub(super) now: u64,
    pub(super) wheel: Wheel<Event>,
    /// Which side of a partition each node is on.
    pub(super) sides: Vec<u8>,
    /// (from, to) that is cut in this direction only.
    pub(super) one_way: BTreeSet<(usize, usize)>,
    streams: HashMap<End, End>,
    accepted: u64,
}

impl Network {
    pub(super) fn new(nodes: usize) -> Network {
        Network {
            now: 0,
            wheel: Wheel::new(),
            sides: vec![0; nodes],
            one_way: BTreeSet::new(),
            streams: HashMap::new(),
            accepted: ExchangeId::ACCEPTED,
        }
    }

    pub(super) fn at(&mut self, at: u64, event: Event) {
        self.wheel.add(self.now, at, event);
    }

    fn later(&mut self, delay: u64, i: usize, input: Input, slots: &[Slot]) {
        self.at(self.now + delay, Event::To(i, slots[i].run, input));
    }

    fn cut(&self, a: usize, b: usize) -> bool {
        self.sides[a] != self.sides[b] || (!self.one_way.is_empty() && self.one_way.contains(&(a, b)))
    }

    /// Ends the connections that cross a cut.
    pub(super) fn cut_streams(&mut self, slots: &[Slot]) {
        self.hang_up(slots, |network, a, b| network.cut(a.0, b.0) || network.cut(b.0, a.0));
    }

    /// Ends the connections of node `i`.
    pub(super) fn hang_up_all(&mut self, i: usize, slots: &[Slot]) {
        self.hang_up(slots, |_, a, _| a.0 == i);
    }

    fn hang_up(&mut self, slots: &[Slot], which: impl Fn(&Network, &End, &End) -> bool) {
        let chosen = self.streams.iter().filter(|(a, b)| which(self, a, b)).map(|(a, _)| *a);
        // In an order that does not depend on the map's.
        let chosen: BTreeSet<End> = chosen.collect();
        for end in chosen {
            let Some(other) = self.streams.remove(&end) else { continue };
            self.streams.remove(&other);
            for (i, id) in [end, other] {
                self.later(TCP, i, Input::Closed(id), slots);
            }
        }
    }

    pub(super) fn carry(
        &mut self,
        i: usize,
        output: Output,
        weather: &Weather,
        rng: &mut StdRng,
        slots: &[Slot],
    ) {
        match output {
            Output::Datagram(to, bytes) => {
                let to = index(to);
                if self.cut(i, to) {
                    return;
                }
                let arrives = |rng: &mut StdRng| {
                    let lost = weather.loss > 0.0 && rng.random_bool(weather.loss);
                    (!lost).then(|| rng.random_range(0..=weather.delay))
                };
                if weather.duplicates > 0.0
                    && rng.random_bool(weather.duplicates)
                    && let Some(delay) = arrives(rng)
                {
                    self.later(delay, to, Input::Datagram(address(i), bytes.clone()), slots);
                }
                if let Some(delay) = arrives(rng) {
                    self.later(delay, to, Input::Datagram(address(i), bytes), slots);
                }
            }
            Output::Open(id, target) => {
                let to = index(match target {
                    Target::Seed(seed) => seed.parse().expect("seeds are addresses here"),
                    Target::Address(to) => to,
                });
                if self.cut(i, to) || self.cut(to, i) {
                    // Nobody says no: the connection hangs.
                    self.later(3_000, i, Input::Closed(id), slots);
                } else if !slots[to].opens(&slots[i]) {
                    // Nobody is there, or it hangs up on a key that it does not know.
                    self.later(TCP, i, Input::Closed(id), slots);
                } else {
                    self.accepted += 1;
                    let theirs = ExchangeId(self.accepted);
                    self.streams.insert((i, id), (to, theirs));
                    self.streams.insert((to, theirs), (i, id));
                    self.later(TCP, to, Input::Accepted(theirs), slots);
                    let micros = 2 * 1_000 * u32::try_from(TCP).expect("short");
                    self.later(2 * TCP, i, Input::Opened(id, micros), slots);
                }
            }
            Output::Frame(id, bytes) => {
                if let Some((to, theirs)) = self.streams.get(&(i, id)).copied() {
                    self.later(TCP, to, Input::Frame(theirs, bytes), slots);
                }
            }
            Output::Close(id) => {
                if let Some((to, theirs)) = self.streams.remove(&(i, id)) {
                    self.streams.remove(&(to, theirs));
                    self.later(TCP, to, Input::Closed(theirs), slots);
                }
            }
        }
    }
}
