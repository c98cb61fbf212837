//! Which frontends failed and when each is tried again. Pure: the caller brings the time.

use super::status::FrontendError;
use crate::plan::FrontendKey;
use std::{collections::BTreeMap, time::Duration};
use tokio::time::Instant;

/// Frontends that failed, each with its own backoff: `min`, doubled with every attempt up to `max`.
#[derive(Debug)]
pub(super) struct Faults {
    min: Duration,
    max: Duration,
    faults: BTreeMap<FrontendKey, Fault>,
}

#[derive(Debug)]
struct Fault {
    error: String,
    attempts: u32,
    due: Instant,
}

impl Faults {
    pub(super) fn new(min: Duration, max: Duration) -> Faults {
        Faults { min, max: max.max(min), faults: BTreeMap::new() }
    }

    /// Notes a failed attempt.
    pub(super) fn failed(&mut self, key: FrontendKey, error: String, now: Instant) {
        let attempts = self.faults.get(&key).map_or(0, |f| f.attempts).saturating_add(1);
        let due = now + backoff(self.min, self.max, attempts);
        self.faults.insert(key, Fault { error, attempts, due });
    }

    /// The frontend is as it should be, or nobody wants it any more.
    pub(super) fn clear(&mut self, key: &FrontendKey) {
        self.faults.remove(key);
    }

    pub(super) fn contains(&self, key: &FrontendKey) -> bool {
        self.faults.contains_key(key)
    }

    pub(super) fn keys(&self) -> Vec<FrontendKey> {
        self.faults.keys().copied().collect()
    }

    /// Those whose time has come.
    pub(super) fn due(&self, now: Instant) -> Vec<FrontendKey> {
        self.faults.iter().filter(|(_, f)| f.due <= now).map(|(key, _)| *key).collect()
    }

    /// When the next one is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.faults.values().map(|f| f.due).min()
    }

    pub(super) fn len(&self) -> usize {
        self.faults.len()
    }

    pub(super) fn errors(&self) -> Vec<FrontendError> {
        let error = |(key, f): (&FrontendKey, &Fault)| FrontendError {
            frontend: *key,
            error: f.error.clone(),
            attempts: f.attempts,
        };
        self.faults.iter().map(error).collect()
    }
}

/// `min` after the first attempt, doubled with each further one, at most `max`.
pub(super) fn backoff(min: Duration, max: Duration, attempts: u32) -> Duration {
    let doublings = attempts.saturating_sub(1).min(20);
    min.saturating_mul(1 << doublings).min(max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_up_to_its_bound() {
        let (min, max) = (Duration::from_millis(100), Duration::from_secs(1));
        let waits: Vec<u128> = (1..7).map(|n| backoff(min, max, n).as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1000, 1000]);
        assert_eq!(backoff(min, max, u32::MAX), max);
    }
}
