//! What is to be done beside what the plane is told: deadlines come, flows grow old, links and addresses change.

use super::{config::NAME, core::Core};
use crate::{dataplane::blocking::locked, sys::rtnl::Watch};
use mesh_control::model::Snapshot;
use std::{
    future::pending,
    io,
    sync::{Arc, Mutex, Weak},
    time::Duration,
};
use tokio::{
    sync::{Notify, watch},
    task::{JoinHandle, spawn_blocking},
    time::{MissedTickBehavior, interval, sleep},
};

/// Old flows are looked for so often.
const COLLECT: Duration = Duration::from_secs(5);
/// Changes come in bursts: so long is waited for the rest of one.
const BURST: Duration = Duration::from_millis(20);
/// The clock may be set: a deadline is looked at again after so long.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// The task; it ends with this.
#[derive(Debug)]
pub(super) struct Keeper {
    task: JoinHandle<()>,
    wake: Arc<Notify>,
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Keeper {
    /// Starts it in the network namespace of the calling thread.
    pub(super) fn spawn(
        core: &Arc<Mutex<Core>>,
        snapshots: Option<watch::Receiver<Arc<Snapshot>>>,
    ) -> io::Result<Keeper> {
        let (links, wake) = (Watch::open()?, Arc::<Notify>::default());
        let task = tokio::spawn(run(Arc::downgrade(core), links, snapshots, Arc::clone(&wake)));
        Ok(Keeper { task, wake })
    }

    /// There may be other deadlines now.
    pub(super) fn wake(&self) {
        self.wake.notify_one();
    }
}

/// Works with the core where blocking is allowed; `None` when the plane is gone.
async fn with<T: Send + 'static>(
    core: &Weak<Mutex<Core>>,
    work: impl FnOnce(&mut Core) -> T + Send + 'static,
) -> Option<T> {
    let core = core.upgrade()?;
    spawn_blocking(move || work(&mut locked(&core))).await.ok()
}

async fn run(
    core: Weak<Mutex<Core>>,
    links: Watch,
    mut snapshots: Option<watch::Receiver<Arc<Snapshot>>>,
    wake: Arc<Notify>,
) {
    let mut collect = interval(COLLECT);
    collect.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let due = with(&core, |core| {
            core.end_due();
            core.state.next_due().map(|at| at.saturating_sub(core.now().unix))
        });
        let Some(due) = due.await else { return };
        let deadline = async {
            match due {
                Some(ms) => sleep(Duration::from_millis(ms).min(LOOK_AGAIN)).await,
                None => pending().await,
            }
        };
        let nodes = async {
            let changed = match &mut snapshots {
                Some(snapshots) => snapshots.changed().await.is_ok(),
                None => false,
            };
            if !changed {
                pending::<()>().await;
            }
        };
        let done = tokio::select! {
            () = deadline => continue,
            () = wake.notified() => continue,
            () = nodes => with(&core, Core::look_around).await,
            changed = links.changed() => {
                if let Err(error) = changed {
                    tracing::warn!(plane = NAME, %error, "changes of links go unseen until the next audit");
                    sleep(LOOK_AGAIN).await;
                }
                sleep(BURST).await;
                with(&core, Core::look_around).await
            }
            _ = collect.tick() => with(&core, Core::collect).await,
        };
        match done {
            None => return,
            Some(Ok(())) => {}
            Some(Err(error)) => {
                tracing::warn!(plane = NAME, %error, "cannot follow the host, will retry");
            }
        }
    }
}
