//! Ends TCP connections whose backend is gone, and flows when their backend's drain deadline has come, on a thread of
//! its own: to find them the kernel walks through its whole table of flows, for which no change should wait.

use super::flows::{self, Cut, Cuts};
use crate::{dataplane::blocking::locked, plan::Table};
use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread::{Builder, JoinHandle},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// After an error of the kernel it is tried again so much later.
const RETRY_MS: u64 = 1000;
/// Most cuts that wait to be made at once: more than one change of everything has. Only while the kernel refuses to list
/// its flows do they wait for long.
const MOST: usize = 1 << 18;

#[derive(Debug, Default)]
struct Plan {
    /// What the plane holds; a deadline that it does not name any more is void.
    table: Table,
    /// When to look (Unix ms): the deadlines and what they end.
    due: BTreeMap<u64, Vec<(u64, Cut)>>,
    /// What to end at once: backends that are gone.
    gone: Vec<Cut>,
    /// What is being ended this moment, with its deadline.
    running: Vec<(Option<u64>, Cut)>,
    stop: bool,
}

impl Plan {
    /// Takes out what stands and is due: all the cuts, and those with a deadline, which come first, with it.
    fn take(&mut self, now: u64) -> (Vec<Cut>, Vec<(u64, Cut)>) {
        let later = self.due.split_off(&now.saturating_add(1));
        let due = std::mem::replace(&mut self.due, later).into_values().flatten();
        let due: Vec<_> = due.filter(|(at, cut)| flows::stands(&self.table, *at, cut)).collect();
        let gone = self.gone.drain(..).filter(|cut| !flows::is_back(&self.table, cut));
        let cuts: Vec<Cut> = due.iter().map(|(_, cut)| cut.clone()).chain(gone).collect();
        let deadlines = due.iter().map(|(at, _)| Some(*at)).chain(std::iter::repeat(None));
        self.running = deadlines.zip(cuts.iter().cloned()).collect();
        (cuts, due)
    }

    /// Whether flows are being ended that go to a backend which takes new ones once the plane holds `work`.
    fn is_in_the_way(&self, work: &Table) -> bool {
        let stands = |at: Option<u64>, cut| at.is_some_and(|at| flows::stands(work, at, cut));
        self.running.iter().any(|(at, cut)| flows::is_back(work, cut) && !stands(*at, cut))
    }
}

/// Tells that no flow is being ended any more, also when that panics.
struct Over<'a>(&'a (Mutex<Plan>, Condvar));

impl Drop for Over<'_> {
    fn drop(&mut self) {
        let (plan, changed) = self.0;
        locked(plan).running.clear();
        changed.notify_all();
    }
}

/// The thread and what it waits for.
#[derive(Debug)]
pub(in crate::dataplane) struct Deadlines {
    plane: &'static str,
    shared: Arc<(Mutex<Plan>, Condvar)>,
    thread: Option<JoinHandle<()>>,
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
            let (planned, changed) = &*theirs;
            let mut held = locked(planned);
            let mut not_before = 0;
            while !held.stop {
                let gone = (!held.gone.is_empty()).then_some(not_before);
                let next = gone.into_iter().chain(held.due.keys().next().copied()).min();
                match next.map(|at| at.saturating_sub(now())) {
                    None => held = changed.wait(held).unwrap_or_else(PoisonError::into_inner),
                    Some(0) => {
                        let (cuts, due) = held.take(now());
                        drop(held);
                        let over = Over(&theirs);
                        let done = end(&cuts);
                        drop(over);
                        held = locked(planned);
                        if let Err(error) = done {
                            tracing::warn!(plane, %error, "cannot end flows, will retry");
                            not_before = now() + RETRY_MS;
                            let gone = cuts.into_iter().skip(due.len());
                            held.gone.splice(..0, gone);
                            held.due.entry(not_before).or_default().extend(due);
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
        Ok(Deadlines { plane, shared, thread: Some(thread) })
    }

    /// To be called before the kernel is brought to `work`: no flow is ended any more whose backend comes back by it. Flows
    /// that are being ended this moment cannot be told from those that begin then, so it is waited for them: a walk
    /// through the table of flows.
    pub(in crate::dataplane) fn settle(&self, work: &Table) {
        let (plan, changed) = &*self.shared;
        let mut held = locked(plan);
        held.table = work.clone();
        while held.is_in_the_way(work) {
            held = changed.wait(held).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Tells what the plane holds now, what is to be cut at once, and new deadlines.
    pub(in crate::dataplane) fn follow(&self, table: &Table, cuts: Cuts) {
        let (plan, changed) = &*self.shared;
        let mut held = locked(plan);
        held.table = table.clone();
        held.gone.extend(cuts.now);
        if held.gone.len() > MOST {
            let over = held.gone.len() - MOST;
            tracing::warn!(plane = self.plane, over, "too many backends went: flows of some are not reset");
            held.gone.drain(..over);
        }
        for (at, cut) in cuts.later {
            let due = held.due.entry(at).or_default();
            if !due.iter().any(|(_, known)| *known == cut) {
                due.push((at, cut));
            }
        }
        changed.notify_all();
    }
}

impl Drop for Deadlines {
    fn drop(&mut self) {
        let (plan, changed) = &*self.shared;
        locked(plan).stop = true;
        changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // It panicked, which was printed.
            let _ended = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Backend, BackendId, BackendState, Entry, Frontend, FrontendKey, Listen};
    use mesh_control::model::{Name, Protocol};
    use std::sync::mpsc;

    fn table(backends: Vec<Backend>) -> Table {
        let ports = "80".parse().unwrap();
        let key = FrontendKey { listen: Listen::Vip([10, 96, 0, 1].into()), ports, protocol: Protocol::Tcp };
        let frontend = Frontend::plain(key);
        Table::from_iter([(key, Entry { frontend: Arc::new(frontend), backends: backends.into() })])
    }

    fn backend(state: BackendState) -> Backend {
        let name = Name::new("a").unwrap();
        let id = BackendId { node: name.clone(), instance: name };
        Backend { id, address: [10, 0, 0, 1].into(), port: 8000, weight: 100, state }
    }

    #[test]
    fn who_brings_a_backend_back_waits_for_the_walk_that_ends_its_flows() {
        let (began, begun) = mpsc::channel();
        let (go_on, may_end) = mpsc::channel::<()>();
        let order = Arc::new(Mutex::new(Vec::new()));
        let walks = Arc::clone(&order);
        let deadlines = Deadlines::start("test", move |cuts| {
            began.send(cuts.len()).unwrap();
            may_end.recv().unwrap();
            walks.lock().unwrap().push("walk");
            Ok(())
        })
        .unwrap();
        let (with, without) = (table(vec![backend(BackendState::Active)]), table(Vec::new()));
        let touched = with.keys().copied().collect();
        let gone = || flows::cuts(&with, &without, &touched);
        assert_eq!(gone().now.len(), 1);

        deadlines.follow(&without, gone());
        assert_eq!(begun.recv().unwrap(), 1);
        // What has nothing to do with it goes on at once.
        deadlines.settle(&without);
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| {
                deadlines.settle(&with);
                order.lock().unwrap().push("back");
            });
            // It has the plan's word by now that it is coming.
            while locked(&deadlines.shared.0).table != with {
                std::thread::yield_now();
            }
            order.lock().unwrap().push("end");
            go_on.send(()).unwrap();
            waits.join().unwrap();
        });
        assert_eq!(*order.lock().unwrap(), ["end", "walk", "back"]);

        // And what waits to be ended is not any more.
        deadlines.settle(&without);
        {
            let mut held = locked(&deadlines.shared.0);
            held.gone = gone().now;
            held.table = with.clone();
            assert_eq!(held.take(now()).0, []);
        }
        assert!(begun.try_recv().is_err());
    }
}
