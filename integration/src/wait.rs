//! Waiting for a condition, with a bound.

use std::{fmt::Display, future::Future, time::Duration};

/// The bound of most waits: generous, because the machine may be loaded; a condition that holds ends the wait at once.
pub const BOUND: Duration = Duration::from_secs(30);

/// Asks again and again until `condition` says `Ok(value)`; panics with `what` and the last reason after `bound`.
pub async fn until<T, E: Display, F: Future<Output = Result<T, E>>>(
    what: &str,
    bound: Duration,
    mut condition: impl FnMut() -> F,
) -> T {
    let start = tokio::time::Instant::now();
    loop {
        let reason = match condition().await {
            Ok(value) => return value,
            Err(reason) => reason.to_string(),
        };
        assert!(start.elapsed() < bound, "waited {bound:?} in vain until {what}: {reason}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
