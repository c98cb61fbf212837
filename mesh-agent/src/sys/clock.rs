//! How far the system's clock is to be trusted (adjtimex(2)).

/// Whether something keeps the clock in step with the world's; absent when the kernel does not tell.
#[must_use]
pub fn synchronised() -> Option<bool> {
    // SAFETY: all zeroes is a valid `timex`, which asks for nothing to be changed; the kernel writes into it.
    let state = unsafe {
        let mut asked: libc::timex = std::mem::zeroed();
        libc::adjtimex(&raw mut asked)
    };
    (state >= 0).then_some(state != libc::TIME_ERROR)
}

/// Nanoseconds of `CLOCK_MONOTONIC_COARSE` (clock_gettime(2)), and how many it steps on by, which is a jiffy.
#[must_use]
pub fn coarse() -> (u64, u64) {
    let nanos = |time: libc::timespec| {
        let [seconds, nanos] = [time.tv_sec, time.tv_nsec].map(|n| u64::try_from(n).unwrap_or(0));
        seconds * 1_000_000_000 + nanos
    };
    let (mut now, mut step) =
        (libc::timespec { tv_sec: 0, tv_nsec: 0 }, libc::timespec { tv_sec: 0, tv_nsec: 0 });
    // SAFETY: the kernel writes into two structures of ours; of this clock it always can.
    unsafe {
        libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut now);
        libc::clock_getres(libc::CLOCK_MONOTONIC_COARSE, &raw mut step);
    }
    (nanos(now), nanos(step).max(1))
}
