//! Waiting for a condition, with a bound.

use std::{fmt::Display, future::Future, time::Duration};

/// The bound of most waits: generous, because the machine may be loaded; a condition that holds ends the wait at once.
pub const BOUND: Duration = Duration::from_secs(30);

/// How many times slower than others this machine is, as an emulated one: `MESH_TEST_SLOW`, 1 unless set.
fn slowness() -> u32 {
    std::env::var("MESH_TEST_SLOW").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// Asks again and again until `condition` says `Ok(value)`; panics with `what` and the last reason after `bound`, which
/// slow machines get more of.
pub async fn until<T, E: Display, F: Future<Output = Result<T, E>>>(
    what: &str,
    bound: Duration,
    mut condition: impl FnMut() -> F,
) -> T {
    let bound = bound.saturating_mul(slowness());
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
