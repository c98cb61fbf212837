//! Pipes for splice(2), kept for reuse.

use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use std::{
    cell::{Cell, RefCell},
    os::fd::OwnedFd,
    rc::Rc,
};

/// Most pipes one worker has open; a flow that gets none copies.
const MOST: usize = 256;
/// Most unused pipes kept.
const IDLE: usize = 32;
/// Wanted bytes in a pipe. The kernel gives what `fs.pipe-user-pages-soft` leaves; less works too.
const SIZE: usize = 256 << 10;

/// The pipes of one worker.
#[derive(Debug, Default)]
pub(in super::super) struct PipePool {
    idle: RefCell<Vec<(OwnedFd, OwnedFd)>>,
    open: Cell<usize>,
}

/// An empty pipe, or one with `held` bytes on their way.
#[derive(Debug)]
pub(super) struct Pipe {
    ends: Option<(OwnedFd, OwnedFd)>,
    /// Bytes in it.
    pub(super) held: usize,
    pool: Rc<PipePool>,
}

impl Pipe {
    /// A pipe from the pool or a new one; absent when there are too many or the system gives none.
    pub(super) fn take(pool: &Rc<PipePool>) -> Option<Pipe> {
        let ends = match pool.idle.borrow_mut().pop() {
            Some(ends) => ends,
            None => {
                if pool.open.get() >= MOST {
                    return None;
                }
                let ends = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC).ok()?;
                let _ = fcntl_setpipe_size(&ends.1, SIZE);
                pool.open.set(pool.open.get() + 1);
                ends
            }
        };
        Some(Pipe { ends: Some(ends), held: 0, pool: Rc::clone(pool) })
    }

    /// How many pipes are open in the pool's worker.
    #[cfg(test)]
    pub(super) fn open_in(pool: &PipePool) -> usize {
        pool.open.get()
    }

    /// Its reading and its writing end; absent never, while the pipe lives.
    pub(super) fn ends(&self) -> Option<(&OwnedFd, &OwnedFd)> {
        self.ends.as_ref().map(|(read, write)| (read, write))
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let mut idle = self.pool.idle.borrow_mut();
        if let Some(ends) = self.ends.take()
            && self.held == 0
            && idle.len() < IDLE
        {
            idle.push(ends);
            return;
        }
        self.pool.open.set(self.pool.open.get() - 1);
    }
}
