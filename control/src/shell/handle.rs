//! What the agent holds of a running control plane.

use crate::{
    api::{ControlError, ControlStats, KeyView, LocalChange, PeerStats},
    hlc::Now,
    keyring::ClusterKey,
    model::{NodeName, ServiceKey, Snapshot},
    node::{Node, Output},
};
use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Instant, SystemTime, UNIX_EPOCH},
};
use tokio::sync::{mpsc, oneshot, watch};

/// What the handle asks of the task.
pub(super) enum Command {
    /// Do these outputs of a change, and publish.
    Do(Vec<Output>),
    /// Say good-bye, then answer.
    Shutdown(oneshot::Sender<()>),
}

/// The clocks of one run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clocks {
    start: Instant,
}

impl Clocks {
    pub(super) fn start() -> Clocks {
        Clocks { start: Instant::now() }
    }

    pub(super) fn now(self) -> Now {
        let millis = |d: std::time::Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        Now {
            mono: millis(self.start.elapsed()),
            wall: SystemTime::now().duration_since(UNIX_EPOCH).map(millis).unwrap_or_default(),
        }
    }

    pub(super) fn instant(self, mono: u64) -> Instant {
        self.start + std::time::Duration::from_millis(mono)
    }
}

/// The node, shared between its task and the handles; held for one step at a time.
#[derive(Clone)]
pub(super) struct Shared(Arc<Mutex<Node>>);

impl Shared {
    pub(super) fn new(node: Node) -> Shared {
        Shared(Arc::new(Mutex::new(node)))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Node> {
        // A step that panicked is a bug; the state is still the best there is.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running control plane. Cheap to clone; when the last one is dropped it says good-bye and stops.
#[derive(Clone)]
pub struct ControlHandle {
    pub(super) node: Shared,
    pub(super) clocks: Clocks,
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) snapshots: watch::Receiver<Arc<Snapshot>>,
    pub(super) joined: watch::Receiver<bool>,
    pub(super) address: SocketAddr,
    /// Connections that did not prove to have a key.
    pub(super) strangers: Arc<AtomicU64>,
}

impl std::fmt::Debug for ControlHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ControlHandle").field("address", &self.address).finish_non_exhaustive()
    }
}

impl ControlHandle {
    /// The merged state, published whenever it changes, at most once in a few milliseconds.
    #[must_use]
    pub fn snapshots(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshots.clone()
    }

    /// Takes changes of this node's sources, all or none. Returns the revision that has them; it is published
    /// within a few milliseconds. A change that changes no content writes nothing.
    ///
    /// # Errors
    /// [`ControlError::Change`] naming field, value and fix, and then nothing was written;
    /// [`ControlError::Stopped`] after the shutdown.
    pub async fn submit(&self, changes: Vec<LocalChange>) -> Result<u64, ControlError> {
        self.change(|node, now| node.submit(changes, now)).await
    }

    /// Deletes all that a node wrote which is down for good. Returns the revision without it. Should it come back, it
    /// says it anew.
    ///
    /// # Errors
    /// [`ControlError::Forget`] when it is up or unknown, and then nothing was written; [`ControlError::Stopped`] after
    /// the shutdown.
    pub async fn forget(&self, node: &NodeName) -> Result<u64, ControlError> {
        self.change(|me, now| me.forget(node, now)).await
    }

    async fn change(
        &self,
        change: impl FnOnce(&mut Node, Now) -> Result<Vec<Output>, ControlError>,
    ) -> Result<u64, ControlError> {
        // Room first: once the node took the changes, their outputs must not be lost.
        let room = self.commands.reserve().await.map_err(|_| ControlError::Stopped)?;
        let (revision, outputs) = {
            let mut node = self.node.lock();
            let outputs = change(&mut node, self.clocks.now())?;
            (node.snapshot().revision, outputs)
        };
        room.send(Command::Do(outputs));
        Ok(revision)
    }

    /// Counts for status and metrics, as of now.
    #[must_use]
    pub fn stats(&self) -> ControlStats {
        let mut stats = self.node.lock().stats();
        let strangers = self.strangers.load(Ordering::Relaxed);
        if strangers > 0 {
            stats.refused.push(("connection", strangers));
        }
        stats
    }

    /// What is measured of the other nodes, by name.
    #[must_use]
    pub fn peers(&self) -> Vec<PeerStats> {
        self.node.lock().peers()
    }

    /// The cluster's keys as this node sees them, the sealing one first.
    #[must_use]
    pub fn keys(&self) -> Vec<KeyView> {
        self.node.lock().keys()
    }

    /// The key that seals, itself: for a join token, and for nothing that is shown or logged.
    #[must_use]
    pub fn expose_sealing_key(&self) -> ClusterKey {
        self.node.lock().expose_sealing_key()
    }

    /// Whether this node synced with at least one peer, or has no seeds but itself.
    #[must_use]
    pub fn joined(&self) -> bool {
        self.node.lock().joined()
    }

    /// Waits until [`joined`](Self::joined), or until the shutdown. Seeds that never answer make it wait for ever: give
    /// it a timeout.
    pub async fn until_joined(&self) {
        // An error means that the control plane is shut down.
        let _ = self.joined.clone().wait_for(|joined| *joined).await;
    }

    /// The services of which this node has endpoint records or which it declares as itself, also what an earlier run
    /// left: whatever no source mentions any more is to be withdrawn, once this node [joined](Self::joined).
    #[must_use]
    pub fn own_services(&self) -> Vec<ServiceKey> {
        self.node.lock().own_services()
    }

    /// Where the others reach this node; with port 0 in the configuration, the port that the system chose.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Says good-bye, so that the others mark this node as left at once, and stops. Later calls return at once.
    pub async fn shutdown(&self) {
        let (answer, stopped) = oneshot::channel();
        if self.commands.send(Command::Shutdown(answer)).await.is_ok() {
            // An error means that the task is gone already.
            let _ = stopped.await;
        }
    }
}
