//! What was measured of the others, as it was heard; [`super::peers`] measures.

use crate::{
    api::{CLOCK_OFF, Lag},
    member::Identity,
    model::NodeName,
};
use std::collections::{BTreeMap, VecDeque};

/// Ages of news that are kept, and for how long, in milliseconds.
const AGES: usize = 1024;
const MINUTE: u64 = 60_000;
/// Probes whose digest must agree before a periodic exchange is left out.
pub(super) const AGREEING: u32 = 3;
/// Others whose word on this node's clock counts: of fewer, nobody knows who is wrong.
const WITNESSES: usize = 3;

/// All that is measured.
#[derive(Debug, Default)]
pub(super) struct Measured {
    pub(super) by_name: BTreeMap<NodeName, Peer>,
    /// When news arrived, and how old it was.
    ages: VecDeque<(u64, u64)>,
    /// When a peer last held what this node holds.
    pub(super) in_sync: Option<u64>,
    /// Digests since the last periodic exchange that agreed, and that did not.
    pub(super) digests: (u32, u32),
    pub(super) own_clock: Warned,
}

/// What is measured of one other node.
#[derive(Debug, Default)]
pub(super) struct Peer {
    pub(super) rtt: Option<u32>,
    pub(super) offset: Option<i64>,
    pub(super) heard: Option<u64>,
    /// It addressed this mark of this node, from this mark of its own: it knows whom the mark means.
    pub(super) knows: Option<(u32, u32)>,
    pub(super) clock: Warned,
}

/// The offset that was last warned of; 0 for none.
#[derive(Debug, Default)]
pub(super) struct Warned(u64);

impl Warned {
    /// Whether to warn: of what is beyond `bound` and was not warned of since it was below half of that, or got twice
    /// as bad.
    pub(super) fn due(&mut self, offset: i64, bound: u64) -> bool {
        let off = offset.unsigned_abs();
        if off < bound / 2 {
            self.0 = 0;
        }
        let due = off > bound && off / 2 >= self.0;
        if due {
            self.0 = off;
        }
        due
    }
}

impl Measured {
    /// Whether the peers that were heard since the last call hold what this node holds.
    pub(super) fn take_agreement(&mut self) -> bool {
        let (same, other) = std::mem::take(&mut self.digests);
        same >= AGREEING && other == 0
    }

    /// Whether the time of a handshake with a peer is known.
    pub(super) fn dialed(&self, peer: &Identity) -> bool {
        self.by_name.get(&peer.name).is_some_and(|peer| peer.rtt.is_some())
    }

    /// Whether short probes may go to `to`: it knows what `mine` means.
    pub(super) fn knows(&self, to: &Identity, mine: u32) -> bool {
        self.by_name.get(&to.name).is_some_and(|peer| peer.knows == Some((to.mark(), mine)))
    }

    /// The median offset of the others' clocks where it says that this node's is off, else 0: what half of them show
    /// is not their fault.
    pub(super) fn consensus(&self) -> i64 {
        let mut offsets: Vec<i64> = self.by_name.values().filter_map(|peer| peer.offset).collect();
        offsets.sort_unstable();
        let median = offsets.get(offsets.len() / 2).filter(|_| offsets.len() >= WITNESSES);
        median.copied().filter(|offset| offset.unsigned_abs() > CLOCK_OFF).unwrap_or_default()
    }

    pub(super) fn note_age(&mut self, at: u64, age: u64) {
        if self.ages.len() >= AGES {
            self.ages.pop_front();
        }
        self.ages.push_back((at, age));
    }

    pub(super) fn lag(&self, now: u64) -> Option<Lag> {
        let recent = self.ages.iter().filter(|(at, _)| now.saturating_sub(*at) <= MINUTE);
        let mut ages: Vec<u64> = recent.map(|(_, age)| *age).collect();
        ages.sort_unstable();
        let (median, worst) = (*ages.get(ages.len() / 2)?, *ages.last()?);
        Some(Lag { records: ages.len(), median, worst })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_warned_of_once_and_again_when_it_is_worse_or_off_again() {
        let mut warned = Warned::default();
        let due: Vec<_> =
            [1_000, 59_000, 61_000, 62_000, 110_000, -130_000, -130_000, 40_000, 70_000, 0, 70_000]
                .into_iter()
                .map(|offset| warned.due(offset, 60_000))
                .collect();
        let t = true;
        assert_eq!(due, [!t, !t, t, !t, !t, t, !t, !t, !t, !t, t]);
    }

    #[test]
    fn one_clock_that_is_off_and_two_that_agree_prove_nothing_of_this_one() {
        let consensus = |offsets: &[i64]| {
            let mut measured = Measured::default();
            for (i, offset) in offsets.iter().enumerate() {
                let name = NodeName::new(&format!("n{i}")).unwrap();
                measured.by_name.insert(name, Peer { offset: Some(*offset), ..Peer::default() });
            }
            measured.consensus()
        };
        for none in [&[][..], &[70_000, 70_000], &[70_000, 0, 1], &[5_000, 5_000, 5_000]] {
            assert_eq!(consensus(none), 0, "{none:?}");
        }
        assert_eq!(consensus(&[-70_000, -3_600_000, -71_000]), -71_000);
        assert_eq!(consensus(&[6_000, 0, 6_001]), 6_000);
    }

    #[test]
    fn lag_is_of_the_last_minute_and_bounded() {
        let mut measured = Measured::default();
        assert_eq!(measured.lag(0), None);
        for i in 0..2 * AGES as u64 {
            measured.note_age(i, i);
        }
        assert_eq!(measured.ages.len(), AGES);
        let lag = measured.lag(MINUTE + 2_000).expect("some are left");
        assert_eq!((lag.records, lag.median, lag.worst), (48, 2_024, 2_047));
        assert_eq!(measured.lag(MINUTE + 3_000), None);
    }
}
