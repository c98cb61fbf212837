//! How the rest of the agent talks to the reconciler.

use super::status::ReconcileStatus;
use crate::{
    dataplane::{Counters, Explanation, Flow, PlaneError},
    plan::Op,
};
use tokio::sync::{mpsc, oneshot, watch};

/// The reconciler has stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the reconciler has stopped")]
pub struct ReconcileGone;

/// What the task is asked. The queue is bounded; whoever asks waits.
pub(super) enum Command {
    Counters(oneshot::Sender<Counters>),
    Explain(Flow, oneshot::Sender<Explanation>),
    Plan(oneshot::Sender<Vec<Op>>),
    Audit(oneshot::Sender<()>),
    RefuseNew(oneshot::Sender<()>),
    Shutdown(bool, oneshot::Sender<Result<(), PlaneError>>),
}

/// A cheap handle on the reconciler. When the last one is dropped the task ends and leaves the plane as it is.
#[derive(Clone, Debug)]
pub struct ReconcileHandle {
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) status: watch::Receiver<ReconcileStatus>,
}

impl ReconcileHandle {
    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, ReconcileGone> {
        let (answer, answered) = oneshot::channel();
        self.commands.send(command(answer)).await.map_err(|_| ReconcileGone)?;
        answered.await.map_err(|_| ReconcileGone)
    }

    /// The plane's counters.
    ///
    /// # Errors
    /// [`ReconcileGone`].
    pub async fn counters(&self) -> Result<Counters, ReconcileGone> {
        self.ask(Command::Counters).await
    }

    /// Where a new flow would go.
    ///
    /// # Errors
    /// [`ReconcileGone`].
    pub async fn explain(&self, flow: Flow) -> Result<Explanation, ReconcileGone> {
        self.ask(|answer| Command::Explain(flow, answer)).await
    }

    /// What would be sent to the plane now: a dry run. Empty when it is as it should be.
    ///
    /// # Errors
    /// [`ReconcileGone`].
    pub async fn plan(&self) -> Result<Vec<Op>, ReconcileGone> {
        self.ask(Command::Plan).await
    }

    /// Audits now instead of at the next interval; returns when it is done.
    ///
    /// # Errors
    /// [`ReconcileGone`].
    pub async fn audit(&self) -> Result<(), ReconcileGone> {
        self.ask(Command::Audit).await
    }

    /// The reconciler as of its last pass.
    #[must_use]
    pub fn status(&self) -> ReconcileStatus {
        self.status.borrow().clone()
    }

    /// Changes of the status, for whoever wants to wait for one.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<ReconcileStatus> {
        self.status.clone()
    }

    /// Waits until snapshot `revision` or a later one was worked through; its errors are in the status.
    ///
    /// # Errors
    /// [`ReconcileGone`].
    pub async fn wait_reconciled(&self, revision: u64) -> Result<(), ReconcileGone> {
        let mut status = self.status.clone();
        let reached = status.wait_for(|s| s.applied_revision >= revision && s.last_sync.is_some()).await;
        reached.map(drop).map_err(|_| ReconcileGone)
    }

    /// Takes no new connection from now on, while open ones go on. The plane is left alone afterwards: snapshots are not
    /// followed and nothing is repaired, until [`ReconcileHandle::shutdown`].
    ///
    /// # Errors
    /// [`ReconcileGone`].
    pub async fn refuse_new(&self) -> Result<(), ReconcileGone> {
        self.ask(Command::RefuseNew).await
    }

    /// Resolves when the reconciler has ended, whatever the cause.
    pub async fn ended(&self) {
        let mut status = self.status.clone();
        while status.changed().await.is_ok() {}
    }

    /// Stops; with `teardown` the plane removes everything it made, else it is dropped as it is.
    ///
    /// # Errors
    /// [`PlaneError`] when the teardown left something. A reconciler that has stopped already is no error.
    pub async fn shutdown(&self, teardown: bool) -> Result<(), PlaneError> {
        self.ask(|answer| Command::Shutdown(teardown, answer)).await.unwrap_or(Ok(()))
    }
}
