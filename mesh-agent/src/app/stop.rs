//! Letting flows end.

use crate::reconcile::ReconcileHandle;
use std::time::Duration;
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};

/// Longest wait for open flows once the node has left the mesh.
const GRACE: Duration = Duration::from_secs(5);

/// Takes no new connection and waits until no flow is open, at most [`GRACE`].
pub(super) async fn until_idle(reconcile: &ReconcileHandle) {
    if reconcile.refuse_new().await.is_err() {
        return;
    }
    let deadline = Instant::now() + GRACE;
    loop {
        let Ok(counters) = reconcile.counters().await else { return };
        let open: u64 = counters
            .backends
            .iter()
            .filter(|b| b.protocol == mesh_control::model::Protocol::Tcp)
            .map(|b| b.active)
            .sum();
        if open == 0 || Instant::now() >= deadline {
            return;
        }
        tracing::debug!(open, "waiting for open connections");
        sleep(Duration::from_millis(50)).await;
    }
}

/// A task that ends with whoever holds this.
#[derive(Debug)]
pub(super) struct Owned(JoinHandle<()>);

impl Owned {
    pub(super) fn spawn(task: impl Future<Output = ()> + Send + 'static) -> Owned {
        Owned(tokio::spawn(task))
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        self.0.abort();
    }
}
