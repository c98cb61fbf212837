//! Defects: one that a packet brings out costs that packet its answer, or whoever finds such a packet could end the
//! service.

use crate::metrics::Metrics;
use std::{
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    task::Poll,
};

/// What `act` says; `None`, counted, should it panic. What it shares with others must be whole at every moment.
pub(super) fn contained<T>(metrics: &Metrics, act: impl FnOnce() -> T) -> Option<T> {
    let outcome = catch_unwind(AssertUnwindSafe(act));
    if outcome.is_err() {
        tracing::error!("a defect: a query is not answered as it should be");
        metrics.panics.inc();
    }
    outcome.ok()
}

/// The same of a future.
pub(super) async fn contained_future<T>(metrics: &Metrics, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    poll_fn(|context| match contained(metrics, || future.as_mut().poll(context)) {
        Some(Poll::Pending) => Poll::Pending,
        Some(Poll::Ready(outcome)) => Poll::Ready(Some(outcome)),
        None => Poll::Ready(None),
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_defect_is_contained_and_counted() {
        let metrics = Metrics::register(&prometheus::Registry::new()).unwrap();
        assert_eq!(contained(&metrics, || 7), Some(7));
        let later = async {
            tokio::task::yield_now().await;
            7
        };
        assert_eq!(contained_future(&metrics, later).await, Some(7));
        assert_eq!(metrics.panics.get(), 0);
        assert_eq!(contained(&metrics, || panic!("as a defect would")), None::<()>);
        let defect = async {
            tokio::task::yield_now().await;
            panic!("as a defect would")
        };
        assert_eq!(contained_future(&metrics, defect).await, None::<()>);
        assert_eq!(metrics.panics.get(), 2);
    }
}
