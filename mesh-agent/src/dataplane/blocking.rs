//! Blocking calls within async code, and locks.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// What another thread left when it panicked is as good as any: everything is checked against the kernel.
pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lets other tasks of this thread go on elsewhere, where the runtime can: netlink calls block while the kernel works.
pub(super) fn blocking<T>(work: impl FnOnce() -> T) -> T {
    use tokio::runtime::{Handle, RuntimeFlavor};
    match Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        _ => work(),
    }
}
