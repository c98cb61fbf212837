//! The task that owns all others of a server.

use crate::metrics::{Dropped, Metrics};
use prometheus::IntCounter;
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};
use tokio::{
    sync::watch,
    task::{JoinError, JoinHandle, JoinSet},
};

/// Takes leave of the tasks that have ended, one for each connection or forward; a defect is counted.
pub(super) fn reap(tasks: &mut JoinSet<()>, metrics: &Metrics) {
    while let Some(ended) = tasks.try_join_next() {
        if ended.is_err_and(|error| error.is_panic()) {
            tracing::error!("a defect: a query got no reply");
            metrics.dropped(Dropped::Defect);
        }
    }
}

/// What a task was, told at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// It followed the snapshots, or waited for their end; ends when there will be no more.
    Feed,
    /// It served a socket; should not end.
    Socket,
}

/// The tasks of a server; they end when this is dropped.
#[derive(Debug)]
pub(super) struct Supervised {
    stop: watch::Sender<bool>,
    whole: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Supervised {
    /// `panics` counts the tasks that end with one.
    pub(super) fn new(mut tasks: JoinSet<Part>, panics: IntCounter) -> Self {
        let (stop, mut stopped) = watch::channel(false);
        let whole = Arc::new(AtomicBool::new(true));
        let is_whole = Arc::clone(&whole);
        let task = tokio::spawn(async move {
            loop {
                tokio::select! {
                    // An error means that the handle is gone, which stops the server as well.
                    _ = stopped.wait_for(|stop| *stop) => break,
                    Some(ended) = tasks.join_next() => {
                        if !matches!(ended, Ok(Part::Feed)) {
                            panics.inc_by(ended.as_ref().is_err_and(JoinError::is_panic).into());
                            is_whole.store(false, Ordering::Relaxed);
                            tracing::error!(?ended, "a part of the DNS server ended: restart the agent");
                        }
                    }
                }
            }
            tasks.shutdown().await;
        });
        Supervised { stop, whole, task }
    }

    /// Whether no task has ended that should not.
    pub(super) fn is_whole(&self) -> bool {
        self.whole.load(Ordering::Relaxed)
    }

    /// Ends all tasks and waits for it.
    pub(super) async fn stop(&mut self) {
        self.stop.send_replace(true);
        // It cannot be cancelled from elsewhere and does not panic: nothing to report.
        let _ = (&mut self.task).await;
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        self.task.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{future::pending, time::Duration};

    /// All of a server whose one task ends like this while another goes on, and its count of panics.
    fn with_one_that(ends: impl Future<Output = Part> + Send + 'static) -> (Supervised, IntCounter) {
        let mut tasks = JoinSet::new();
        tasks.spawn(ends);
        tasks.spawn(pending());
        let panics = IntCounter::new("panics", "Panics.").unwrap();
        (Supervised::new(tasks, panics.clone()), panics)
    }

    async fn is_told(ends: impl Future<Output = Part> + Send + 'static, panics: u64) {
        let (mut all, counted) = with_one_that(ends);
        let broken = async {
            while all.is_whole() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), broken).await.expect("it is told");
        all.stop().await;
        assert_eq!(counted.get(), panics);
    }

    #[tokio::test]
    async fn a_socket_that_nobody_serves_any_more_is_told() {
        is_told(async { Part::Socket }, 0).await;
    }

    #[tokio::test]
    async fn a_defect_in_a_connection_is_counted() {
        let registry = prometheus::Registry::new();
        let metrics = Metrics::register(&registry).unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async {});
        tasks.spawn(async { panic!("as a defect would") });
        let all = async {
            while !tasks.is_empty() {
                reap(&mut tasks, &metrics);
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), all).await.expect("both end");
        let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        assert!(text.contains("mesh_dns_panics_total 1"), "{text}");
    }

    #[tokio::test]
    async fn a_defect_is_told() {
        is_told(async { panic!("as a defect would") }, 1).await;
    }

    #[tokio::test]
    async fn the_end_of_the_snapshots_is_no_defect() {
        let (mut all, _) = with_one_that(async { Part::Feed });
        // One thread: every task has run, and the supervisor has looked, when this comes back the tenth time.
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert!(all.is_whole());
        all.stop().await;
    }
}
