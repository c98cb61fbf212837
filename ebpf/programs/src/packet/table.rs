//! The table of flows, as programs look into it and write to it (`mesh_ebpf_common::table`).

use super::{
    clock::now,
    frame::opaque,
    ip::Ip,
    work::{Steps, Work, work},
};
use crate::{
    atomic,
    maps::{EVICTED, config},
};
use core::{arch::asm, ptr::copy_nonoverlapping};
use mesh_ebpf_common::{
    Config, Flow, FlowKey, direction, mode,
    table::{Entry, Head, LINES, Place, WAYS, mark, readiness},
};

/// Which ends of a key are looked by: a client's packets are found by their source, answers by their destination.
pub mod end {
    pub const SOURCE: u32 = 0x1;
    pub const DESTINATION: u32 = 0x2;
    pub const EITHER: u32 = SOURCE | DESTINATION;
}

/// How often a lock is asked for that another CPU has. It has it for some hundred nanoseconds.
const TRIES: u32 = 512;
/// How often a mark is exchanged that another CPU changes at the same time.
const EXCHANGES: u32 = 4;
/// No line: a set's first is its head.
pub const NOWHERE: u32 = 0;
/// What [`add`] says when the flow is there.
pub const THERE: u32 = u32::MAX;

/// A flow of the table.
pub struct Found<A: 'static> {
    /// Its line.
    pub line: u32,
    /// What its packets become.
    pub flow: &'static mut Flow<A>,
}

/// Keys are compared and mixed by words.
#[inline(always)]
pub fn word<A>(key: &FlowKey<A>, number: usize) -> u64 {
    // SAFETY: a key is two or five of them, without gaps, and lies at an even eight in packets, maps and caches.
    unsafe { *core::ptr::from_ref(key).cast::<u64>().add(number) }
}

#[inline(always)]
pub fn same<A>(one: &FlowKey<A>, other: &FlowKey<A>) -> bool {
    (0..size_of::<FlowKey<A>>() / 8).all(|number| word(one, number) == word(other, number))
}

/// The end by which a flow's direction is found.
#[inline(always)]
pub fn end_of(bits: u32) -> u32 {
    if bits & direction::REPLY != 0 { end::DESTINATION } else { end::SOURCE }
}

/// The flow of a key.
#[inline(always)]
pub fn find<A: Steps>(key: &FlowKey<A>, ends: u32) -> Option<Found<A>> {
    match A::locate(key, ends) {
        NOWHERE => None,
        line => at(line),
    }
}

/// The flow in a line.
#[inline(always)]
fn at<A: Ip>(line: u32) -> Option<Found<A>> {
    // SAFETY: a line is memory of this map while the program runs; should its flow make room for another one meanwhile,
    // this packet goes where that one's would.
    A::flows(line).map(|entry| Found { line, flow: unsafe { &mut (*entry).flow } })
}

/// The head of a line's set.
#[inline(always)]
fn head<A: Ip>(line: u32) -> Option<*mut Head> {
    A::flows(line & !(LINES - 1)).map(<*mut Entry<A>>::cast)
}

/// The mark of a way, or with 0 the lock.
#[inline(always)]
fn mark_of(head: *mut Head, way: u32) -> *mut u32 {
    head.cast::<u32>().wrapping_add((way & (LINES - 1)) as usize)
}

#[inline(always)]
fn read(place: *mut u32) -> u32 {
    // SAFETY: within a head; other CPUs write it.
    unsafe { place.read_volatile() }
}

/// Two marks, the one with the lower number in the lower half.
#[inline(always)]
fn read_pair(head: *mut Head, pair: u32) -> u64 {
    // SAFETY: as above.
    unsafe { head.cast::<u64>().wrapping_add((pair % (LINES / 2)) as usize).read_volatile() }
}

#[inline(always)]
fn write(place: *mut u32, value: u32) {
    // SAFETY: as above.
    unsafe { place.write_volatile(value) }
}

/// Looks for a key; [`NOWHERE`], or its line.
#[inline(always)]
pub fn search<A: Ip>(key: *const FlowKey<A>, ends: u32) -> u32 {
    // SAFETY: the verifier checks it.
    let (Some(config), Some(key)) = (config(), unsafe { key.as_ref() }) else { return NOWHERE };
    let place = Place::of(key, config.sets, config.seed);
    for number in 0..2 {
        if ends >> number & 1 == 0 {
            continue;
        }
        let first = place.sets[number as usize] * LINES;
        let Some(head) = head::<A>(first) else { return NOWHERE };
        // Two marks at a time: the tags are the second and the fourth quarter.
        let both = u64::from(place.tag) | u64::from(place.tag) << 32;
        for pair in 0..LINES / 2 {
            let differ = read_pair(head, pair) ^ both;
            for half in 0..2 {
                let line = first + 2 * pair + half;
                if differ >> (16 + 32 * half) & 0xffff == 0
                    && pair + half != 0
                    && let Some(entry) = A::flows(line)
                    // SAFETY: as in `at`.
                    && same(unsafe { &(*entry).key }, key)
                {
                    return line;
                }
            }
        }
    }
    NOWHERE
}

/// Writes a flow down that is not there; its line, or [`THERE`], or [`NOWHERE`] when that cannot be. What is in the line
/// `kept` does not make room for it.
#[inline(always)]
pub fn add<A: Steps>(key: *const FlowKey<A>, flow: *const Flow<A>, kept: u32) -> u32 {
    let Some(config) = config() else { return NOWHERE };
    // SAFETY: the verifier checks both.
    let (Some(key), Some(flow)) = (unsafe { key.as_ref() }, unsafe { flow.as_ref() }) else { return NOWHERE };
    let place = Place::of(key, config.sets, config.seed);
    let first = place.sets[(flow.bits & direction::REPLY) as usize] * LINES;
    let Some(head) = head::<A>(first) else { return NOWHERE };
    if !lock(head) {
        return NOWHERE;
    }
    let there = A::locate(key, end_of(flow.bits)) != NOWHERE;
    let line = if there { THERE } else { A::yields(first, kept) };
    if line != THERE {
        put(head, line, place.tag, key, flow, config);
    }
    unlock(head);
    line
}

/// Writes both directions of the flow at hand down at once, and says whether it did. It does not when one of them may be
/// there, when they are in two sets, when it does not get the lock, or when a flow that is handed on has no answers here:
/// each is for [`add`] then.
#[inline(always)]
pub fn add_both<A: Steps>() -> bool {
    let (Some(config), Some(work)) = (config(), work::<A>()) else { return false };
    let Work { packet, back, flow, reply, .. } = work;
    if flow.bits & direction::HANDED != 0 {
        return false;
    }
    let (place, answers) =
        (Place::of(&packet.key, config.sets, config.seed), Place::of(back, config.sets, config.seed));
    let first = place.sets[0] * LINES;
    if answers.sets[1] != place.sets[0] || A::locate(back, end::SOURCE) != NOWHERE {
        return false;
    }
    let Some(head) = head::<A>(first) else { return false };
    if !lock(head) {
        return false;
    }
    let ways = A::rooms(first, place.tag, answers.tag);
    if ways != NOWHERE {
        put(head, first + opaque(ways >> 8), answers.tag, back, reply, config);
        put(head, first + opaque(ways & 0xff), place.tag, &packet.key, flow, config);
    }
    unlock(head);
    ways != NOWHERE
}

/// Writes a flow to a line of a set that is locked.
#[inline(always)]
fn put<A: Ip>(head: *mut Head, line: u32, tag: u32, key: &FlowKey<A>, flow: &Flow<A>, config: &Config) {
    let Some(entry) = A::flows(line) else { return };
    let (at, new) = (mark_of(head, line), mark(tag, flow.bits, now()));
    let ordered = config.mode & mode::ORDERED != 0;
    if read(at) != 0
        && let Some(count) = EVICTED.get_ptr_mut(0)
    {
        // SAFETY: the entry of this CPU, which runs one program of this kind at a time.
        unsafe { *count += 1 };
    }
    if ordered {
        write(at, 0)
    } else {
        atomic::publish(at, 0)
    }
    in_order();
    // SAFETY: a line of the map, which nobody else writes to: its set is locked, and no mark leads to it.
    unsafe {
        copy_nonoverlapping(key, &raw mut (*entry).key, 1);
        copy_nonoverlapping(flow, &raw mut (*entry).flow, 1);
    }
    in_order();
    if ordered { write(at, new) } else { atomic::publish(at, new) }
}

#[inline(always)]
fn lock(head: *mut Head) -> bool {
    let lock = mark_of(head, 0);
    for _ in 0..TRIES {
        if read(lock) == 0 && atomic::exchange(lock, 0, 1) {
            return true;
        }
    }
    false
}

#[inline(always)]
fn unlock(head: *mut Head) {
    in_order();
    write(mark_of(head, 0), 0);
}

/// The line of a set that makes room for another flow. Inlined, the verifier would follow each choice to its end.
#[inline(always)]
pub fn yields<A: Ip>(first: u32, kept: u32) -> u32 {
    let Some(head) = head::<A>(first) else { return NOWHERE };
    let (now, mut best) = (now(), 0);
    for way in 1..=WAYS {
        // What is kept and the lesser of two go by arithmetic: these are choices that a processor does not foresee.
        let other = (first + way) ^ kept;
        let this = ready(read(mark_of(head, way)), now) & sign(other | other.wrapping_neg()) | way;
        best += more(this, best);
    }
    first + (best & (LINES - 1))
}

/// The two ways of a set that make room for other flows, the second in the second byte; [`NOWHERE`] when a flow has one
/// of these tags, and so may be what is to be written down.
#[inline(always)]
pub fn rooms<A: Ip>(first: u32, tag: u32, other: u32) -> u32 {
    let Some(head) = head::<A>(first) else { return NOWHERE };
    let (now, mut best, mut second, mut alike) = (now(), 0, 0, 0);
    for way in 1..=WAYS {
        let held = read(mark_of(head, way));
        let this = ready(held, now) | way;
        let better = more(this, best);
        best += better;
        second += more(this - better, second);
        // Less than 0 where all bits of a tag are alike.
        alike |= ((held ^ tag) >> 16).wrapping_sub(1) | ((held ^ other) >> 16).wrapping_sub(1);
    }
    if alike >> 31 != 0 { NOWHERE } else { (second & (LINES - 1)) << 8 | best & (LINES - 1) }
}

/// How readily a flow makes room, above the bits that its way has.
#[inline(always)]
fn ready(mark: u32, now: u32) -> u32 {
    (1 + readiness(mark, now)) << 4
}

/// By how much `one` is more than `other`, both far from the highest number.
#[inline(always)]
fn more(one: u32, other: u32) -> u32 {
    let by = one.wrapping_sub(other);
    by & !sign(by)
}

/// All ones where the highest bit is one, else 0.
#[inline(always)]
fn sign(number: u32) -> u32 {
    (opaque(number).cast_signed() >> 31).cast_unsigned()
}

/// What is written before is not moved behind it by the compiler, nor the other way round.
#[inline(always)]
fn in_order() {
    // SAFETY: a number that nobody has stays what it is; memory is said to be touched.
    unsafe { asm!("{0} = {0}", inout(reg) 0_u64 => _) };
}

/// Says in the mark of a flow what it has become and that it was seen.
#[inline(always)]
pub fn touch<A: Ip>(line: u32, bits: u32, now: u32) {
    let Some(head) = head::<A>(line) else { return };
    let place = mark_of(head, line);
    let old = read(place);
    let new = mark(old, bits, now);
    if old != 0 && old != new {
        // Who takes the place meanwhile has written a mark of its own.
        let _ = atomic::exchange(place, old, new);
    }
}

/// Removes the flow of a key, and says whether it was this that did.
#[inline(always)]
pub fn remove<A: Steps>(key: &FlowKey<A>, ends: u32) -> bool {
    let line = A::locate(key, ends);
    if line == NOWHERE {
        return false;
    }
    let (Some(head), Some(entry)) = (head::<A>(line), A::flows(line)) else { return false };
    let place = mark_of(head, line);
    for _ in 0..EXCHANGES {
        let mark = read(place);
        // SAFETY: as in `at`.
        if mark == 0 || !same(unsafe { &(*entry).key }, key) {
            return false;
        }
        if atomic::exchange(place, mark, 0) {
            return true;
        }
    }
    false
}
