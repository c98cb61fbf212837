//! Waiting for a condition, with a bound.

use std::{fmt::Display, future::Future, sync::LazyLock, time::Duration};

/// The bound of most waits: generous, because the machine may be loaded; a condition that holds ends the wait at once.
pub const BOUND: Duration = Duration::from_secs(30);

/// `time` times what `MESH_TEST_SLOW` says (a whole number): how many times slower than others this machine is, as an
/// emulated one.
pub(crate) fn at_this_pace(time: Duration) -> Duration {
    time * slow()
}

/// Of so many requests those that a slow machine makes in the same time.
#[must_use]
pub fn at_most_now(count: u64) -> u64 {
    (count / u64::from(slow())).max(1)
}

fn slow() -> u32 {
    static SLOW: LazyLock<u32> = LazyLock::new(|| {
        let slow = std::env::var("MESH_TEST_SLOW").unwrap_or_else(|_| "1".to_owned());
        slow.parse().unwrap_or_else(|_| panic!("MESH_TEST_SLOW is {slow:?}: it should be a whole number"))
    });
    *SLOW
}

/// Asks again and again until `condition` says `Ok(value)`; panics with `what` and the last reason after `bound`
/// at the machine's pace.
pub async fn until<T, E: Display, F: Future<Output = Result<T, E>>>(
    what: &str,
    bound: Duration,
    condition: impl FnMut() -> F,
) -> T {
    within(bound, condition).await.unwrap_or_else(|reason| {
        let bound = at_this_pace(bound);
        panic!("waited {bound:?} in vain until {what}: {reason}")
    })
}

/// The same for who goes on without it.
///
/// # Errors
/// The last reason, after `bound` at the machine's pace.
pub async fn within<T, E, F: Future<Output = Result<T, E>>>(
    bound: Duration,
    mut condition: impl FnMut() -> F,
) -> Result<T, E> {
    let (start, bound) = (tokio::time::Instant::now(), at_this_pace(bound));
    loop {
        match condition().await {
            Err(_) if start.elapsed() < bound => tokio::time::sleep(Duration::from_millis(20)).await,
            done => return done,
        }
    }
}
