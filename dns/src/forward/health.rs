//! Which upstream is asked first: pure, time is an argument.

use std::time::Duration;

/// Longest hold-off, as a multiple of the shortest.
const MAX_HOLDOFF: u32 = 10;

/// What is known of each upstream.
#[derive(Debug)]
pub(super) struct Board {
    upstreams: Vec<Health>,
    holdoff: Duration,
}

#[derive(Debug, Clone, Copy, Default)]
struct Health {
    /// In a row.
    failures: u32,
    /// Not to be tried first before this time.
    skip_until: Duration,
}

impl Board {
    pub(super) fn new(upstreams: usize, holdoff: Duration) -> Self {
        Board { upstreams: vec![Health::default(); upstreams], holdoff }
    }

    /// The order of tries at `now`, a time since any fixed start: healthy ones as configured, then those being
    /// skipped, the soonest to return first; nobody is left out, for a doubtful upstream is better than none.
    ///
    /// A failed upstream whose hold-off is over is tried in its place again, by one query for each hold-off: not
    /// every client shall wait for the same dead server.
    pub(super) fn plan(&mut self, now: Duration) -> Vec<usize> {
        let (mut first, mut later): (Vec<usize>, Vec<usize>) =
            (0..self.upstreams.len()).partition(|i| self.upstreams[*i].skip_until <= now);
        later.sort_by_key(|i| self.upstreams[*i].skip_until);
        for i in &first {
            let health = &mut self.upstreams[*i];
            if health.failures > 0 {
                health.skip_until = now.saturating_add(self.holdoff);
            }
        }
        first.append(&mut later);
        first
    }

    pub(super) fn good(&mut self, upstream: usize) {
        self.upstreams[upstream] = Health::default();
    }

    pub(super) fn bad(&mut self, upstream: usize, now: Duration) {
        let health = &mut self.upstreams[upstream];
        let times = 1u32.checked_shl(health.failures).map_or(MAX_HOLDOFF, |t| t.clamp(1, MAX_HOLDOFF));
        health.failures = health.failures.saturating_add(1);
        health.skip_until = now.saturating_add(self.holdoff.saturating_mul(times));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_failed_upstream_is_skipped_and_then_probed_by_one_query() {
        let mut board = Board::new(3, s(3));
        assert_eq!(board.plan(s(10)), [0, 1, 2]);
        board.bad(0, s(10));
        assert_eq!(board.plan(s(12)), [1, 2, 0]);
        assert_eq!(board.plan(s(13)), [0, 1, 2], "the hold-off is over: one query probes");
        assert_eq!(board.plan(s(13)), [1, 2, 0], "and the next does not wait for it");
        board.good(0);
        assert_eq!(board.plan(s(13)), [0, 1, 2]);
    }

    #[test]
    fn holdoff_doubles_to_its_bound() {
        let mut board = Board::new(2, s(3));
        for (failure, until) in [3u64, 6, 12, 24, 30, 30].into_iter().enumerate() {
            board.bad(0, s(0));
            assert_eq!(board.plan(s(until - 1)), [1, 0], "failure {failure}");
        }
        for _ in 0..100 {
            board.bad(0, s(0));
        }
        assert_eq!(board.plan(s(30))[0], 0);
    }

    #[test]
    fn when_all_failed_all_are_tried_the_soonest_to_return_first() {
        let mut board = Board::new(2, s(3));
        board.bad(0, s(5));
        board.bad(1, s(4));
        assert_eq!(board.plan(s(6)), [1, 0]);
    }
}
