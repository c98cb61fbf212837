//! The record store: merge, bucket hashes kept up to date, tombstones and their end.

use crate::key::RecordId;
use crate::{
    hash::hash64,
    hlc::Hlc,
    record::{Record, Writer},
};
use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

/// How many parts anti-entropy compares.
pub(crate) const BUCKETS: usize = 256;
/// Most records, live and deleted. Beyond it new keys are refused and counted; known ones still change.
pub(crate) const MAX_RECORDS: usize = 1_000_000;
/// How long a tombstone is kept, in milliseconds: counted from the deletion's version, or from its arrival if that
/// version is more than this off, because a clock is.
pub(crate) const TOMBSTONE_LIFE: u64 = 24 * 3_600_000;

/// What a merge did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Merge {
    /// The record is now in force; what it replaced.
    Applied(Option<Record>),
    /// An equal or better record is known.
    Stale,
    /// A tombstone whose version is more than [`TOMBSTONE_LIFE`] off, and nothing to delete: it would go round for ever.
    Expired,
    /// The store is full.
    Full,
}

/// All records of one node.
#[derive(Debug)]
pub(crate) struct Store {
    buckets: Vec<Bucket>,
    root: u64,
    count: usize,
    /// Tombstones by time of deletion.
    graves: BTreeSet<(Hlc, RecordId)>,
    /// Those by a clock that is off, and when they arrived.
    odd: BTreeMap<RecordId, u64>,
    /// One copy of each writer, shared by its records.
    writers: HashSet<Arc<Writer>>,
}

#[derive(Debug, Default)]
struct Bucket {
    hash: u64,
    records: BTreeMap<RecordId, Record>,
}

impl Default for Store {
    fn default() -> Self {
        Store {
            buckets: (0..BUCKETS).map(|_| Bucket::default()).collect(),
            root: 0,
            count: 0,
            graves: BTreeSet::new(),
            odd: BTreeMap::new(),
            writers: HashSet::new(),
        }
    }
}

/// The bucket of an id.
pub(crate) fn bucket_of(id: &RecordId) -> usize {
    usize::from(hash64(&[&[id.kind], &id.key]).to_be_bytes()[0])
}

impl Store {
    /// The record of an id, live or deleted.
    pub(crate) fn get(&self, id: &RecordId) -> Option<&Record> {
        self.buckets[bucket_of(id)].records.get(id)
    }

    /// The live record of an id.
    pub(crate) fn live(&self, id: &RecordId) -> Option<&Record> {
        self.get(id).filter(|r| !r.deleted)
    }

    /// Takes `record` if it beats what is known; O(log n).
    pub(crate) fn merge(&mut self, mut record: Record, wall: u64) -> Merge {
        let bucket = &mut self.buckets[bucket_of(&record.id)];
        let known = bucket.records.get(&record.id);
        let odd = record.deleted && !timely(record.version, wall);
        if odd && known.is_none_or(|known| known.deleted) {
            return Merge::Expired;
        }
        match known {
            Some(known) if record.order(known).is_le() => return Merge::Stale,
            None if self.count >= MAX_RECORDS => return Merge::Full,
            _ => {}
        }
        match self.writers.get(&record.writer) {
            Some(shared) => record.writer = Arc::clone(shared),
            None => {
                self.writers.insert(Arc::clone(&record.writer));
            }
        }
        if let Some(known) = known {
            // One copy of a key is enough.
            record.id = known.id.clone();
        }
        let grave = (record.deleted && !odd).then(|| (record.version, record.id.clone()));
        if odd {
            self.odd.insert(record.id.clone(), wall);
        } else {
            self.odd.remove(&record.id);
        }
        bucket.hash ^= record.digest;
        self.root ^= record.digest;
        let old = bucket.records.insert(record.id.clone(), record);
        match &old {
            Some(old) => {
                bucket.hash ^= old.digest;
                self.root ^= old.digest;
                if old.deleted {
                    self.graves.remove(&(old.version, old.id.clone()));
                }
                // The old record and the set are the last to know its writer: runs that are over must not add up.
                if Arc::strong_count(&old.writer) == 2 {
                    self.writers.remove(&old.writer);
                }
            }
            None => self.count += 1,
        }
        // After the old one went: both may have one version.
        self.graves.extend(grave);
        Merge::Applied(old)
    }

    /// Forgets tombstones past their life; returns them.
    pub(crate) fn collect(&mut self, wall: u64) -> Vec<Record> {
        let mut over: Vec<RecordId> = Vec::new();
        while let Some((version, _)) = self.graves.first()
            && past(version.millis(), wall)
        {
            over.extend(self.graves.pop_first().map(|(_, id)| id));
        }
        self.odd.retain(|id, arrived| {
            // A clock that was set back by much must not keep them for longer either.
            let ends = past(*arrived, wall) || past(wall, *arrived);
            over.extend(ends.then(|| id.clone()));
            !ends
        });
        let mut gone = Vec::new();
        for id in over {
            let bucket = &mut self.buckets[bucket_of(&id)];
            if let Some(record) = bucket.records.remove(&id) {
                bucket.hash ^= record.digest;
                self.root ^= record.digest;
                self.count -= 1;
                gone.push(record);
            }
        }
        if !gone.is_empty() {
            self.writers.retain(|writer| Arc::strong_count(writer) > 1);
        }
        gone
    }

    /// Equal on two nodes exactly when their records are equal.
    pub(crate) fn root(&self) -> u64 {
        self.root
    }

    /// The hash of each bucket.
    pub(crate) fn bucket_hashes(&self) -> Vec<u64> {
        self.buckets.iter().map(|b| b.hash).collect()
    }

    /// The records of one bucket, by id; none for a number that is no bucket.
    pub(crate) fn bucket(&self, bucket: usize) -> impl Iterator<Item = &Record> {
        self.buckets.get(bucket).into_iter().flat_map(|b| b.records.values())
    }

    /// Every record, live and deleted.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Record> {
        self.buckets.iter().flat_map(|b| b.records.values())
    }

    /// How many records are live and how many are tombstones.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let tombstones = self.graves.len() + self.odd.len();
        (self.count - tombstones, tombstones)
    }
}

fn past(deleted_at: u64, wall: u64) -> bool {
    deleted_at.saturating_add(TOMBSTONE_LIFE) < wall
}

/// Whether a version is a time of the last day or the next one: within what clocks are off by at times.
fn timely(version: Hlc, wall: u64) -> bool {
    !past(version.millis(), wall) && !past(wall, version.millis())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::plain;
    use proptest::prelude::*;

    const NOW: u64 = TOMBSTONE_LIFE * 3;

    fn at(ms: u64) -> u64 {
        (NOW + ms) << 16
    }

    #[test]
    fn the_newest_stays_and_hashes_follow() {
        let (mut a, mut b) = (Store::default(), Store::default());
        let (old, new) = (plain("k", at(1), "n1", false, "old"), plain("k", at(2), "n1", false, "new"));
        assert_eq!(a.merge(old.clone(), NOW), Merge::Applied(None));
        assert_eq!(a.merge(new.clone(), NOW), Merge::Applied(Some(old.clone())));
        assert_eq!(a.merge(old.clone(), NOW), Merge::Stale);
        assert_eq!(b.merge(new, NOW), Merge::Applied(None));
        assert_eq!((a.root(), a.bucket_hashes()), (b.root(), b.bucket_hashes()));
        assert_eq!(a.counts(), (1, 0));
    }

    /// A peer that gives itself a new run with each write takes no memory.
    #[test]
    fn writers_of_replaced_records_are_forgotten() {
        let mut store = Store::default();
        for i in 1..100 {
            let mut record = plain("k", at(i), "n1", false, "");
            record.writer = Arc::new(Writer { node: record.writer.node.clone(), boot: i });
            drop(store.merge(record, NOW));
        }
        assert_eq!(store.writers.len(), 1);
    }

    #[test]
    fn tombstones_end_after_a_day_and_never_come_back() {
        let mut store = Store::default();
        let grave = plain("k", at(0), "n1", true, "");
        assert_eq!(store.merge(grave.clone(), NOW), Merge::Applied(None));
        assert_eq!(store.counts(), (0, 1));
        assert!(store.collect(NOW + TOMBSTONE_LIFE).is_empty());
        assert_eq!(store.collect(NOW + TOMBSTONE_LIFE + 1), std::slice::from_ref(&grave));
        assert_eq!((store.root(), store.counts()), (0, (0, 0)));
        assert_eq!(store.merge(grave, NOW + TOMBSTONE_LIFE + 1), Merge::Expired);
    }

    /// A clock that is off deletes what there is, and leaves nothing that goes round for ever.
    #[test]
    fn tombstones_more_than_a_day_off_only_delete_what_is_there() {
        for version in [NOW - TOMBSTONE_LIFE - 5, NOW + TOMBSTONE_LIFE + 5, NOW + 9_000 * 3_600_000] {
            let (mut store, grave) = (Store::default(), plain("k", version << 16, "n1", true, ""));
            assert_eq!(store.merge(grave.clone(), NOW), Merge::Expired);
            let live = plain("k", (version - 1) << 16, "n1", false, "");
            store.merge(live.clone(), NOW);
            assert_eq!(store.merge(grave.clone(), NOW), Merge::Applied(Some(live.clone())));
            assert_eq!(store.merge(live, NOW), Merge::Stale);
            assert_eq!((store.counts(), store.collect(NOW + TOMBSTONE_LIFE)), ((0, 1), vec![]));
            assert_eq!(store.collect(NOW + TOMBSTONE_LIFE + 1), [grave]);
            assert_eq!((store.root(), store.counts()), (0, (0, 0)));
        }
    }

    fn records() -> impl Strategy<Value = Vec<Record>> {
        let one = (0..4u8, 0..4u64, 0..3u8, any::<bool>(), 0..3u8).prop_map(|(k, v, n, deleted, value)| {
            let mut r = plain(&format!("k{k}"), at(v), &format!("n{n}"), deleted, &"v".repeat(value.into()));
            if k == 3 {
                // A claim, whose rank comes first.
                let mut claim = vec![0, u8::from(v % 2 == 1), 0, 0, 0, 0, 0, 0, 0, value];
                claim
                    .extend(postcard::to_stdvec(&crate::claim::Held::Address([10, 0, 0, n].into())).unwrap());
                r.id.kind = crate::key::CLAIM;
                r = Record::new(r.id, r.version, r.writer, deleted, claim.into());
            }
            r
        });
        proptest::collection::vec(one, 0..12)
    }

    fn merged<'a>(records: impl Iterator<Item = &'a Record>) -> Store {
        let mut store = Store::default();
        records.for_each(|r| {
            store.merge(r.clone(), NOW);
        });
        store
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

        #[test]
        fn order_and_repetition_do_not_matter(list in records(), split in 0..12usize) {
            let forward = merged(list.iter());
            let backward = merged(list.iter().rev().chain(list.iter()));
            prop_assert_eq!(forward.root(), backward.root());
            prop_assert!(forward.iter().eq(backward.iter()));
            // Associative: two stores merged into one.
            let (left, right) = list.split_at(split.min(list.len()));
            let (left, right) = (merged(left.iter()), merged(right.iter()));
            let both = merged(right.iter().chain(left.iter()));
            prop_assert_eq!(forward.root(), both.root());
            // The hashes kept up to date are those of the content.
            let root = both.iter().fold(0, |hash, r| hash ^ r.digest);
            prop_assert_eq!(both.root(), root);
            prop_assert_eq!(both.counts().1, both.iter().filter(|r| r.deleted).count());
        }
    }
}
