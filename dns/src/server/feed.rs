//! The view that is answered from: swapped whole with each snapshot, and too old some time after the last.

use crate::{metrics::Metrics, view::DnsView};
use arc_swap::ArcSwap;
use mesh_control::model::Snapshot;
use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::sync::{oneshot, watch};

/// Swaps in the view of each new snapshot, until there will be no more of them. However it ends, `_alive` ends with it.
pub(super) async fn follow(
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
    live: Arc<ArcSwap<DnsView>>,
    metrics: Metrics,
    _alive: oneshot::Sender<()>,
) {
    loop {
        let snapshot = snapshots.borrow_and_update().clone();
        let current = live.load_full();
        if snapshot.revision != current.revision() {
            let next = if current.needs_rebuild(&snapshot) {
                // Everything anew takes a while with many services: not on a thread that answers queries.
                match tokio::task::spawn_blocking(move || DnsView::new(&snapshot)).await {
                    Ok(view) => view,
                    // The runtime ends: so does this.
                    Err(error) if error.is_cancelled() => return,
                    Err(error) => std::panic::resume_unwind(error.into_panic()),
                }
            } else {
                current.updated(&snapshot)
            };
            show(&metrics, &next);
            live.store(Arc::new(next));
        }
        if snapshots.changed().await.is_err() {
            return;
        }
    }
}

/// Once nobody follows the snapshots any more, what was known last is answered on for `last_known`, which `wait` waits
/// for, or without it for ever; then it is expired.
pub(super) async fn expire<W: Future<Output = ()>>(
    followed: oneshot::Receiver<()>,
    live: Arc<ArcSwap<DnsView>>,
    metrics: Metrics,
    last_known: Option<Duration>,
    wait: impl FnOnce(Duration) -> W,
) {
    // Nothing is ever sent: the sender only ends.
    let _ = followed.await;
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    metrics.view_orphaned.set(i64::try_from(since).unwrap_or(i64::MAX));
    let Some(bound) = last_known else { return };
    wait(bound).await;
    tracing::error!(
        ?bound,
        "the control plane is away for too long: the mesh's names are SERVFAIL from now on"
    );
    metrics.view_expired.set(1);
    live.store(Arc::new(live.load().expired()));
}

/// Shows in the metrics what is answered from.
pub(super) fn show(metrics: &Metrics, view: &DnsView) {
    metrics.view_revision.set(i64::try_from(view.revision()).unwrap_or(i64::MAX));
    metrics.view_services.set(i64::try_from(view.services()).unwrap_or(i64::MAX));
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_control::model::Name;

    const BOUND: Duration = Duration::from_secs(3600);

    /// Follows a feed that has ended; the time is over when the sender says so.
    async fn orphaned(
        last_known: Option<Duration>,
    ) -> (Arc<ArcSwap<DnsView>>, Metrics, Vec<(Duration, bool)>) {
        let (sender, snapshots) = watch::channel(Arc::new(Snapshot::empty(Name::new("n1").unwrap())));
        let live = Arc::new(ArcSwap::from_pointee(DnsView::new(&snapshots.borrow().clone())));
        let metrics = Metrics::register(&prometheus::Registry::new()).unwrap();
        let (over, end) = oneshot::channel();
        let (asked, waits) = oneshot::channel();
        let wait = move |bound| {
            asked.send(bound).unwrap();
            async { end.await.unwrap() }
        };
        let (alive, followed) = oneshot::channel();
        let following = follow(snapshots, Arc::clone(&live), metrics.clone(), alive);
        let expiring = expire(followed, Arc::clone(&live), metrics.clone(), last_known, wait);
        let (following, expiring) = (tokio::spawn(following), tokio::spawn(expiring));
        drop(sender);
        let mut seen = Vec::new();
        if let Ok(bound) = waits.await {
            seen.push((bound, live.load().is_expired()));
            over.send(()).unwrap();
        }
        following.await.unwrap();
        expiring.await.unwrap();
        (live, metrics, seen)
    }

    #[tokio::test]
    async fn the_last_known_state_expires_when_its_time_is_over() {
        let (live, metrics, seen) = orphaned(Some(BOUND)).await;
        assert_eq!(seen, [(BOUND, false)], "not before");
        assert!(live.load().is_expired() && metrics.view_orphaned.get() > 0);
        assert_eq!(metrics.view_expired.get(), 1);
    }

    #[tokio::test]
    async fn without_a_bound_it_never_does() {
        let (live, metrics, seen) = orphaned(None).await;
        assert!(seen.is_empty() && !live.load().is_expired() && metrics.view_orphaned.get() > 0);
        assert_eq!(metrics.view_expired.get(), 0);
    }
}
