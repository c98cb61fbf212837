//! Counters that programs and the agent change at once: an array whose memory both have (`BPF_F_MMAPABLE`, Linux 5.5).

use crate::map::Map;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::{
    ffi::c_void,
    io, ptr,
    sync::atomic::{AtomicI64, Ordering},
};

/// The memory of an array of eight-byte counters.
#[derive(Debug)]
pub struct Shared {
    start: *mut c_void,
    count: usize,
}

// SAFETY: the memory is the kernel's until the drop, and only atomic operations touch it.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    /// Maps the counters of `map` into memory.
    ///
    /// # Errors
    /// The kernel's; `PermissionDenied` when the map was not made for it.
    pub fn new(map: &Map<u32, i64>) -> io::Result<Shared> {
        let count = usize::try_from(map.capacity()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let (bytes, access) = (count * size_of::<i64>(), ProtFlags::READ | ProtFlags::WRITE);
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start = unsafe { mmap(ptr::null_mut(), bytes, access, MapFlags::SHARED, map.fd(), 0) }?;
        Ok(Shared { start, count })
    }

    /// Adds to a counter, as programs do; one that there is not is none.
    pub fn add(&self, index: u32, by: i64) {
        let Some(index) = usize::try_from(index).ok().filter(|index| *index < self.count) else { return };
        // SAFETY: within the mapping, which is aligned to a page.
        let counter = unsafe { AtomicI64::from_ptr(self.start.cast::<i64>().add(index)) };
        counter.fetch_add(by, Ordering::Relaxed);
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: the mapping that was made, whose memory nobody has any more.
        let done = unsafe { munmap(self.start, self.count * size_of::<i64>()) };
        debug_assert!(done.is_ok(), "{done:?}");
    }
}
