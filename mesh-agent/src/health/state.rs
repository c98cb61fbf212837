//! When results of checks change the verdict. Pure.

use crate::source::Verdict;
use std::time::Duration;

/// How many results in a row it takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rules {
    /// Successes that make an unhealthy endpoint healthy.
    pub rise: u32,
    /// Failures that make a healthy endpoint unhealthy.
    pub fall: u32,
    /// Time after the start in which failures do not count, until the first success.
    pub start_period: Duration,
}

/// The results so far. The first success makes an endpoint healthy at once; after that `rise` and `fall` rule.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct State {
    verdict: Option<Verdict>,
    succeeded: bool,
    /// Results in a row that speak against the verdict.
    against: u32,
}

impl State {
    /// The verdict; `None` before the first.
    #[must_use]
    pub fn verdict(&self) -> Option<Verdict> {
        self.verdict
    }

    /// Takes a result, `elapsed` after the checks began. The new verdict, if it changed.
    pub fn step(&mut self, rules: Rules, ok: bool, elapsed: Duration) -> Option<Verdict> {
        let (result, needed) = match ok {
            true if !self.succeeded => (Verdict::Healthy, 1),
            true => (Verdict::Healthy, rules.rise),
            false => (Verdict::Unhealthy, rules.fall),
        };
        if !ok && !self.succeeded && elapsed < rules.start_period {
            return None;
        }
        self.succeeded |= ok;
        if self.verdict == Some(result) {
            self.against = 0;
            return None;
        }
        self.against = self.against.saturating_add(1);
        if self.against < needed {
            return None;
        }
        self.against = 0;
        self.verdict = Some(result);
        self.verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Results as `+` and `-`, one a second; the verdicts after each as `h`, `u` and `?`.
    fn run(rules: Rules, results: &str) -> String {
        let mut state = State::default();
        let step = |(i, r): (usize, char)| {
            let before = state.verdict();
            let changed = state.step(rules, r == '+', Duration::from_secs(i as u64));
            assert_eq!(changed.is_some(), before != state.verdict());
            match state.verdict() {
                None => '?',
                Some(Verdict::Healthy) => 'h',
                Some(Verdict::Unhealthy) => 'u',
            }
        };
        results.chars().enumerate().map(step).collect()
    }

    #[test]
    fn rise_fall_and_start_period() {
        let rules = |rise, fall, start| Rules { rise, fall, start_period: Duration::from_secs(start) };
        for (rules, results, want) in [
            (rules(2, 3, 0), "+--+---+-++", "hhhhhhuuuuh"),
            (rules(3, 1, 0), "+-+++", "huuuh"),
            (rules(3, 2, 0), "--+", "?uh"),
            // Failures in the start period do not count …
            (rules(1, 1, 3), "---+", "???h"),
            (rules(1, 1, 3), "----", "???u"),
            // … but they do once there was a success.
            (rules(1, 2, 9), "-+--", "?hhu"),
            (rules(2, 2, 0), "-+-+", "?hhh"),
        ] {
            assert_eq!(run(rules, results), want, "{results}");
        }
    }
}
