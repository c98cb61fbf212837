//! The view that is answered from: swapped whole with each snapshot, and too old some time after the last.

use crate::{metrics::Metrics, view::DnsView};
use arc_swap::ArcSwap;
use mesh_control::model::Snapshot;
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::sync::{oneshot, watch};

/// Services that may have changed for a thread that answers queries to take the change in by itself.
const FEW: usize = 64;

/// Takes new snapshots in. One for each of those who do: the task that always will, and the threads that answer, so that
/// no query is answered from before a snapshot that was there when it was read.
#[derive(Clone, Debug)]
pub(super) struct Feed {
    snapshots: watch::Receiver<Arc<Snapshot>>,
    live: Arc<ArcSwap<DnsView>>,
    /// Held while the view is swapped: what is swapped in is never older than what was there.
    swapping: Arc<Mutex<()>>,
    metrics: Metrics,
}

impl Feed {
    pub(super) fn new(
        snapshots: watch::Receiver<Arc<Snapshot>>,
        live: Arc<ArcSwap<DnsView>>,
        metrics: Metrics,
    ) -> Feed {
        Feed { snapshots, live, swapping: Arc::default(), metrics }
    }

    /// Takes the newest snapshot in, if it is new and changes little. Costs next to nothing if there is none.
    pub(super) fn catch_up(&mut self) {
        if self.snapshots.has_changed().unwrap_or(false) {
            self.take(Some(FEW));
        }
    }

    /// Swaps in the view of the newest snapshot; `false` when more than `most` services changed, or all may have.
    fn take(&mut self, most: Option<usize>) -> bool {
        let _swapping = self.swapping.lock().unwrap_or_else(PoisonError::into_inner);
        let (snapshot, current) = (self.snapshots.borrow_and_update().clone(), self.live.load_full());
        if snapshot.revision == current.revision() {
            return true;
        }
        let next = current.updated_within(&snapshot, most);
        let taken = next.is_some();
        next.into_iter().for_each(|next| self.swap(next));
        taken
    }

    /// Indexes the newest snapshot whole and swaps the view in, unless another came in the meantime.
    fn rebuild(&self) {
        let (snapshot, current) = (self.snapshots.borrow().clone(), self.live.load_full());
        let next = DnsView::new(&snapshot);
        let _swapping = self.swapping.lock().unwrap_or_else(PoisonError::into_inner);
        if Arc::ptr_eq(&current, &self.live.load()) {
            self.swap(next);
        }
    }

    fn swap(&self, next: DnsView) {
        show(&self.metrics, &next);
        self.live.store(Arc::new(next));
    }
}

/// Swaps in the view of each new snapshot, until there will be no more of them. However it ends, `_alive` ends with it.
pub(super) async fn follow(mut feed: Feed, _alive: oneshot::Sender<()>) {
    loop {
        while !feed.take(None) {
            // Everything anew takes a while with many services: not on a thread of the runtime.
            let own = feed.clone();
            match tokio::task::spawn_blocking(move || own.rebuild()).await {
                Ok(()) => {}
                // The runtime ends: so does this.
                Err(error) if error.is_cancelled() => return,
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            }
        }
        if feed.snapshots.changed().await.is_err() {
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
        let following = follow(Feed::new(snapshots, Arc::clone(&live), metrics.clone()), alive);
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
