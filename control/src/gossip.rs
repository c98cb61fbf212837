//! What to spread by datagram: changed records, each at least [`MIN_SENDS`] times, freshest first.

use crate::{key::RecordId, packet, store::Store};
use std::collections::{BTreeMap, HashMap};

/// Time between two rounds, in milliseconds.
pub(crate) const PERIOD: u64 = 200;
/// Least time between two rounds when a fresh local change asks for one at once.
pub(crate) const PROMPT: u64 = 20;
/// Peers a round.
pub(crate) const FANOUT: usize = 3;
/// Times that a record is sent, at least.
const MIN_SENDS: usize = 8;
/// Most records that wait; what does not fit is left to anti-entropy.
const MAX_WAITING: usize = 4096;
/// While more than this wait, what others wrote is left to anti-entropy: of many records each node then gets every one
/// about once, where datagrams bring it eight times.
const FEW: usize = 64;
/// Largest sealed datagram, in bytes: fits every IPv6 path.
pub(crate) const DATAGRAM: usize = 1_200;
/// Datagrams to one peer in one round.
const BURST: usize = 4;

/// Datagrams with records that a node sends a second at most, for any length of time, and at one go.
const RATE: u64 = 200;
const AT_ONCE: u64 = 200;

/// What a node may send, in thousandths of a datagram; membership has no such bound, it sends little by itself.
#[derive(Debug, Default)]
pub(crate) struct Bucket {
    spent: u64,
    at: u64,
}

impl Bucket {
    /// When a full round may be sent: now, or later.
    pub(crate) fn ready(&mut self, now: u64) -> u64 {
        self.spent = self.spent.saturating_sub(now.saturating_sub(self.at).saturating_mul(RATE));
        self.at = now;
        let room = (AT_ONCE - (FANOUT * BURST) as u64) * 1_000;
        now + self.spent.saturating_sub(room).div_ceil(RATE)
    }

    /// Notes what was sent.
    pub(crate) fn spend(&mut self, datagrams: usize) {
        self.spent += datagrams as u64 * 1_000;
    }
}

/// The records that wait to be spread.
#[derive(Debug, Default)]
pub(crate) struct Spread {
    /// (times sent, order) → record.
    order: BTreeMap<(usize, u64), RecordId>,
    waiting: HashMap<RecordId, (usize, u64)>,
    sequence: u64,
    overflowed: bool,
}

impl Spread {
    /// A record that changed. Starts its count anew.
    pub(crate) fn push(&mut self, id: RecordId) {
        if let Some(place) = self.waiting.remove(&id) {
            self.order.remove(&place);
        }
        if self.waiting.len() >= MAX_WAITING {
            self.overflowed = true;
            return;
        }
        self.sequence += 1;
        self.order.insert((0, self.sequence), id.clone());
        self.waiting.insert(id, (0, self.sequence));
    }

    /// A record that changed and that another node spreads as well.
    pub(crate) fn pass_on(&mut self, id: RecordId) {
        if self.waiting.len() < FEW || self.waiting.contains_key(&id) {
            self.push(id);
        } else {
            self.overflowed = true;
        }
    }

    /// The bodies of one round's datagrams, each to be sent to `peers` nodes of a mesh of `nodes`.
    pub(crate) fn round(&mut self, store: &Store, peers: usize, nodes: usize) -> Vec<Vec<u8>> {
        let room = DATAGRAM - packet::OVERHEAD - 1;
        let (mut bodies, mut body, mut sent) = (Vec::new(), Vec::new(), Vec::new());
        for (place, id) in &self.order {
            let Some(record) = store.get(id) else {
                sent.push((*place, false));
                continue;
            };
            let start = body.len();
            record.encode(&mut body);
            if body.len() - start > room {
                // Too large for any datagram.
                body.truncate(start);
                self.overflowed = true;
                sent.push((*place, false));
                continue;
            }
            if body.len() > room {
                let next = body.split_off(start);
                bodies.push(std::mem::replace(&mut body, next));
                if bodies.len() == BURST {
                    body.clear();
                    break;
                }
            }
            sent.push((*place, true));
        }
        if !body.is_empty() {
            bodies.push(body);
        }
        let enough =
            MIN_SENDS.max(usize::try_from(2 + (nodes as u64 + 1).ilog2() * 5 / 4).unwrap_or(MIN_SENDS));
        for (place, again) in sent {
            let Some(id) = self.order.remove(&place) else { continue };
            let times = place.0 + peers.max(1);
            if again && times < enough {
                self.order.insert((times, place.1), id.clone());
                self.waiting.insert(id, (times, place.1));
            } else {
                self.waiting.remove(&id);
            }
        }
        bodies
    }

    /// Whether something waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Whether a record had to be left to anti-entropy since the last call.
    pub(crate) fn take_overflowed(&mut self) -> bool {
        std::mem::take(&mut self.overflowed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Record, tests::plain};

    fn store(count: usize, size: usize) -> (Store, Spread) {
        let (mut store, mut spread) = (Store::default(), Spread::default());
        for i in 0..count {
            let record = plain(&format!("k{i}"), (i as u64 + 1) << 16, "n1", false, &"v".repeat(size));
            spread.push(record.id.clone());
            store.merge(record, 0);
        }
        (store, spread)
    }

    #[test]
    fn every_record_is_sent_at_least_eight_times_in_small_datagrams() {
        let (store, mut spread) = store(100, 100);
        let mut sends: HashMap<RecordId, usize> = HashMap::new();
        let mut rounds = 0;
        while !spread.is_empty() {
            rounds += 1;
            assert!(rounds < 200, "never empties");
            for body in spread.round(&store, 3, 50) {
                assert!(body.len() + packet::OVERHEAD < DATAGRAM);
                for record in Record::decode_all(&body).unwrap() {
                    *sends.entry(record.id).or_default() += 3;
                }
            }
        }
        assert_eq!(sends.len(), 100);
        assert!(sends.values().all(|n| *n >= MIN_SENDS), "{sends:?}");
        assert!(!spread.take_overflowed());
    }

    #[test]
    fn the_rate_is_bounded_after_what_may_go_at_once() {
        let (mut bucket, mut now, mut sent) = (Bucket::default(), 0, 0);
        while now < 10_000 {
            bucket.spend(FANOUT * BURST);
            sent += (FANOUT * BURST) as u64;
            now = bucket.ready(now);
        }
        assert!((10 * RATE..10 * RATE + AT_ONCE + 24).contains(&sent), "{sent}");
        assert_eq!(bucket.ready(now + 60_000), now + 60_000, "idle time fills it, to the brim only");
    }

    #[test]
    fn too_many_and_too_large_records_are_left_to_anti_entropy() {
        let (_, mut spread) = store(MAX_WAITING + 1, 1);
        assert!(spread.take_overflowed() && !spread.take_overflowed());
        let (store, mut spread) = store(1, 5_000);
        assert!(spread.round(&store, 3, 3).is_empty());
        assert!(spread.take_overflowed() && spread.is_empty());
    }
}
