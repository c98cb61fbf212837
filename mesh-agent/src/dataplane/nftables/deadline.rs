//! Ends flows when their backend's drain deadline has come, on a thread of its own: the agent need not do anything by
//! then.

use super::flows::{self, Cut, Cuts};
use crate::plan::Table;
use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{Builder, JoinHandle},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// After an error of the kernel it is tried again so much later.
const RETRY_MS: u64 = 1000;

#[derive(Debug, Default)]
struct Plan {
    /// What the plane holds; a deadline that it does not name any more is void.
    table: Table,
    /// When to look (Unix ms): the deadlines and what they end.
    due: BTreeMap<u64, Vec<(u64, Cut)>>,
    stop: bool,
}

/// The thread and what it waits for.
#[derive(Debug)]
pub(in crate::dataplane) struct Deadlines {
    shared: Arc<(Mutex<Plan>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Unix time in milliseconds.
pub(in crate::dataplane) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

impl Deadlines {
    /// Starts the thread of a data plane; `end` ends flows.
    pub(in crate::dataplane) fn start(
        plane: &'static str,
        mut end: impl FnMut(&[Cut]) -> io::Result<()> + Send + 'static,
    ) -> io::Result<Deadlines> {
        let shared: Arc<(Mutex<Plan>, Condvar)> = Arc::default();
        let theirs = Arc::clone(&shared);
        let work = move || {
            let (plan_of, changed) = &*theirs;
            let mut held = locked(plan_of);
            while !held.stop {
                let wait = held.due.keys().next().map(|at| at.saturating_sub(now()));
                match wait {
                    None => held = changed.wait(held).unwrap_or_else(PoisonError::into_inner),
                    Some(0) => {
                        let Some((_, mut due)) = held.due.pop_first() else { continue };
                        due.retain(|(at, cut)| flows::stands(&held.table, *at, cut));
                        drop(held);
                        let cuts: Vec<Cut> = due.iter().map(|(_, cut)| cut.clone()).collect();
                        let done = end(&cuts);
                        held = locked(plan_of);
                        if let Err(error) = done {
                            tracing::warn!(plane, %error, "cannot end drained flows, will retry");
                            held.due.entry(now() + RETRY_MS).or_default().extend(due);
                        }
                    }
                    Some(ms) => {
                        let waited = changed.wait_timeout(held, Duration::from_millis(ms));
                        held = waited.unwrap_or_else(PoisonError::into_inner).0;
                    }
                }
            }
        };
        let thread = Builder::new().name(format!("{plane}-drain")).spawn(work)?;
        Ok(Deadlines { shared, thread: Some(thread) })
    }

    /// Tells what the plane holds now, and new deadlines.
    pub(in crate::dataplane) fn follow(&self, table: &Table, cuts: Cuts) {
        let (plan, changed) = &*self.shared;
        let mut held = locked(plan);
        held.table = table.clone();
        for (at, cut) in cuts.later {
            let due = held.due.entry(at).or_default();
            if !due.iter().any(|(_, known)| *known == cut) {
                due.push((at, cut));
            }
        }
        changed.notify_one();
    }
}

impl Drop for Deadlines {
    fn drop(&mut self) {
        let (plan, changed) = &*self.shared;
        locked(plan).stop = true;
        changed.notify_one();
        if let Some(thread) = self.thread.take() {
            // It panicked, which was printed.
            let _ended = thread.join();
        }
    }
}
