//! Counters that several CPUs change. `core::sync::atomic` has loads and stores only for this target.

use core::arch::asm;

/// Adds, and gives what was there before. Linux 5.12.
#[inline(always)]
pub fn fetch_add(counter: *mut u64, mut by: u64) -> u64 {
    // SAFETY: callers have the pointer from a lookup in a map of eight-byte values, which the verifier checks.
    unsafe { asm!("{0} = atomic_fetch_add((u64 *)({1} + 0), {0})", inout(reg) by, in(reg) counter) };
    by
}

/// Adds.
#[inline(always)]
pub fn add(counter: *mut u64, by: u64) {
    // SAFETY: as above.
    unsafe { asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) counter, in(reg) by) };
}
