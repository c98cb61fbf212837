//! The way of a record into the store and on to the view and the peers.

use super::core::Node;
use crate::key::RecordId;
use crate::{
    gossip,
    hlc::Now,
    key::Key,
    record::{Record, Writer},
    store::Merge,
    value,
};
use std::sync::Arc;

impl Node {
    /// Merges a peer's record; whether it was news. `spread` passes it on by datagram.
    pub(super) fn absorb(&mut self, record: Record, now: Now, spread: bool) -> bool {
        self.clock.observe(record.version, now.wall);
        let id = record.id.clone();
        match self.store.merge(record, now.wall) {
            Merge::Applied(old) => {
                let new = self.store.get(&id);
                self.view.changed(old.as_ref(), new);
                self.keys.note(&id, new);
                if new.is_some_and(|record| !value::makes_sense(record)) {
                    self.refuse("bad value");
                }
                if spread {
                    self.spread.pass_on(id.clone());
                }
                self.reassert(&id, now);
                true
            }
            Merge::Stale => false,
            Merge::Expired => {
                self.refuse("expired tombstone");
                false
            }
            Merge::Full => {
                self.refuse("store full");
                false
            }
        }
    }

    /// A record of this node's own came from elsewhere, as a rule from an earlier run: if this run's sources said
    /// otherwise, they stand.
    fn reassert(&mut self, id: &RecordId, now: Now) {
        let Some(record) = self.store.get(id) else { return };
        let writer = Arc::clone(&record.writer);
        if Key::of(id).and_then(|k| k.owner().cloned()).as_ref() != Some(&self.config.name) {
            return;
        }
        // Another node deletes what it takes for an orphan's. Also under this very run's name: it did not
        // write this, so a damaged or forged record did not come from here.
        if writer.node == self.config.name && writer.boot >= self.writer.boot {
            if self.membership.peers().is_up(&self.config.name) {
                // Another node has this name and started later: fighting over records would never end.
                return;
            }
            // The clock was ahead when the earlier run began.
            let boot = writer.boot.saturating_add(1);
            self.writer = Arc::new(Writer { node: self.config.name.clone(), boot });
        }
        let Some(desired) = self.desired.get(id).cloned() else { return };
        let differs = desired.as_ref() != (!record.deleted).then_some(&record.value);
        if differs {
            self.write(id.clone(), desired.is_none(), desired.unwrap_or_default(), now);
        }
    }

    /// Writes a record, newer than the one it replaces, and spreads it promptly.
    /// A node that keeps silent writes nothing.
    pub(super) fn write(&mut self, id: RecordId, deleted: bool, value: Arc<[u8]>, now: Now) {
        if self.names.silenced().is_some() {
            return;
        }
        let after = self.store.get(&id).map(|r| r.version).unwrap_or_default();
        let version = self.clock.tick(now.wall, after);
        let record = Record::new(id.clone(), version, Arc::clone(&self.writer), deleted, value);
        match self.store.merge(record, now.wall) {
            Merge::Applied(old) => {
                let new = self.store.get(&id);
                self.view.changed(old.as_ref(), new);
                self.keys.note(&id, new);
                self.spread.push(id);
                let prompt = (self.last_round + 2 * gossip::PROMPT).max(now.mono + gossip::PROMPT);
                self.gossip_at = Some(self.gossip_at.map_or(prompt, |at| at.min(prompt)));
            }
            Merge::Full => self.refuse("store full"),
            Merge::Stale | Merge::Expired => self.refuse("write lost"),
        }
    }
}
