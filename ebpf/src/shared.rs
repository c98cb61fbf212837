//! The array of backends, whose memory programs and the agent both have: the agent writes what a backend is
//! and leaves its counters to the programs, which a system call would write over.

use crate::{map::Map, memory::Memory};
use mesh_ebpf_common::Backend;
use std::{
    io,
    mem::offset_of,
    ptr,
    sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed, Ordering::Release},
};

/// Words of a backend before its counters.
const WORDS: usize = offset_of!(Backend, active) / 8;
/// The word of port, state and generation, by which programs judge a backend: it is written last.
const JUDGED: usize = offset_of!(Backend, port) / 8;

const _: () = assert!(size_of::<Backend>() == 64 && WORDS == 5 && JUDGED == 2);

/// The memory of `backends`.
#[derive(Debug)]
pub struct Backends {
    /// Only atomic operations touch it.
    memory: Memory,
    count: u32,
}

impl Backends {
    /// Maps it into this process.
    ///
    /// # Errors
    /// The kernel's; `PermissionDenied` when the map was not made for it.
    pub(crate) fn new(map: &Map<u32, Backend>) -> io::Result<Backends> {
        let bytes = usize::try_from(map.capacity()).unwrap_or(0) * size_of::<Backend>();
        Ok(Backends { memory: Memory::of(map.fd(), bytes)?, count: map.capacity() })
    }

    /// How many there can be.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.count
    }

    fn at(&self, index: u32) -> Option<*mut Backend> {
        let at = usize::try_from(index).ok().filter(|_| index < self.count)?;
        // SAFETY: within the mapping, which is aligned to a page.
        Some(unsafe { self.memory.start::<Backend>().add(at) })
    }

    /// The words of what a backend is.
    fn words(at: *mut Backend) -> impl Iterator<Item = &'static AtomicU64> {
        // SAFETY: within the entry; words lie at an even eight.
        (0..WORDS).map(move |word| unsafe { AtomicU64::from_ptr(at.cast::<u64>().add(word)) })
    }

    fn counters(at: *mut Backend) -> (&'static AtomicI64, &'static AtomicU64) {
        // SAFETY: as above.
        unsafe { (AtomicI64::from_ptr(&raw mut (*at).active), AtomicU64::from_ptr(&raw mut (*at).begun)) }
    }

    /// A backend with its counters; `None` beyond the end.
    #[must_use]
    pub fn get(&self, index: u32) -> Option<Backend> {
        let at = self.at(index)?;
        let mut backend = Backend::default();
        let to = ptr::from_mut(&mut backend).cast::<u64>();
        for (word, from) in Self::words(at).enumerate() {
            // SAFETY: within the value.
            unsafe { to.add(word).write(from.load(Relaxed)) };
        }
        let (active, begun) = Self::counters(at);
        Some(Backend { active: active.load(Relaxed), begun: begun.load(Relaxed), ..backend })
    }

    /// Writes what a backend is; its counters stay.
    ///
    /// # Errors
    /// `E2BIG` beyond the end.
    pub fn put(&self, index: u32, backend: &Backend) -> io::Result<()> {
        let at = self.at(index).ok_or_else(|| io::Error::from_raw_os_error(libc::E2BIG))?;
        let from = ptr::from_ref(backend).cast::<u64>();
        // SAFETY: within the value.
        let word = |word| unsafe { from.add(word).read() };
        let to = |wanted| Self::words(at).enumerate().filter(move |(word, _)| (*word == JUDGED) == wanted);
        to(false).for_each(|(at, to)| to.store(word(at), Relaxed));
        to(true).for_each(|(at, to)| to.store(word(at), Release));
        Ok(())
    }

    /// Begins its counters anew.
    pub fn clear(&self, index: u32) {
        if let Some((active, begun)) = self.at(index).map(Self::counters) {
            active.store(0, Relaxed);
            begun.store(0, Relaxed);
        }
    }

    /// Adds to the number of its open flows, unless another backend has its place by now.
    pub fn add(&self, index: u32, generation: u32, flows: i64) {
        if let Some(at) = self.at(index)
            && self.get(index).is_some_and(|backend| backend.generation == generation)
        {
            Self::counters(at).0.fetch_add(flows, Relaxed);
        }
    }
}
