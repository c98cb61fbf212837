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

/// As [`fetch_add`], with a value of four bytes.
#[inline(always)]
pub fn fetch_add_word(counter: *mut u32, mut by: u32) -> u32 {
    // SAFETY: as above, with values of four bytes.
    unsafe { asm!("w1 = atomic_fetch_add((u32 *)(r2 + 0), w1)", inout("r1") by, in("r2") counter) };
    by
}

/// Writes where a zero was, and says whether one was. Linux 5.12.
#[inline(always)]
pub fn take(place: *mut u64, by: u64) -> bool {
    let was: u64;
    // SAFETY: as above.
    unsafe { asm!("r0 = cmpxchg_64({0} + 0, r0, {1})", in(reg) place, in(reg) by, inout("r0") 0_u64 => was) };
    was == 0
}

/// Sets bits, and gives what was there before.
#[inline(always)]
pub fn fetch_or(bits: *mut u32, mut set: u32) -> u32 {
    // SAFETY: as above, with values of four bytes.
    unsafe { asm!("w1 = atomic_fetch_or((u32 *)(r2 + 0), w1)", inout("r1") set, in("r2") bits) };
    set
}

/// Writes a value of four bytes where another was, and says whether it was that one. Linux 5.12.
#[inline(always)]
pub fn exchange(place: *mut u32, from: u32, to: u32) -> bool {
    let was: u32;
    // SAFETY: as above, with values of four bytes.
    unsafe {
        asm!("w0 = cmpxchg32_32(r2 + 0, w0, w1)", in("r2") place, in("r1") to, inout("r0") from => was)
    };
    was == from
}

/// Writes a value of four bytes, after all that was written before on whatever processor.
#[inline(always)]
pub fn publish(place: *mut u32, to: u32) {
    // SAFETY: as above, with values of four bytes.
    unsafe { asm!("w1 = xchg32_32(r2 + 0, w1)", inout("r1") to => _, in("r2") place) };
}
