//! What this node measures of the others: who was heard when, whose clock is off, who holds the same state.

use super::core::Node;
use crate::{
    api::{Lag, PeerStats},
    hlc::{MAX_SKEW, Now},
    member::Identity,
    model::NodeName,
};
use std::collections::{BTreeMap, VecDeque};

/// Ages of news that are kept, and for how long, in milliseconds.
const AGES: usize = 1024;
const MINUTE: u64 = 60_000;
/// Probes whose digest must agree before a periodic exchange is left out.
const AGREEING: u32 = 3;
/// A clock that was warned of is fine again below this.
const FINE: u64 = MAX_SKEW / 2;

/// All that is measured.
#[derive(Debug, Default)]
pub(super) struct Measured {
    by_name: BTreeMap<NodeName, Peer>,
    /// When news arrived, and how old it was.
    ages: VecDeque<(u64, u64)>,
    /// When a peer last held what this node holds.
    pub(super) in_sync: Option<u64>,
    /// Digests since the last periodic exchange that agreed, and that did not.
    digests: (u32, u32),
    own_clock: Warned,
}

#[derive(Debug, Default)]
struct Peer {
    rtt: Option<u32>,
    offset: Option<i64>,
    heard: Option<u64>,
    /// It addressed this mark of this node, from this mark of its own: it knows whom the mark means.
    knows: Option<(u32, u32)>,
    clock: Warned,
}

/// The offset that was last warned of; 0 for none.
#[derive(Debug, Default)]
struct Warned(u64);

impl Warned {
    /// Whether to warn: of what is beyond the bound and was not warned of, or got twice as bad.
    fn due(&mut self, offset: i64) -> bool {
        let off = offset.unsigned_abs();
        if off < FINE {
            self.0 = 0;
        }
        let due = off > MAX_SKEW && off / 2 >= self.0;
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

    /// The median offset of the others' clocks, and of how many; what half of them say is not their fault.
    fn consensus(&self) -> (i64, usize) {
        let mut offsets: Vec<i64> = self.by_name.values().filter_map(|peer| peer.offset).collect();
        offsets.sort_unstable();
        (offsets.get(offsets.len() / 2).copied().unwrap_or_default(), offsets.len())
    }

    fn note_age(&mut self, at: u64, age: u64) {
        if self.ages.len() >= AGES {
            self.ages.pop_front();
        }
        self.ages.push_back((at, age));
    }

    fn lag(&self, now: u64) -> Option<Lag> {
        let recent = self.ages.iter().filter(|(at, _)| now.saturating_sub(*at) <= MINUTE);
        let mut ages: Vec<u64> = recent.map(|(_, age)| *age).collect();
        ages.sort_unstable();
        let (median, worst) = (*ages.get(ages.len() / 2)?, *ages.last()?);
        Some(Lag { records: ages.len(), median, worst })
    }
}

fn describe(offset: i64) -> String {
    let seconds = offset.unsigned_abs() / 1_000;
    format!("{seconds} s {}", if offset > 0 { "ahead" } else { "behind" })
}

impl Node {
    fn measure(&mut self, name: &NodeName) -> Option<&mut Peer> {
        // As many as there are members, this node not being one of them.
        let known = *name != self.config.name && self.membership.peers().knows(name);
        known.then(|| self.measured.by_name.entry(name.clone()).or_default())
    }

    /// A peer said what its clock shows.
    pub(super) fn heard(&mut self, name: &NodeName, wall: u64, now: Now) {
        self.membership.heard(now.mono);
        let offset = i64::try_from(wall).unwrap_or(i64::MAX).saturating_sub_unsigned(now.wall);
        let Some(peer) = self.measure(name) else { return };
        peer.heard = Some(now.mono);
        peer.offset = Some(offset);
        if !peer.clock.due(offset) {
            return;
        }
        let (common, peers) = self.measured.consensus();
        let own = self.measured.own_clock.due(common);
        if peers < 3 || common.unsigned_abs() <= MAX_SKEW {
            let off = describe(offset);
            tracing::warn!(node = %name, %off, "a node's clock is off: synchronise it (NTP); its changes are ordered wrongly until then");
        } else if own {
            // Not they are off.
            let off = describe(common.saturating_neg());
            tracing::warn!(%off, peers, "this node's clock is off: synchronise it (NTP); its changes are ordered wrongly until then");
        }
    }

    /// A peer compared what it holds with what this node holds.
    pub(super) fn compared(&mut self, from: &Identity, digest: u32, now: Now) {
        let own = self.digest();
        if digest == own {
            self.measured.digests.0 += 1;
            self.measured.in_sync = Some(now.mono);
            return;
        }
        self.measured.digests.1 += 1;
        // Records differ, gossip has nothing more to say, and that is no matter of the moment.
        if (digest ^ own) >> 16 != 0 && self.spread.is_empty() && self.measured.digests.1 >= AGREEING {
            self.hurry(from.clone(), now);
        }
    }

    /// What probes say: half of the records, half of who is up.
    pub(super) fn digest(&self) -> u32 {
        let half = |hash: u64| u32::try_from(hash >> 48).unwrap_or_default();
        half(self.store.root()) << 16 | half(self.membership.hash())
    }

    /// `from` addressed this node by its present identity.
    pub(super) fn addressed(&mut self, from: &Identity) {
        let marks = (from.mark(), self.membership.me().mark());
        if let Some(peer) = self.measure(&from.name) {
            peer.knows = Some(marks);
        }
    }

    /// A connection to a peer stood after `rtt` microseconds.
    pub(super) fn took(&mut self, name: &NodeName, rtt: u32) {
        if let Some(peer) = self.measure(name) {
            peer.rtt = Some(rtt);
        }
    }

    /// News came by gossip.
    pub(super) fn aged(&mut self, writer: &NodeName, version: u64, now: Now) {
        // The writer's clock, as far as it is known.
        let offset = self.measured.by_name.get(writer).and_then(|peer| peer.offset).unwrap_or_default();
        let age = now.wall.saturating_add_signed(offset).saturating_sub(version);
        self.measured.note_age(now.mono, age);
    }

    /// Forgets who is no member any more.
    pub(super) fn forget_strangers(&mut self) {
        let peers = self.membership.peers();
        self.measured.by_name.retain(|name, _| peers.knows(name));
    }

    /// What is measured of the others, by name.
    #[must_use]
    pub fn peers(&self) -> Vec<PeerStats> {
        let unheard = Peer::default();
        let one = |name: &NodeName| -> PeerStats {
            let peer = self.measured.by_name.get(name).unwrap_or(&unheard);
            let off = peer.offset.filter(|offset| offset.unsigned_abs() > MAX_SKEW);
            let clock = off.map(|offset| format!("its clock is {}: synchronise it (NTP)", describe(offset)));
            PeerStats {
                node: name.clone(),
                rtt: peer.rtt,
                clock_offset: peer.offset,
                heard: peer.heard.map(|at| self.seen.saturating_sub(at)),
                trouble: self.names.trouble(name).or(clock),
            }
        };
        // Rivals are there too: one of this node's name, or at this node's address.
        let known = self.membership.peers();
        let others =
            known.names().filter(|name| **name != self.config.name && self.names.trouble(name).is_none());
        let mut all: Vec<PeerStats> = others.chain(self.names.rivals()).map(one).collect();
        all.sort_by(|a, b| a.node.cmp(&b.node));
        all
    }

    /// How long news takes to this node.
    pub(super) fn lag(&self) -> Option<Lag> {
        self.measured.lag(self.seen)
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
                .map(|offset| warned.due(offset))
                .collect();
        let t = true;
        assert_eq!(due, [!t, !t, t, !t, !t, t, !t, !t, !t, !t, t]);
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
