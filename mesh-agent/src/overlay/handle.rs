//! What the rest of the agent holds of a running overlay.

use super::{
    attach::{AttachError, AttachRequest, Attachment},
    plan::OverlayPlan,
};
use mesh_control::model::Tunnel;
use std::{path::PathBuf, sync::Arc};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};

/// How the overlay stands.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct OverlayStatus {
    /// What stands, also when a part of it failed; absent until this node's subnets are known.
    pub plan: Option<Arc<OverlayPlan>>,
    /// This node's ends of the tunnels, for the others to know; absent until they were looked at.
    pub tunnels: Option<Vec<Tunnel>>,
    /// Why nothing could be done at the last pass, as a link of somebody else that has the bridge's name.
    pub error: Option<String>,
    /// What stands only in part, for people: steps that the kernel refused, peers that are left out.
    pub problems: Vec<String>,
    /// What is wrong with the paths to other nodes, as measured.
    pub paths: Vec<String>,
    /// Steps done since the start.
    pub steps: u64,
    /// Those of them that repaired what somebody else had changed.
    pub repairs: u64,
    /// Passes over the kernel since the start.
    pub passes: u64,
}

impl OverlayStatus {
    /// All that is wrong, for people.
    pub fn troubles(&self) -> impl Iterator<Item = &str> {
        self.error.iter().chain(&self.problems).chain(&self.paths).map(String::as_str)
    }
}

/// Troubles that are shown at most, of each kind.
const TROUBLES: usize = 32;

/// The first of many troubles, and how many more there are.
pub(super) fn few(mut troubles: impl Iterator<Item = String>) -> Vec<String> {
    let mut few: Vec<String> = troubles.by_ref().take(TROUBLES).collect();
    let more = troubles.count();
    if more > 0 {
        few.push(format!("and {more} more"));
    }
    few
}

/// What the handle asks of the task.
#[derive(Debug)]
pub(super) enum Command {
    Rotate(oneshot::Sender<Result<(), String>>),
    Pending(oneshot::Sender<Result<Vec<String>, String>>),
    Attach(AttachRequest, oneshot::Sender<Result<Attachment, AttachError>>),
    Detach(PathBuf, String, oneshot::Sender<Result<bool, AttachError>>),
    Attachments(oneshot::Sender<Result<Vec<Attachment>, AttachError>>),
}

/// A running overlay. When it is dropped nothing more is watched or repaired, and all stays as it is.
#[derive(Debug)]
pub struct OverlayHandle {
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) status: watch::Receiver<Arc<OverlayStatus>>,
    pub(super) tasks: [JoinHandle<()>; 2],
}

impl Drop for OverlayHandle {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

fn stopped() -> AttachError {
    AttachError::Unavailable("the overlay is stopped".into())
}

impl OverlayHandle {
    /// How it stands; every pass over the kernel wakes.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<Arc<OverlayStatus>> {
        self.status.clone()
    }

    /// What would change in the kernel, for people; empty when it is as it should be.
    ///
    /// # Errors
    /// Why nothing could be done.
    pub async fn pending(&self) -> Result<Vec<String>, String> {
        let asked = self.ask(Command::Pending).await;
        asked.unwrap_or_else(|| Err("the overlay is stopped".into()))
    }

    /// Gives this node a new key, without loss; a change that goes on already is the one.
    ///
    /// # Errors
    /// Why it cannot.
    pub async fn rotate_key(&self) -> Result<(), String> {
        self.ask(Command::Rotate).await.unwrap_or_else(|| Err("the overlay is stopped".into()))
    }

    /// Puts a namespace on the bridge; one that is there already stays as it is.
    ///
    /// # Errors
    /// [`AttachError`]; nothing is left behind then.
    pub async fn attach(&self, request: AttachRequest) -> Result<Attachment, AttachError> {
        self.ask(|answer| Command::Attach(request, answer)).await.unwrap_or_else(|| Err(stopped()))
    }

    /// Takes a namespace off the bridge, also one whose file is gone; whether it was on it.
    ///
    /// # Errors
    /// [`AttachError::Kernel`], [`AttachError::Unavailable`].
    pub async fn detach(&self, netns: PathBuf, name: String) -> Result<bool, AttachError> {
        self.ask(|answer| Command::Detach(netns, name, answer)).await.unwrap_or_else(|| Err(stopped()))
    }

    /// The namespaces that are on the bridge.
    ///
    /// # Errors
    /// [`AttachError::Kernel`], [`AttachError::Unavailable`].
    pub async fn attachments(&self) -> Result<Vec<Attachment>, AttachError> {
        self.ask(Command::Attachments).await.unwrap_or_else(|| Err(stopped()))
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        self.commands.send(command(answer)).await.ok()?;
        answered.await.ok()
    }
}
