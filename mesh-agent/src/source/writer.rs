//! The one way from sources into the control plane.

use super::{
    local::{LocalService, Process, SourceId, Verdict},
    merge::{Merge, NoSuchEndpoint, Refused, key_of},
    state::{LocalState, SourceStatus},
};
use mesh_control::{
    LocalChange,
    model::{Name, NodeInfo, NodeName, Origin, ServiceKey, ServiceSpec, Snapshot, Tunnel},
};
use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
    time::Instant,
};
use tracing::{debug, warn};

/// Statements that wait at most; then who speaks waits.
const QUEUE: usize = 256;
/// Changes handed over at once.
const BATCH: usize = 256;
/// First and longest pause before a change that was refused is tried again.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Why a statement did not reach the mesh.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WriterError {
    /// The writer is gone: the agent stops.
    #[error("the agent is stopping")]
    Closed,
    /// The control plane refused it; it is tried again until it is taken or withdrawn.
    #[error("{service}: {reason}")]
    Refused {
        /// Which service.
        service: ServiceKey,
        /// The control plane's answer.
        reason: String,
    },
    /// The control plane refused what is said of this node; it is tried again until it is taken.
    #[error("this node: {reason}")]
    NodeRefused {
        /// The control plane's answer.
        reason: String,
    },
    /// There is no such endpoint here.
    #[error(transparent)]
    NoSuchEndpoint(#[from] NoSuchEndpoint),
}

type Answer = oneshot::Sender<Result<(), WriterError>>;

#[derive(Debug)]
enum Statement {
    Replace(SourceId, Vec<LocalService>),
    Upsert(SourceId, Box<LocalService>),
    Remove(SourceId, ServiceKey),
    Synced(SourceId),
    Errors(SourceId, Vec<String>),
    Verdict(ServiceKey, Process, Option<Verdict>),
    Drain(ServiceKey, Name, Option<Duration>),
    Undrain(ServiceKey, Name),
    DrainNode(bool),
    Tunnels(Vec<Tunnel>),
    Leftovers(Vec<ServiceKey>),
    Cluster(ServiceKey, Option<Arc<ServiceSpec>>),
}

/// Takes what the sources and checks say, in order, and tells the control plane what changed. Clones share one task.
///
/// Every method returns when the control plane has taken the change; dropping its future does not take it back.
#[derive(Clone, Debug)]
pub struct StateWriter {
    statements: mpsc::Sender<(Statement, Answer)>,
    local: watch::Receiver<LocalState>,
    synced: watch::Receiver<bool>,
    statuses: watch::Receiver<Arc<[SourceStatus]>>,
}

impl StateWriter {
    /// Starts the task; it ends when the last clone of the writer is dropped. `submit` hands changes to the control
    /// plane and may be called again with the same ones; its error is text for people. `info` is what the control
    /// plane was started with.
    pub fn spawn<F, R>(
        node: NodeName,
        info: NodeInfo,
        sources: &[SourceId],
        snapshot: watch::Receiver<Arc<Snapshot>>,
        submit: F,
    ) -> (StateWriter, JoinHandle<()>)
    where
        F: FnMut(Vec<LocalChange>) -> R + Send + 'static,
        R: Future<Output = Result<(), String>> + Send + 'static,
    {
        let (statements, inbox) = mpsc::channel(QUEUE);
        let (local_out, local) = watch::channel(LocalState::new());
        let (synced_out, synced) = watch::channel(sources.is_empty());
        let merge = Merge::new(node, info, sources);
        let (statuses_out, statuses) = watch::channel(merge.statuses().into());
        let task = Task {
            merge,
            snapshot,
            submit,
            local: local_out,
            synced: synced_out,
            statuses: statuses_out,
            refused: Refused::default(),
            retry: None,
            pause: RETRY.0,
            started: Instant::now(),
        };
        (StateWriter { statements, local, synced, statuses }, tokio::spawn(task.run(inbox)))
    }

    async fn say(&self, statement: Statement) -> Result<(), WriterError> {
        let (answer, answered) = oneshot::channel();
        self.statements.send((statement, answer)).await.map_err(|_| WriterError::Closed)?;
        answered.await.map_err(|_| WriterError::Closed)?
    }

    /// Everything that `source` says, instead of what it said before.
    ///
    /// # Errors
    /// [`WriterError::Refused`] with the first service that the control plane refused, [`WriterError::Closed`].
    pub async fn replace(&self, source: &SourceId, services: Vec<LocalService>) -> Result<(), WriterError> {
        self.say(Statement::Replace(source.clone(), services)).await
    }

    /// What `source` says of one service, instead of what it said of it before.
    ///
    /// # Errors
    /// As [`StateWriter::replace`].
    pub async fn upsert(&self, source: &SourceId, service: LocalService) -> Result<(), WriterError> {
        self.say(Statement::Upsert(source.clone(), Box::new(service))).await
    }

    /// `source` no longer speaks of a service.
    ///
    /// # Errors
    /// As [`StateWriter::replace`].
    pub async fn remove(&self, source: &SourceId, key: &ServiceKey) -> Result<(), WriterError> {
        self.say(Statement::Remove(source.clone(), key.clone())).await
    }

    /// `source` has told everything once.
    ///
    /// # Errors
    /// [`WriterError::Closed`].
    pub async fn synced(&self, source: &SourceId) -> Result<(), WriterError> {
        self.say(Statement::Synced(source.clone())).await
    }

    /// What is wrong with the input of `source` now, for [`StateWriter::statuses`].
    ///
    /// # Errors
    /// [`WriterError::Closed`].
    pub async fn set_errors(&self, source: &SourceId, errors: Vec<String>) -> Result<(), WriterError> {
        self.say(Statement::Errors(source.clone(), errors)).await
    }

    /// What the checks say of an endpoint of this node; `None` when nothing checks it any more. Dropped when the
    /// instance is another process than `about` by now.
    ///
    /// # Errors
    /// As [`StateWriter::replace`].
    pub async fn set_verdict(
        &self,
        key: &ServiceKey,
        about: Process,
        verdict: Option<Verdict>,
    ) -> Result<(), WriterError> {
        self.say(Statement::Verdict(key.clone(), about, verdict)).await
    }

    /// Drains an endpoint of this node until [`StateWriter::undrain`]: no new flow, old ones are reset after the
    /// service's drain time. Not kept over a restart.
    ///
    /// # Errors
    /// [`WriterError::NoSuchEndpoint`], and as [`StateWriter::replace`].
    pub async fn drain(
        &self,
        key: &ServiceKey,
        instance: &Name,
        deadline: Option<Duration>,
    ) -> Result<(), WriterError> {
        self.say(Statement::Drain(key.clone(), instance.clone(), deadline)).await
    }

    /// Takes a drained endpoint back.
    ///
    /// # Errors
    /// As [`StateWriter::drain`].
    pub async fn undrain(&self, key: &ServiceKey, instance: &Name) -> Result<(), WriterError> {
        self.say(Statement::Undrain(key.clone(), instance.clone())).await
    }

    /// Drains all of this node, or takes it back.
    ///
    /// # Errors
    /// [`WriterError::NodeRefused`], [`WriterError::Closed`].
    pub async fn drain_node(&self, draining: bool) -> Result<(), WriterError> {
        self.say(Statement::DrainNode(draining)).await
    }

    /// Tells the mesh where this node's encrypted overlay listens from now on.
    ///
    /// # Errors
    /// [`WriterError::NodeRefused`], [`WriterError::Closed`].
    pub async fn announce_tunnels(&self, tunnels: Vec<Tunnel>) -> Result<(), WriterError> {
        self.say(Statement::Tunnels(tunnels)).await
    }

    /// Withdraws those of `own`, declared or announced by an earlier run of this node, that no source wants now. Waits
    /// for nothing: call it when [`StateWriter::all_synced`] is true.
    ///
    /// # Errors
    /// As [`StateWriter::replace`].
    pub async fn withdraw_leftovers(&self, own: Vec<ServiceKey>) -> Result<(), WriterError> {
        self.say(Statement::Leftovers(own)).await
    }

    /// Declares a service for the whole cluster (`Some`) or withdraws that declaration (`None`), once: anybody may edit
    /// it afterwards, so it is handed on as it comes and not kept here.
    ///
    /// # Errors
    /// [`WriterError::Refused`] for good: it is not tried again. [`WriterError::Closed`].
    pub async fn declare_for_cluster(
        &self,
        key: &ServiceKey,
        spec: Option<Arc<ServiceSpec>>,
    ) -> Result<(), WriterError> {
        self.say(Statement::Cluster(key.clone(), spec)).await
    }

    /// Whether every source has told everything once.
    #[must_use]
    pub fn all_synced(&self) -> watch::Receiver<bool> {
        self.synced.clone()
    }

    /// What this node's sources have, for the health checks.
    #[must_use]
    pub fn local(&self) -> watch::Receiver<LocalState> {
        self.local.clone()
    }

    /// How every source does.
    #[must_use]
    pub fn statuses(&self) -> Arc<[SourceStatus]> {
        self.statuses.borrow().clone()
    }
}

struct Task<F> {
    merge: Merge,
    snapshot: watch::Receiver<Arc<Snapshot>>,
    submit: F,
    local: watch::Sender<LocalState>,
    synced: watch::Sender<bool>,
    statuses: watch::Sender<Arc<[SourceStatus]>>,
    refused: Refused,
    retry: Option<Instant>,
    pause: Duration,
    started: Instant,
}

impl<F, R> Task<F>
where
    F: FnMut(Vec<LocalChange>) -> R,
    R: Future<Output = Result<(), String>>,
{
    async fn run(mut self, mut inbox: mpsc::Receiver<(Statement, Answer)>) {
        let mut batch = Vec::new();
        loop {
            let wake = self.wake();
            tokio::select! {
                count = inbox.recv_many(&mut batch, QUEUE) => if count == 0 { return },
                () = tokio::time::sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {}
            }
            let mut answers = Vec::new();
            for (statement, answer) in batch.drain(..) {
                if let Statement::Cluster(key, spec) = statement {
                    drop(answer.send(self.hand_on(key, spec).await));
                    continue;
                }
                let about =
                    (statement.keys(), matches!(statement, Statement::DrainNode(_) | Statement::Tunnels(_)));
                match self.take(statement) {
                    Ok(()) => answers.push((about, answer)),
                    Err(e) => drop(answer.send(Err(e))),
                }
            }
            self.merge.tick(self.now());
            self.publish();
            self.flush().await;
            for ((keys, node), answer) in answers {
                // Whoever asked may have gone; the change stands.
                drop(answer.send(self.refusal(&keys, node).map_or(Ok(()), Err)));
            }
        }
    }

    /// What was refused of these services, or of the node.
    fn refusal(&self, keys: &[ServiceKey], node: bool) -> Option<WriterError> {
        if let Some(reason) = self.refused.node.as_ref().filter(|_| node) {
            return Some(WriterError::NodeRefused { reason: reason.clone() });
        }
        let (service, reason) = keys.iter().find_map(|k| self.refused.services.get_key_value(k))?;
        Some(WriterError::Refused { service: service.clone(), reason: reason.clone() })
    }

    async fn hand_on(&mut self, key: ServiceKey, spec: Option<Arc<ServiceSpec>>) -> Result<(), WriterError> {
        let (service, origin) = (key.clone(), Origin::Cluster);
        let change = match spec {
            Some(spec) => LocalChange::PutService { origin, key, spec },
            None => LocalChange::DeleteService { origin, key },
        };
        (self.submit)(vec![change]).await.map_err(|reason| WriterError::Refused { service, reason })
    }

    /// Milliseconds since the start, which no step of the wall clock moves.
    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// When there is something to do without a statement.
    fn wake(&self) -> Option<Instant> {
        let deadline = self.merge.next_deadline().map(|at| {
            let left = Duration::from_millis(at.saturating_sub(self.now()));
            // Bounded: far deadlines are beyond what a timer holds.
            Instant::now() + left.clamp(Duration::from_millis(1), Duration::from_secs(3600))
        });
        deadline.into_iter().chain(self.retry).min()
    }

    fn take(&mut self, statement: Statement) -> Result<(), WriterError> {
        let now = self.now();
        self.merge.set_wall_ahead(unix_millis().saturating_sub(now));
        let snapshot = self.snapshot.borrow().clone();
        match statement {
            Statement::Replace(source, services) => self.merge.replace(now, &snapshot, &source, services),
            Statement::Upsert(source, service) => self.merge.upsert(now, &snapshot, &source, *service),
            Statement::Remove(source, key) => self.merge.remove(now, &snapshot, &source, &key),
            Statement::Synced(source) => {
                let all = self.merge.synced(&source);
                self.synced.send_if_modified(|s| std::mem::replace(s, all) != all);
            }
            Statement::Errors(source, errors) => self.merge.set_errors(&source, errors),
            Statement::Verdict(key, about, verdict) => self.merge.set_verdict(&key, &about, verdict),
            Statement::Drain(key, instance, deadline) => {
                self.merge.drain(now, &snapshot, &key, &instance, deadline)?;
            }
            Statement::Undrain(key, instance) => self.merge.undrain(&key, &instance)?,
            Statement::DrainNode(draining) => self.merge.drain_node(now, &snapshot, draining),
            Statement::Tunnels(tunnels) => self.merge.set_tunnels(tunnels),
            Statement::Leftovers(own) => self.merge.withdraw_leftovers(own),
            // Handed on by the caller; nothing of it is kept.
            Statement::Cluster(..) => {}
        }
        Ok(())
    }

    fn publish(&self) {
        let local = self.merge.local();
        self.local.send_if_modified(|seen| {
            let changed = !seen.ptr_eq(local);
            seen.clone_from(local);
            changed
        });
        let statuses = self.merge.statuses();
        self.statuses.send_if_modified(|seen| {
            let changed = **seen != *statuses;
            *seen = statuses.into();
            changed
        });
    }

    /// Tells the control plane everything it can; what is refused is tried again later without holding up the rest.
    async fn flush(&mut self) {
        self.refused = Refused::default();
        self.retry = None;
        loop {
            let changes = self.merge.changes(BATCH, &self.refused);
            if changes.is_empty() {
                break;
            }
            if (self.submit)(changes.clone()).await.is_ok() {
                debug!(changes = changes.len(), "told the control plane");
                self.merge.told(&changes);
                continue;
            }
            for change in changes {
                if let Err(reason) = (self.submit)(vec![change.clone()]).await {
                    match key_of(&change) {
                        Some(key) => drop(self.refused.services.insert(key.clone(), reason)),
                        None => self.refused.node = Some(reason),
                    }
                } else {
                    self.merge.told(&[change]);
                }
            }
        }
        for (service, reason) in &self.refused.services {
            warn!(%service, %reason, "the control plane refuses a change; it is tried again");
        }
        if let Some(reason) = &self.refused.node {
            warn!(%reason, "the control plane refuses what is said of this node; it is tried again");
        }
        if self.refused.services.is_empty() && self.refused.node.is_none() {
            self.pause = RETRY.0;
        } else {
            self.retry = Some(Instant::now() + self.pause);
            self.pause = (self.pause * 2).min(RETRY.1);
        }
    }
}

impl Statement {
    /// The services that it is about.
    fn keys(&self) -> Vec<ServiceKey> {
        match self {
            Statement::Replace(_, services) => services.iter().map(|s| s.key.clone()).collect(),
            Statement::Upsert(_, service) => vec![service.key.clone()],
            Statement::Remove(_, key)
            | Statement::Verdict(key, ..)
            | Statement::Drain(key, ..)
            | Statement::Undrain(key, _)
            | Statement::Cluster(key, _) => vec![key.clone()],
            Statement::Leftovers(own) => own.clone(),
            Statement::Synced(_)
            | Statement::Errors(..)
            | Statement::DrainNode(_)
            | Statement::Tunnels(_) => Vec::new(),
        }
    }
}

/// The wall clock, as drain deadlines are told to other nodes.
fn unix_millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
