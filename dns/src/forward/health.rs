//! How an upstream is doing, and in which order upstreams are asked: pure, time is an argument, counted from any fixed
//! start.

use std::time::Duration;

/// Longest hold-off, as a multiple of the shortest.
const MAX_HOLDOFF: u32 = 10;

/// The next upstream is asked too when one has not answered for its usual time, but no sooner than this …
const MIN_PATIENCE: Duration = Duration::from_millis(20);
/// … and no later than this, which is also where an upstream begins that nothing is known of.
const MAX_PATIENCE: Duration = Duration::from_millis(150);

/// What is known of one upstream.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Health {
    /// In a row.
    failures: u32,
    /// It was silent and has not answered since.
    doubtful: bool,
    /// A probe is under way.
    probing: bool,
    /// Not to be probed before this time.
    skip_until: Duration,
    /// Smoothed time to a reply and its variation (RFC 6298 section 2).
    rtt: Option<(Duration, Duration)>,
}

impl Health {
    /// Whether it is asked in its turn.
    pub(super) fn is_good(&self) -> bool {
        self.failures == 0 && !self.doubtful
    }

    /// Whether it failed last.
    pub(super) fn is_down(&self) -> bool {
        self.failures > 0
    }

    /// Failures in a row.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    /// Smoothed time to a reply, once there was one.
    pub(super) fn rtt(&self) -> Option<Duration> {
        self.rtt.map(|(mean, _)| mean)
    }

    /// A reply came after `rtt`.
    pub(super) fn good(&mut self, rtt: Duration) {
        let rtt = match self.rtt {
            None => (rtt, rtt / 2),
            Some((mean, variation)) => ((mean * 7 + rtt) / 8, (variation * 3 + mean.abs_diff(rtt)) / 4),
        };
        *self = Health { rtt: Some(rtt), ..Health::default() };
    }

    /// No reply came, by `now`.
    pub(super) fn bad(&mut self, now: Duration, holdoff: Duration) {
        let times = 1u32.checked_shl(self.failures).map_or(MAX_HOLDOFF, |t| t.clamp(1, MAX_HOLDOFF));
        self.failures = self.failures.saturating_add(1);
        self.doubtful = false;
        self.probing = false;
        self.skip_until = now.saturating_add(holdoff.saturating_mul(times));
    }

    /// It was silent, or another that was asked later answered sooner. One probe shall find out what it is worth,
    /// rather than every client.
    pub(super) fn lost(&mut self) {
        self.doubtful = true;
    }

    /// Whether a probe is to be sent now: if so it counts as sent.
    pub(super) fn probe_due(&mut self, now: Duration) -> bool {
        let due = !self.is_good() && !self.probing && self.skip_until <= now;
        self.probing |= due;
        due
    }

    /// How long to wait for it before the next is asked too.
    pub(super) fn patience(&self) -> Duration {
        self.rtt.map_or(MAX_PATIENCE, |(mean, variation)| {
            (mean + variation * 4).clamp(MIN_PATIENCE, MAX_PATIENCE)
        })
    }
}

/// The order of tries: good ones as configured, then the others, the soonest to be probed first; nobody is left out,
/// for a doubtful upstream is better than none.
pub(super) fn plan(upstreams: &[Health]) -> Vec<usize> {
    let (mut order, mut later): (Vec<usize>, Vec<usize>) =
        (0..upstreams.len()).partition(|i| upstreams[*i].is_good());
    later.sort_by_key(|i| (upstreams[*i].is_down(), upstreams[*i].skip_until));
    order.append(&mut later);
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn a_failed_upstream_is_skipped_and_probed_by_one_query() {
        let mut all = [Health::default(); 3];
        assert_eq!(plan(&all), [0, 1, 2]);
        all[0].bad(s(10), s(3));
        assert_eq!(plan(&all), [1, 2, 0]);
        assert!(!all[0].probe_due(s(12)));
        assert!(all[0].probe_due(s(13)), "the hold-off is over");
        assert!(!all[0].probe_due(s(13)), "one probe at a time");
        assert_eq!(plan(&all), [1, 2, 0], "nobody waits for it meanwhile");
        all[0].good(ms(5));
        assert_eq!(plan(&all), [0, 1, 2]);
        assert!(!all[0].probe_due(s(99)));
    }

    #[test]
    fn one_that_lost_a_race_is_probed_at_once() {
        let mut all = [Health::default(); 3];
        all[0].lost();
        all[1].bad(s(1), s(3));
        assert_eq!(plan(&all), [2, 0, 1]);
        assert!(all[0].probe_due(s(1)));
        all[0].bad(s(2), s(3));
        assert!(!all[0].probe_due(s(4)) && all[0].probe_due(s(5)));
    }

    #[test]
    fn holdoff_doubles_to_its_bound() {
        let mut health = Health::default();
        for (failure, until) in [3u64, 6, 12, 24, 30, 30].into_iter().enumerate() {
            health.bad(s(0), s(3));
            assert!(!health.probe_due(s(until - 1)), "failure {failure}");
        }
        for _ in 0..100 {
            health.bad(s(0), s(3));
        }
        assert!(health.probe_due(s(30)));
    }

    #[test]
    fn patience_follows_the_time_to_a_reply_within_bounds() {
        let mut health = Health::default();
        assert_eq!(health.patience(), MAX_PATIENCE, "nothing is known");
        health.good(ms(1));
        assert_eq!(health.patience(), MIN_PATIENCE);
        let patience = |rtt| {
            let mut health = Health::default();
            (0..100).for_each(|_| health.good(ms(rtt)));
            health.patience()
        };
        assert!((ms(60)..ms(65)).contains(&patience(60)), "{:?}", patience(60));
        assert_eq!(patience(4000), MAX_PATIENCE);
    }
}
