//! The task that owns the data plane and decides when to look at it.

use super::{
    engine::Engine,
    handle::{Command, ReconcileHandle},
    metrics::ReconcileMetrics,
    retry::{Faults, backoff},
    status::ReconcileStatus,
};
use crate::{
    dataplane::{AnyDataPlane, Capabilities, DataPlane},
    plan::{NodeFacts, Policy},
};
use mesh_control::model::Snapshot;
use std::{collections::BTreeMap, ops::ControlFlow, sync::Arc, time::Duration};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

/// How the reconciler behaves.
#[derive(Clone, Debug)]
pub struct ReconcileConfig {
    /// Who this node is.
    pub node: NodeFacts,
    /// Its own choices, as they change.
    pub policy: watch::Receiver<Policy>,
    /// How long to wait for the sources before removing what nobody wants all the same.
    pub sync_timeout: Duration,
    /// From the end of one full audit to the next.
    pub audit_interval: Duration,
    /// How long to gather changes after the first before acting on them.
    pub coalesce: Duration,
    /// Wait after the first failure of a frontend; doubled with each further one.
    pub retry_min: Duration,
    /// Longest wait between two attempts.
    pub retry_max: Duration,
}

impl ReconcileConfig {
    /// Defaults for a node: 30 s for the sources, an audit a minute, 5 ms of gathering, retries from 200 ms to 30 s.
    #[must_use]
    pub fn new(node: NodeFacts, policy: Policy) -> Self {
        ReconcileConfig {
            node,
            policy: watch::channel(policy).1,
            sync_timeout: Duration::from_secs(30),
            audit_interval: Duration::from_secs(60),
            coalesce: Duration::from_millis(5),
            retry_min: Duration::from_millis(200),
            retry_max: Duration::from_secs(30),
        }
    }
}

/// Starts the reconciler on the current tokio runtime.
///
/// `synced` turns true when every source has told everything once *and* the current snapshot has it.
#[must_use]
pub fn spawn(
    plane: AnyDataPlane,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    synced: watch::Receiver<bool>,
    config: ReconcileConfig,
    metrics: ReconcileMetrics,
) -> ReconcileHandle {
    let (commands, queue) = mpsc::channel(64);
    let capabilities = plane.capabilities();
    let faults = Faults::new(config.retry_min, config.retry_max);
    let policy = config.policy.borrow().clone();
    let engine = Engine::new(plane, config.node.clone(), policy, faults, metrics);
    let now = Instant::now();
    let first = status(&engine, &capabilities, &Progress::default());
    let (sender, status) = watch::channel(first);
    let task = Task {
        engine,
        capabilities,
        snapshots,
        synced,
        queue,
        status: sender,
        progress: Progress::default(),
        due: Some(now),
        sync_deadline: now + config.sync_timeout,
        next_audit: now + config.audit_interval,
        config,
        stopping: false,
    };
    tokio::spawn(task.run());
    ReconcileHandle { commands, status }
}

struct Task {
    engine: Engine,
    capabilities: Capabilities,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    synced: watch::Receiver<bool>,
    queue: mpsc::Receiver<Command>,
    status: watch::Sender<ReconcileStatus>,
    config: ReconcileConfig,
    progress: Progress,
    /// When to act on the newest snapshot; absent while there is nothing new.
    due: Option<Instant>,
    sync_deadline: Instant,
    next_audit: Instant,
    /// No new connection is taken: the plane is not brought anywhere any more.
    stopping: bool,
}

/// How far the task is with the plane itself.
#[derive(Default)]
struct Progress {
    /// The plane was read once.
    observed: bool,
    /// Reads in a row that failed, and the last reason.
    failures: u32,
    error: Option<String>,
    /// A newer snapshot waits.
    behind: bool,
}

impl Task {
    async fn run(mut self) {
        let (mut follow, mut follow_policy, mut wait_sync) = (true, true, true);
        loop {
            let wake = self.next_wake();
            tokio::select! {
                command = self.queue.recv() => {
                    let Some(command) = command else { return };
                    if self.command(command).await.is_break() {
                        return;
                    }
                }
                changed = self.snapshots.changed(), if follow && !self.stopping => match changed {
                    Ok(()) => {
                        self.due = self.due.or(Some(Instant::now() + self.config.coalesce));
                        self.progress.behind = true;
                        self.publish();
                    }
                    // The control plane is gone: keep what is there, the agent is about to stop.
                    Err(_) => follow = false,
                },
                changed = self.config.policy.changed(), if follow_policy && !self.stopping => match changed {
                    Ok(()) => {
                        self.engine.choose(self.config.policy.borrow_and_update().clone());
                        self.due = Some(Instant::now());
                        self.progress.behind = true;
                        self.publish();
                    }
                    // It stays as it is.
                    Err(_) => follow_policy = false,
                },
                told = told(&mut self.synced), if wait_sync && !self.engine.may_remove && !self.stopping => {
                    wait_sync = false;
                    // Sources that vanish without a word are waited for until the timeout.
                    if told {
                        self.sync_deadline = Instant::now();
                    }
                }
                () = sleep_until(wake), if !self.stopping => self.tick().await,
            }
        }
    }

    fn next_wake(&self) -> Instant {
        let sync = (!self.engine.may_remove).then_some(self.sync_deadline);
        let others = if self.progress.observed {
            [self.engine.faults.next(), Some(self.next_audit)]
        } else {
            [None, None]
        };
        let times = [self.due, sync].into_iter().chain(others).flatten();
        times.min().unwrap_or(self.next_audit)
    }

    /// Does what is due.
    async fn tick(&mut self) {
        let now = Instant::now();
        let may_remove = !self.engine.may_remove && now >= self.sync_deadline;
        // What is removed is judged by the newest snapshot, never by one that is older than the sources' word.
        if self.due.is_some_and(|due| due <= now) || (may_remove && self.progress.observed) {
            self.due = None;
            self.follow(now).await;
        }
        if may_remove {
            self.engine.may_remove = true;
            if self.progress.observed {
                self.engine.full(now).await;
            }
        }
        if self.progress.observed {
            self.engine.retry(now).await;
            if now >= self.next_audit {
                self.audit(now).await;
            }
        }
        self.publish();
    }

    async fn follow(&mut self, now: Instant) {
        if !self.progress.observed {
            let read = self.engine.observe().await;
            self.read(read.map_err(|e| e.to_string()));
            if !self.progress.observed {
                let wait = backoff(self.config.retry_min, self.config.retry_max, self.progress.failures);
                self.due = Some(now + wait);
                return;
            }
        }
        let snapshot = Arc::clone(&self.snapshots.borrow_and_update());
        self.engine.follow(&snapshot, now).await;
        self.progress.behind = false;
    }

    async fn audit(&mut self, now: Instant) {
        let read = self.engine.audit(now).await;
        self.read(read.map_err(|e| e.to_string()));
        self.next_audit = Instant::now() + self.config.audit_interval;
    }

    /// Notes whether the plane could be read.
    fn read(&mut self, outcome: Result<(), String>) {
        match outcome {
            Ok(()) => {
                self.progress =
                    Progress { observed: true, behind: self.progress.behind, ..Progress::default() };
            }
            Err(error) => {
                tracing::error!(%error, "the data plane cannot be read, will retry");
                self.progress.failures = self.progress.failures.saturating_add(1);
                self.progress.error = Some(error);
            }
        }
    }

    async fn command(&mut self, command: Command) -> ControlFlow<()> {
        // Whoever asked may have given up: then the answer goes nowhere.
        match command {
            Command::Counters(answer) => drop(answer.send(self.engine.plane.counters())),
            Command::Explain(flow, answer) => drop(answer.send(self.engine.plane.explain(&flow))),
            Command::Plan(answer) => {
                let snapshot = Arc::clone(&self.snapshots.borrow());
                drop(answer.send(self.engine.pending(&snapshot)));
            }
            Command::Audit(answer) => {
                if self.progress.observed && !self.stopping {
                    self.audit(Instant::now()).await;
                    self.publish();
                }
                let _ = answer.send(());
            }
            Command::RefuseNew(answer) => {
                self.stopping = true;
                self.engine.plane.refuse_new().await;
                let _ = answer.send(());
            }
            Command::Shutdown(teardown, answer) => {
                let outcome = if teardown { self.engine.plane.teardown().await } else { Ok(()) };
                drop(answer.send(outcome));
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    }

    fn publish(&self) {
        self.status.send_replace(status(&self.engine, &self.capabilities, &self.progress));
    }
}

/// Waits until the sources have told everything; false when nobody is left to say so.
async fn told(synced: &mut watch::Receiver<bool>) -> bool {
    synced.wait_for(|synced| *synced).await.is_ok()
}

fn status(engine: &Engine, capabilities: &Capabilities, progress: &Progress) -> ReconcileStatus {
    let errors = engine.faults.errors();
    let done = progress.observed && !progress.behind && progress.error.is_none();
    ReconcileStatus {
        plane: engine.plane.name(),
        capabilities: capabilities.clone(),
        applied_revision: engine.revision.unwrap_or(0),
        frontends: engine.frontends(),
        backends: engine.backends,
        last_sync: engine.last_sync,
        errors,
        plane_error: progress.error.clone(),
        drift: engine.drift.iter().map(|(k, v)| (k.clone(), *v)).collect::<BTreeMap<_, _>>(),
        last_drift: engine.last_drift.iter().cloned().collect(),
        synced: engine.may_remove,
        settled: done && engine.revision.is_some() && engine.is_settled(),
    }
}
