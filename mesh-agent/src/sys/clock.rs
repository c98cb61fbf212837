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
