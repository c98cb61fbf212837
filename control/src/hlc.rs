//! A hybrid logical clock (Kulkarni et al., "Logical Physical Clocks", 2014): versions that follow the wall clock and
//! still order what happened after what.

use serde::{Deserialize, Serialize};

/// The time as a shell reads it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Now {
    /// Milliseconds of a clock that never jumps; drives every timer.
    pub mono: u64,
    /// Unix time in milliseconds; drives versions only.
    pub wall: u64,
}

/// A version: Unix milliseconds in the upper 48 bits, a counter in the lower 16.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Hlc(pub(crate) u64);

/// How far ahead of the wall clock a peer may pull this node's clock, in milliseconds.
pub(crate) const MAX_SKEW: u64 = 60_000;

impl Hlc {
    /// Versions from here on are refused: nothing could ever be newer (the year 6429).
    pub(crate) const LIMIT: Hlc = Hlc(u64::MAX / 2);

    /// The first version of a millisecond.
    pub(crate) fn from_millis(millis: u64) -> Hlc {
        Hlc(millis.min(u64::MAX >> 17) << 16)
    }

    /// Unix time in milliseconds.
    pub(crate) fn millis(self) -> u64 {
        self.0 >> 16
    }

    fn next(self) -> Hlc {
        Hlc(self.0.saturating_add(1))
    }
}

/// The clock of one node.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    last: Hlc,
    clamped: u64,
}

impl Clock {
    /// A new version: later than every earlier one, than what was observed, and than `after`, the version that the
    /// new one replaces.
    ///
    /// A version that must beat one from far in the future does so without pulling the clock along.
    pub(crate) fn tick(&mut self, wall: u64, after: Hlc) -> Hlc {
        self.last = self.last.next().max(Hlc::from_millis(wall));
        let version = self.last.max(after.next());
        self.observe(version, wall);
        version
    }

    /// Takes a peer's version into account, at most [`MAX_SKEW`] ahead of the wall clock.
    pub(crate) fn observe(&mut self, remote: Hlc, wall: u64) {
        let bound = Hlc::from_millis(wall.saturating_add(MAX_SKEW));
        if remote > bound {
            self.clamped += 1;
        }
        self.last = self.last.max(remote.min(bound));
    }

    /// How many versions lay too far in the future.
    pub(crate) fn clamped(&self) -> u64 {
        self.clamped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_grow_even_when_the_wall_clock_steps_back() {
        let mut clock = Clock::default();
        let a = clock.tick(1_000, Hlc::default());
        let b = clock.tick(500, Hlc::default());
        assert!(b > a && a.millis() == 1_000);
        clock.observe(Hlc::from_millis(2_000), 500);
        assert!(clock.tick(500, Hlc::default()) > Hlc::from_millis(2_000));
    }

    #[test]
    fn a_clock_an_hour_ahead_pulls_nobody_along() {
        let mut clock = Clock::default();
        let wrong = Hlc::from_millis(3_600_000);
        clock.observe(wrong, 1_000);
        assert_eq!(clock.clamped(), 1);
        assert!(clock.tick(1_000, Hlc::default()).millis() <= 1_000 + MAX_SKEW);
        // It can still be overruled.
        assert!(clock.tick(1_000, wrong) > wrong);
        assert!(clock.tick(1_000, Hlc::default()).millis() <= 1_000 + MAX_SKEW);
    }
}
