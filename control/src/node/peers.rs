//! What this node measures of the others: who was heard when, whose clock is off, who holds the same state.

use super::{
    core::Node,
    measured::{AGREEING, Peer},
};
use crate::{
    api::{CLOCK_OFF, Lag, PeerStats},
    hlc::{MAX_SKEW, Now},
    member::Identity,
    model::NodeName,
};

fn describe(offset: i64) -> String {
    let seconds = offset.unsigned_abs() / 1_000;
    format!("{seconds} s {}", if offset > 0 { "ahead" } else { "behind" })
}

/// How far a clock is off that shows `offset` where this node's is off by `common`, if that is too far.
fn off(offset: i64, common: i64) -> Option<String> {
    let off = offset.saturating_sub(common);
    (off.unsigned_abs() > MAX_SKEW).then(|| describe(off))
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
        if !peer.clock.due(offset, MAX_SKEW) {
            return;
        }
        if let Some(off) = off(offset, self.measured.consensus()) {
            tracing::warn!(node = %name, %off, "a node's clock is off: synchronise it (NTP); its changes are ordered wrongly until then");
        }
    }

    /// Warns when this node's own clock is off.
    pub(super) fn look_at_clock(&mut self) {
        let common = self.measured.consensus();
        if self.measured.own_clock.due(common, CLOCK_OFF) {
            let off = describe(common.saturating_neg());
            tracing::warn!(%off, "this node's clock is off: synchronise it (NTP); its changes are ordered wrongly until then");
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
        let common = self.measured.consensus();
        let one = |name: &NodeName| -> PeerStats {
            let peer = self.measured.by_name.get(name).unwrap_or(&unheard);
            let clock = peer.offset.and_then(|offset| off(offset, common));
            let clock = clock.map(|off| format!("its clock is {off}: synchronise it (NTP)"));
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
            known.names().filter(|name| **name != self.config.name && !self.names.rivals.contains_key(*name));
        let mut all: Vec<PeerStats> = others.chain(self.names.rivals.keys()).map(one).collect();
        all.sort_by(|a, b| a.node.cmp(&b.node));
        all
    }

    /// How long news takes to this node.
    pub(super) fn lag(&self) -> Option<Lag> {
        self.measured.lag(self.seen)
    }
}
