//! The table of flows, `flows4` and `flows6`: where a flow lies in it, and what programs and the agent may do there.
//!
//! ```text
//!  a set: │ head: lock, 15 marks │ flow │ flow │ … 15 │      a line each
//! ```
//!
//! A flow's direction is in the set of its client's end: that of a client's packets in the set of their source, that of
//! answers in the set of their destination. So both are in one set unless the node has put an address of its own in the
//! client's place, and who begins a flow waits for one place of memory. The mark of a flow says enough to pass by the
//! others without a look at them, and which flow is worth least when all fifteen places are taken.
//!
//! Who adds a flow has the set's lock. All else is done without: a flow is there while its mark is, so who writes one
//! down writes the mark last, and who removes one exchanges the mark that was seen for 0.
//!
//! The kernel's own table with LRU has one memory for keys and another for its list of what was used last; with it a
//! flow took more than twice as long to begin, and under a flood of beginnings it drops what is open as readily as what was
//! just begun.

use crate::{Flow, FlowKey, V4, V6, direction};

/// Lines of a set: its head, and a flow in each of the others.
pub const LINES: u32 = 16;
/// Flows of a set.
pub const WAYS: u32 = LINES - 1;

/// The first line of a set: the lock, 0 when nobody has it, and the marks of the flows in the lines after it; 0 for a
/// place that is free.
pub type Head = [u32; LINES as usize];

/// One direction of a flow.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry<A> {
    /// Which.
    pub key: FlowKey<A>,
    /// What its packets become.
    pub flow: Flow<A>,
}

/// A line, filled up to the length of a [`Head`] at least: IPv4's lie at an even 64.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Line<A, const PAD: usize> {
    /// The flow.
    pub entry: Entry<A>,
    /// Always 0.
    pub pad: [u32; PAD],
}

/// A line of `flows4`.
pub type Line4 = Line<V4, 4>;
/// A line of `flows6`.
pub type Line6 = Line<V6, 0>;

/// How many sets have room for so many directions of flows. There are twice as many places, so that few sets are full before
/// the table is: when it is, sets have 3.5 flows on average, and 1 in 37 has more than the seven that have room in it; when
/// it is half full, 1 in 1000.
#[must_use]
pub const fn sets(directions: u32) -> u32 {
    #[expect(clippy::cast_possible_truncation, reason = "a 7.5th of a number of 32 bits")]
    let sets = (directions as u64 * 2).div_ceil(WAYS as u64) as u32;
    if sets == 0 { 1 } else { sets }
}

/// An address of either family.
pub trait Address: Copy + PartialEq {
    /// Made a number; all of it counts.
    fn folded(self, seed: u64) -> u64;
}

impl Address for V4 {
    #[inline(always)]
    fn folded(self, seed: u64) -> u64 {
        seed ^ u32::from_ne_bytes(self) as u64
    }
}

impl Address for V6 {
    #[inline(always)]
    fn folded(self, seed: u64) -> u64 {
        // SAFETY: numbers of the same size.
        let [high, low]: [u64; 2] = unsafe { core::mem::transmute(self) };
        mixed(mixed(high ^ seed) ^ low)
    }
}

#[inline(always)]
const fn mixed(number: u64) -> u64 {
    let number = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    number ^ number >> 32
}

/// Where a key may be: in the set of its source, if it is a client's, or in that of its destination.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// The sets: of the source and of the destination.
    pub sets: [u32; 2],
    /// The upper half of its mark; never 0.
    pub tag: u32,
}

impl Place {
    /// Of a key, in a table of so many sets. Whoever does not know the seed cannot tell which ends of clients share a set.
    #[must_use]
    #[inline(always)]
    pub fn of<A: Address>(key: &FlowKey<A>, sets: u32, seed: u32) -> Place {
        let seed = seed as u64 | (seed as u64) << 32;
        let end = |address: A, port: u16| {
            mixed(mixed(address.folded(seed) ^ (port as u64 | (key.protocol as u64) << 16) << 32))
        };
        let source = end(key.source, key.source_port);
        let destination = end(key.destination, key.destination_port);
        let set = |end: u64| crate::hash::scale((end >> 32) as u32, sets);
        #[expect(clippy::cast_possible_truncation, reason = "the low half of a number")]
        let tag = (source ^ destination.rotate_left(7)) as u32;
        Place { sets: [set(source), set(destination)], tag: tag << 16 | TAKEN }
    }
}

/// The bit that every mark has.
const TAKEN: u32 = 1 << 31;
/// The bits of a mark that are its flow's tag.
pub const TAG: u32 = 0xffff_0000;
/// How many of its bits say when the flow was seen.
const WHEN: u32 = 14;

/// What a mark says of its flow's state: 0 begun, 1 open, 2 closed.
#[inline(always)]
const fn class(bits: u32) -> u32 {
    let closed = (bits / direction::CLOSED) & 1;
    let open = (bits / direction::OPEN) & 1;
    closed << 1 | open & !closed
}

/// How fine the time of a mark is: of those that are open 4096 jiffies, of others, which are not kept for long, 16.
#[inline(always)]
const fn shift(class: u32) -> u32 {
    4 + (class & 1) * 8
}

/// The mark of a flow with these [`direction`] bits that was seen now (jiffies, low half).
#[must_use]
#[inline(always)]
pub const fn mark(tag: u32, bits: u32, now: u32) -> u32 {
    let class = class(bits);
    tag & TAG | class << WHEN | now >> shift(class) & ((1 << WHEN) - 1)
}

/// How readily a place is given to another flow, the higher the sooner: one that is free, one that is closed, one that
/// was never open, one that was not seen for long. Without a branch: the verifier would follow each for each place.
#[must_use]
#[inline(always)]
pub const fn readiness(mark: u32, now: u32) -> u32 {
    let free = mark >> 31 ^ 1;
    let class = mark >> WHEN & 3;
    let age = (now >> shift(class)).wrapping_sub(mark) & ((1 << WHEN) - 1);
    free << (WHEN + 2) | (class ^ 1) << WHEN | age
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPEN: u32 = direction::OPEN;
    const CLOSED: u32 = direction::CLOSED;

    fn key(client: u16) -> FlowKey<V4> {
        FlowKey {
            source: [10, 0, 0, 1],
            destination: [10, 96, 0, 1],
            source_port: client.to_be(),
            destination_port: 80_u16.to_be(),
            protocol: 6,
            pad: [0; 3],
        }
    }

    fn answers(client: u16) -> FlowKey<V4> {
        let FlowKey { source, source_port, .. } = key(client);
        let (backend, port) = ([10, 128, 0, 9], 8080_u16.to_be());
        FlowKey {
            source: backend,
            destination: source,
            source_port: port,
            destination_port: source_port,
            ..key(client)
        }
    }

    #[test]
    fn both_directions_are_in_the_set_of_the_client() {
        for client in 1..1000 {
            let [there, back] = [key(client), answers(client)].map(|key| Place::of(&key, 1000, 7));
            assert_eq!(there.sets[0], back.sets[1], "{client}");
        }
        let wide = |last: u8| {
            let mut address = [0xfd; 16];
            address[15] = last;
            address
        };
        let six = |source, destination, source_port, destination_port| FlowKey::<V6> {
            source,
            destination,
            source_port,
            destination_port,
            protocol: 17,
            pad: [0; 3],
        };
        let there = Place::of(&six(wide(1), wide(2), 5, 80), 1000, 7);
        let back = Place::of(&six(wide(3), wide(1), 8080, 5), 1000, 7);
        assert_eq!(there.sets[0], back.sets[1]);
        assert_ne!(there, Place::of(&six(wide(1), wide(2), 5, 80), 1000, 8), "the seed");
    }

    #[test]
    fn a_table_that_is_half_full_has_room_in_nearly_every_set() {
        let directions = 1 << 16;
        let sets = sets(directions);
        let mut taken = [0_u8; 1 << 14];
        assert!(usize::try_from(sets).unwrap() <= taken.len());
        let (mut over, mut tags) = (0, 0);
        let mut last = 0;
        for client in 0..directions / 2 {
            // Ports of a few clients, one after the other, as they come.
            let client_key = FlowKey {
                source: [10, 0, 0, (client >> 14).to_le_bytes()[0]],
                source_port: u16::try_from(client & 0x3fff).unwrap().to_be(),
                ..key(0)
            };
            let place = Place::of(&client_key, sets, 0x1234_5678);
            let set = &mut taken[place.sets[0] as usize];
            *set += 2;
            over += u32::from(*set > 15);
            tags += u32::from(place.tag == last);
            last = place.tag;
        }
        assert!(over < directions / 2 / 20, "{over} of {} flows had to make room", directions / 2);
        assert!(tags < 20, "{tags} tags are alike");
    }

    #[test]
    fn what_is_worth_least_makes_room_first() {
        let now = 1_000_000;
        let of = |bits, ago| readiness(mark(TAG, bits, now - ago), now);
        let order = [
            readiness(0, now),
            of(CLOSED, 10_000),
            of(CLOSED | OPEN, 1000),
            of(0, 30_000),
            of(0, 500),
            of(OPEN, 900_000),
            of(OPEN, 20_000),
        ];
        assert!(order.is_sorted_by(|one, next| one > next), "{order:?}");
        // Seen now, by a clock that is a little behind.
        assert_eq!(readiness(mark(TAG, OPEN, 4096), 4096) & 0x3fff, 0);
    }
}
