//! The table of flows, whose memory programs and the agent both have (`mesh_ebpf_common::table`).

use crate::{Plain, memory::Memory, raw};
use mesh_ebpf_common::{
    Flow, FlowKey, V4, V6, direction, mode,
    table::{Address, Entry, Head, LINES, Line4, Line6, Place, TAG, WAYS, mark, readiness},
};
use std::{
    io,
    marker::PhantomData,
    os::fd::AsFd,
    path::Path,
    sync::atomic::{
        AtomicU32, Ordering::Acquire, Ordering::Relaxed, Ordering::Release, Ordering::SeqCst, fence,
    },
};

/// How often the lock of a set is asked for. A program has it for some hundred nanoseconds, and is never interrupted.
const TRIES: u32 = 1_000_000;

/// [`mode::ORDERED`] where this machine's processor is of that kind.
pub const ORDERED: u32 = if cfg!(target_arch = "x86_64") { mode::ORDERED } else { 0 };

/// An address whose flows have a table.
pub trait Tabled: Address + Plain {
    /// Bytes of a line.
    const LINE: usize;
}

impl Tabled for V4 {
    const LINE: usize = size_of::<Line4>();
}

impl Tabled for V6 {
    const LINE: usize = size_of::<Line6>();
}

/// The memory of `flows4` or `flows6`.
#[derive(Debug)]
pub struct Flows<A> {
    /// Heads are read and written by atomic operations; what else is read may be half of what a program writes, and is not
    /// used then.
    memory: Memory,
    sets: u32,
    kind: PhantomData<A>,
}

/// A flow's place, and its mark there when it was read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seat {
    line: u32,
    mark: u32,
}

impl<A: Tabled> Flows<A> {
    /// That which is pinned there, for who looks at it beside the agent.
    ///
    /// # Errors
    /// As [`Flows::new`], and when nothing is there.
    pub fn open(at: &Path) -> io::Result<Flows<A>> {
        Flows::new(raw::get(at)?)
    }

    /// Maps the table of that descriptor into this process.
    ///
    /// # Errors
    /// The kernel's; `InvalidData` when it is not such a table.
    pub fn new(fd: impl AsFd) -> io::Result<Flows<A>> {
        // SAFETY: the descriptor is of a map.
        let info: raw::MapInfo = unsafe { raw::info(&fd) }?;
        if usize::try_from(info.value_size) != Ok(A::LINE) || info.key_size != 4 {
            let text = format!("a table of flows has lines of {} bytes, not of {}", A::LINE, info.value_size);
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        let sets = info.max_entries / LINES;
        let bytes = places(sets) * places(LINES) * A::LINE;
        Ok(Flows { memory: Memory::of(fd, bytes)?, sets, kind: PhantomData })
    }

    /// How many sets it has.
    #[must_use]
    pub fn sets(&self) -> u32 {
        self.sets
    }

    /// How many directions of flows it is made for; it has places for twice as many.
    #[must_use]
    pub fn capacity(&self) -> usize {
        places(self.sets * WAYS / 2)
    }

    /// A line of a set that there is.
    fn line(&self, line: u32) -> *mut Entry<A> {
        debug_assert!(line / LINES < self.sets);
        // SAFETY: within the mapping.
        unsafe { self.memory.start::<u8>().add(places(line) * A::LINE).cast() }
    }

    /// The mark of a line, or of a head's the lock.
    fn mark(&self, line: u32) -> &AtomicU32 {
        let head = self.line(line / LINES * LINES).cast::<Head>().cast::<u32>();
        // SAFETY: within a head, and at an even four.
        unsafe { AtomicU32::from_ptr(head.add(places(line % LINES))) }
    }

    /// What is in a line, unless it is written at the moment; and its mark.
    fn read(&self, line: u32) -> Option<(Seat, Entry<A>)> {
        let before = self.mark(line).load(Acquire);
        if before == 0 {
            return None;
        }
        // SAFETY: any bytes are an entry.
        let entry = unsafe { self.line(line).read_volatile() };
        fence(Acquire);
        let mark = self.mark(line).load(Relaxed);
        ((before ^ mark) & TAG == 0).then_some((Seat { line, mark }, entry))
    }

    /// All flows, as they are met.
    pub fn iter(&self) -> impl Iterator<Item = (Seat, FlowKey<A>, Flow<A>)> {
        let lines = (0..self.sets).flat_map(|set| (1..=WAYS).map(move |way| set * LINES + way));
        lines.filter_map(|line| self.read(line)).map(|(seat, Entry { key, flow })| (seat, key, flow))
    }

    /// A flow, in a table whose sets depend on this seed.
    pub fn get(&self, key: &FlowKey<A>, seed: u32) -> Option<(Seat, Flow<A>)> {
        let place = Place::of(key, self.sets, seed);
        let lines = place.sets.into_iter().flat_map(|set| (1..=WAYS).map(move |way| set * LINES + way));
        let found = lines.filter_map(|line| self.read(line)).find(|(_, entry)| entry.key == *key);
        found.map(|(seat, entry)| (seat, entry.flow))
    }

    /// Removes a flow that was read, unless it was seen, closed, or gave way to another since then. Whether it did.
    pub fn remove(&self, seat: Seat, flow: &Flow<A>) -> bool {
        if self.read(seat.line).is_none_or(|(_, entry)| entry.flow != *flow) {
            return false;
        }
        self.mark(seat.line).compare_exchange(seat.mark, 0, SeqCst, Relaxed).is_ok()
    }

    /// Writes a flow down as programs do, with its own time of last sight. For who measures programs or tests them.
    ///
    /// # Errors
    /// `AlreadyExists`; `WouldBlock` when the set stays locked.
    pub fn add(&self, key: &FlowKey<A>, flow: &Flow<A>, seed: u32) -> io::Result<()> {
        let place = Place::of(key, self.sets, seed);
        let first = place.sets[usize::from(flow.bits & direction::REPLY != 0)] * LINES;
        let lock = self.mark(first);
        if !(0..TRIES).any(|_| lock.compare_exchange_weak(0, 1, Acquire, Relaxed).is_ok()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let lines = || (1..=WAYS).map(|way| first + way);
        let there = lines().any(|line| self.read(line).is_some_and(|(_, entry)| entry.key == *key));
        if !there {
            let ready = |line: &u32| readiness(self.mark(*line).load(Relaxed), flow.seen);
            let line = lines().max_by_key(ready).unwrap_or(first + 1);
            self.mark(line).store(0, SeqCst);
            // SAFETY: a line of the map, which nobody else writes to: its set is locked, and no mark leads to it.
            unsafe { self.line(line).write_volatile(Entry { key: *key, flow: *flow }) };
            self.mark(line).store(mark(place.tag, flow.bits, flow.seen), Release);
        }
        lock.store(0, Release);
        if there { Err(io::ErrorKind::AlreadyExists.into()) } else { Ok(()) }
    }
}

fn places(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
