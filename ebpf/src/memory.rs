//! Memory of an array that programs and the agent both have (`BPF_F_MMAPABLE`, Linux 5.5).

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::{ffi::c_void, io, os::fd::AsFd, ptr};

/// The memory of an array, from its first entry on, until the drop.
#[derive(Debug)]
pub(crate) struct Memory {
    start: *mut c_void,
    bytes: usize,
}

// SAFETY: the memory is the kernel's until the drop; who uses it says how.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    /// Maps so many bytes into this process.
    ///
    /// # Errors
    /// The kernel's; `PermissionDenied` when the map was not made for it.
    pub(crate) fn of(map: impl AsFd, bytes: usize) -> io::Result<Memory> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start = unsafe { mmap(ptr::null_mut(), bytes, access, MapFlags::SHARED, map, 0) }?;
        Ok(Memory { start, bytes })
    }

    /// The first entry; it lies at the beginning of a page.
    pub(crate) fn start<T>(&self) -> *mut T {
        self.start.cast()
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the mapping that was made, whose memory nobody has any more.
        let done = unsafe { munmap(self.start, self.bytes) };
        debug_assert!(done.is_ok(), "{done:?}");
    }
}
