//! What the tasks of one worker thread share: its flows, its limits, its pipes.

use super::{config::UserspaceConfig, tcp::pipe::PipePool, view::BackendSlot};
use crate::plan::BackendId;
use rand::{Rng, SeedableRng, rngs::SmallRng};
use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
};
use tokio::{sync::Notify, task::AbortHandle};

/// One worker's share of the plane. Never leaves its thread.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) config: Arc<UserspaceConfig>,
    pub(super) pipes: Rc<PipePool>,
    max_flows: usize,
    max_held: usize,
    flows: RefCell<Vec<Option<Record>>>,
    free: RefCell<Vec<usize>>,
    count: Cell<usize>,
    held: Cell<usize>,
    /// Wakes accept loops that wait for room.
    room: Notify,
    random: RefCell<SmallRng>,
}

/// A flow as the worker finds it to cut it.
#[derive(Debug)]
struct Record {
    frontend: u64,
    slot: Option<Arc<BackendSlot>>,
    task: Option<AbortHandle>,
}

impl Context {
    /// A context with its share of the plane's limits.
    pub(super) fn new(config: Arc<UserspaceConfig>, workers: usize, seed: u64) -> Rc<Self> {
        let share = |all: usize| all.div_ceil(workers.max(1)).max(1);
        Rc::new(Context {
            pipes: Rc::default(),
            max_flows: share(config.max_flows),
            max_held: share(config.max_held),
            flows: RefCell::default(),
            free: RefCell::default(),
            count: Cell::new(0),
            held: Cell::new(0),
            room: Notify::new(),
            random: RefCell::new(SmallRng::seed_from_u64(seed)),
            config,
        })
    }

    /// A random number for the scheduler.
    pub(super) fn random(&self) -> u64 {
        self.random.borrow_mut().next_u64()
    }

    /// Whether another flow fits.
    pub(super) fn has_room(&self) -> bool {
        self.count.get() < self.max_flows
    }

    /// Waits until a flow ends. Check [`Context::has_room`] again afterwards.
    pub(super) async fn wait_for_room(&self) {
        let notified = self.room.notified();
        if !self.has_room() {
            notified.await;
        }
    }

    /// Takes a place among those that wait for a backend, while there is one.
    pub(super) fn hold(self: &Rc<Self>) -> Option<Held> {
        (self.held.get() < self.max_held).then(|| {
            self.held.set(self.held.get() + 1);
            Held(Rc::clone(self))
        })
    }

    /// Enters a flow of that frontend into the books, until the ticket drops.
    pub(super) fn enter(self: &Rc<Self>, frontend: u64) -> Ticket {
        let record = Some(Record { frontend, slot: None, task: None });
        let mut flows = self.flows.borrow_mut();
        let at = match self.free.borrow_mut().pop() {
            Some(at) => {
                flows[at] = record;
                at
            }
            None => {
                flows.push(record);
                flows.len() - 1
            }
        };
        self.count.set(self.count.get() + 1);
        Ticket { context: Rc::clone(self), at }
    }

    /// Says which task the flow at `at` is ([`Ticket::at`]). Nothing happens when it has ended.
    pub(super) fn set_task(&self, at: usize, task: AbortHandle) {
        if let Some(Some(record)) = self.flows.borrow_mut().get_mut(at) {
            record.task = Some(task);
        }
    }

    /// Cuts flows of a frontend: those to one backend, or all. Their tasks are dropped, which resets both sides.
    pub(super) fn cut(&self, frontend: u64, backend: Option<&BackendId>) {
        for record in self.flows.borrow().iter().flatten() {
            let meant = record.frontend == frontend
                && backend.is_none_or(|id| record.slot.as_ref().is_some_and(|slot| slot.id == *id));
            if meant && let Some(task) = &record.task {
                task.abort();
            }
        }
    }
}

/// A flow's entry in the books of its worker.
#[derive(Debug)]
pub(super) struct Ticket {
    context: Rc<Context>,
    at: usize,
}

impl Ticket {
    /// Its place.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// The flow goes to that backend now. Must come in the same breath as the choice, without an await between, so
    /// that a removal either is seen by the choice or finds the flow here.
    pub(super) fn set_slot(&self, slot: Option<&Arc<BackendSlot>>) {
        if let Some(Some(record)) = self.context.flows.borrow_mut().get_mut(self.at) {
            record.slot = slot.cloned();
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let record = self.context.flows.borrow_mut()[self.at].take();
        drop(record);
        self.context.free.borrow_mut().push(self.at);
        let was_full = !self.context.has_room();
        self.context.count.set(self.context.count.get() - 1);
        if was_full {
            self.context.room.notify_waiters();
        }
    }
}

/// A place among the flows that wait for a backend.
#[derive(Debug)]
pub(super) struct Held(Rc<Context>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.held.set(self.0.held.get() - 1);
    }
}
