//! SIGINT and SIGTERM end the run as an error does, so that everything is removed.

use crate::agent::pause;
use anyhow::{Context as _, ensure};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::signal::unix::{SignalKind, signal};

/// Whether a signal came.
#[derive(Clone, Debug)]
pub(super) struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Listens from now on, until the process ends.
    pub(super) fn on_signals() -> anyhow::Result<Self> {
        let came = Arc::new(AtomicBool::new(false));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (mut interrupt, mut terminate) = {
            let _inside = runtime.enter();
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
        };
        let flag = Arc::clone(&came);
        std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
            runtime.block_on(async {
                loop {
                    tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
                    flag.store(true, Ordering::Relaxed);
                    eprintln!("stopping: removing processes and namespaces");
                }
            });
        })?;
        Ok(Stop(came))
    }

    /// Fails when a signal came.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        ensure!(!self.0.load(Ordering::Relaxed), "stopped by a signal");
        Ok(())
    }

    /// Waits for `time`, less when a signal comes.
    pub(super) fn pause(&self, time: Duration) -> anyhow::Result<()> {
        let start = Instant::now();
        while let Some(rest) = time.checked_sub(start.elapsed()).filter(|rest| !rest.is_zero()) {
            self.check()?;
            pause(rest.min(Duration::from_millis(100)));
        }
        self.check()
    }

    /// Calls `met` every `step` until it is true; the time that took.
    pub(super) fn until(
        &self,
        what: &str,
        bound: Duration,
        step: Duration,
        mut met: impl FnMut() -> anyhow::Result<bool>,
    ) -> anyhow::Result<Duration> {
        let start = Instant::now();
        loop {
            if met().with_context(|| what.to_owned())? {
                return Ok(start.elapsed());
            }
            ensure!(start.elapsed() < bound, "{what}: not within {bound:?}");
            self.pause(step)?;
        }
    }
}
