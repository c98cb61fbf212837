//! Keeps the overlay as it should be: after every change of the mesh that concerns it, after every change of links,
//! addresses and rules in the kernel, and at intervals.

use super::{
    config::OverlayConfig,
    handle::{Command, OverlayHandle, OverlayStatus, few},
    measure,
    worker::Worker,
};
use crate::sys::rtnl::Watch;
use mesh_control::model::Snapshot;
use std::{io, mem::take, sync::Arc, time::Duration};
use tokio::{
    sync::{mpsc, watch},
    task::spawn_blocking,
    time::{Instant, MissedTickBehavior, interval, sleep, sleep_until},
};

/// Changes come in bursts: so long is waited for the rest of one.
const BURST: Duration = Duration::from_millis(50);
/// So often it is looked whether others answer at a new key.
const TURN: Duration = Duration::from_secs(1);
/// Commands that wait at most.
const COMMANDS: usize = 16;

/// Starts it in the network namespace of the calling thread.
///
/// # Errors
/// When netlink is not to be had.
///
/// # Panics
/// Outside a tokio runtime.
pub fn spawn(config: OverlayConfig, snapshots: watch::Receiver<Arc<Snapshot>>) -> io::Result<OverlayHandle> {
    let (commands, received) = mpsc::channel(COMMANDS);
    let (publish, status) = watch::channel(Arc::default());
    let audit_interval = config.audit_interval;
    let (port, every) = (config.probe_port, config.probe_interval);
    let watch = Watch::open()?;
    let worker = Some(Worker::new(config)?);
    let (paths, measuring) = measure::spawn(port, every, status.clone());
    let keeper = Keeper {
        worker,
        snapshots,
        paths,
        publish,
        status: OverlayStatus::default(),
        told: Vec::new(),
        again: None,
    };
    let keeping = tokio::spawn(keeper.run(watch, received, audit_interval));
    Ok(OverlayHandle { commands, status, tasks: [keeping, measuring] })
}

struct Keeper {
    /// Away only while it works.
    worker: Option<Worker>,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    /// What is wrong with the paths to other nodes.
    paths: watch::Receiver<Vec<String>>,
    publish: watch::Sender<Arc<OverlayStatus>>,
    status: OverlayStatus,
    /// The troubles that were logged last.
    told: Vec<String>,
    /// When to look again because a key is being changed.
    again: Option<Instant>,
}

impl Keeper {
    async fn run(mut self, watch: Watch, mut commands: mpsc::Receiver<Command>, every: Duration) {
        let mut audit = interval(every);
        audit.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut watch = Some(watch);
        loop {
            tokio::select! {
                _ = audit.tick() => {}
                () = sleep_until(self.again.unwrap_or_else(Instant::now)), if self.again.is_some() => {}
                result = self.snapshots.changed() => {
                    if result.is_err() {
                        return;
                    }
                    let snapshot = self.snapshot();
                    if self.work(move |worker| worker.concerns(&snapshot)).await != Some(true) {
                        continue;
                    }
                }
                result = Watch::word(watch.as_ref()) => {
                    if let Err(error) = result {
                        tracing::warn!(%error, "changes of links go unseen until the next audit");
                        watch = None;
                    }
                    sleep(BURST).await;
                }
                Ok(()) = self.paths.changed() => {
                    self.status.paths = self.paths.borrow_and_update().clone();
                    self.tell();
                    continue;
                }
                command = commands.recv() => {
                    match command {
                        Some(command) => self.command(command).await,
                        None => return,
                    }
                    continue;
                }
            }
            self.pass().await;
        }
    }

    fn snapshot(&mut self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshots.borrow_and_update())
    }

    /// Lets the worker work where blocking is allowed. Absent only after a panic of its.
    async fn work<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Worker) -> T + Send + 'static,
    ) -> Option<T> {
        let mut worker = self.worker.take()?;
        let done = spawn_blocking(move || {
            let result = work(&mut worker);
            (worker, result)
        });
        let (worker, result) = done.await.ok()?;
        self.worker = Some(worker);
        Some(result)
    }

    async fn pass(&mut self) {
        let snapshot = self.snapshot();
        let Some(result) = self.work(move |worker| worker.pass(&snapshot)).await else { return };
        self.status.passes += 1;
        self.again = None;
        match result {
            Ok(None) => {}
            Ok(Some(pass)) => {
                let (plan, done) = (pass.applied.plan, pass.applied.done);
                let steps = done.len() as u64;
                self.status.steps += steps;
                if !done.is_empty() {
                    let first = done.iter().take(8).cloned().collect::<Vec<_>>().join("; ");
                    if pass.new {
                        tracing::info!(steps, first, peers = plan.peers.len(), "the overlay was changed");
                    } else {
                        self.status.repairs += steps;
                        tracing::warn!(steps, first, "the overlay was repaired: somebody had changed it");
                    }
                }
                self.status.error = None;
                let tunnels = pass.applied.tunnels;
                self.again = tunnels.turning.then(|| Instant::now() + TURN);
                self.status.tunnels = Some(tunnels.announce);
                let problems = plan.problems.iter().cloned().chain(tunnels.problems);
                self.status.problems = few(problems.chain(pass.applied.failed));
                if self.status.plan.as_deref() != Some(&plan) {
                    self.status.plan = Some(Arc::new(plan));
                }
            }
            Err(error) => self.status.error = Some(error.to_string()),
        }
        self.tell();
    }

    /// Publishes how it stands, and logs troubles when they change, not at every pass.
    fn tell(&mut self) {
        self.publish.send_if_modified(|published| {
            let differs = **published != self.status;
            if differs {
                *published = Arc::new(self.status.clone());
            }
            differs
        });
        let troubles: Vec<String> = self.status.troubles().map(str::to_owned).collect();
        for trouble in troubles.iter().filter(|trouble| !self.told.contains(trouble)).take(8) {
            tracing::warn!(trouble, "overlay");
        }
        if troubles.is_empty() && !take(&mut self.told).is_empty() {
            tracing::info!("the overlay stands again");
        }
        self.told = troubles;
    }

    async fn command(&mut self, command: Command) {
        let snapshot = self.snapshot();
        // Who asked may be gone: then nobody needs the answer.
        match command {
            Command::Rotate(answer) => {
                if let Some(result) = self.work(Worker::rotate).await {
                    self.again = Some(Instant::now());
                    let _ = answer.send(result.map_err(|error| error.to_string()));
                }
            }
            Command::Pending(answer) => {
                if let Some(steps) = self.work(move |worker| worker.pending(&snapshot)).await {
                    let _ = answer.send(steps.map_err(|error| error.to_string()));
                }
            }
            Command::Attach(request, answer) => {
                if let Some(result) = self.work(move |worker| worker.attach(&snapshot, &request)).await {
                    let _ = answer.send(result);
                }
            }
            Command::Detach(netns, name, answer) => {
                if let Some(result) = self.work(move |worker| worker.detach(&netns, &name)).await {
                    let _ = answer.send(result);
                }
            }
            Command::Attachments(answer) => {
                if let Some(result) = self.work(Worker::attachments).await {
                    let _ = answer.send(result);
                }
            }
        }
    }
}
