//! A hash table that is shared between views and copied in small parts.

use hashbrown::HashTable;
use std::{array, sync::Arc};

/// Groups of a table, and shards of a group.
const FAN: usize = 32;

/// A table of `T` in 1,024 shards; cloning it is one reference count. A change copies one shard and the way to it,
/// unless nobody else holds them: of 100,000 entries about a hundred. Callers bring the hash of every key, which must
/// be spread over all its bits.
#[derive(Clone, Debug)]
pub(crate) struct Shards<T>(Arc<[Arc<Group<T>>; FAN]>);

type Group<T> = [Arc<HashTable<T>>; FAN];

impl<T> Default for Shards<T> {
    fn default() -> Self {
        let empty = Arc::new(HashTable::new());
        let group = Arc::new(array::from_fn(|_| Arc::clone(&empty)));
        Shards(Arc::new(array::from_fn(|_| Arc::clone(&group))))
    }
}

impl<T: Clone> Shards<T> {
    /// The entry of this hash for which `same` holds.
    pub(crate) fn get(&self, hash: u64, same: impl FnMut(&T) -> bool) -> Option<&T> {
        let (group, shard) = place(hash);
        self.0[group][shard].find(hash, same)
    }

    /// Every entry, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().flat_map(|group| group.iter()).flat_map(|shard| shard.iter())
    }

    /// The shard of this hash, no longer shared with another table.
    pub(crate) fn shard_mut(&mut self, hash: u64) -> &mut HashTable<T> {
        let (group, shard) = place(hash);
        let group = Arc::make_mut(&mut Arc::make_mut(&mut self.0)[group]);
        Arc::make_mut(&mut group[shard])
    }
}

/// Bits that the shard's own table uses neither for its buckets (the lowest) nor for its tags (the highest seven).
fn place(hash: u64) -> (usize, usize) {
    let [_, _, high, low, ..] = hash.to_be_bytes();
    (usize::from(high) % FAN, usize::from(low) % FAN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use foldhash::fast::FixedState;
    use std::hash::BuildHasher;

    #[test]
    fn a_change_touches_no_other_table() {
        let hash = |n: &u32| FixedState::with_seed(7).hash_one(n);
        let mut all = Shards::default();
        for n in 0..5000u32 {
            all.shard_mut(hash(&n)).insert_unique(hash(&n), n, hash);
        }
        let before = all.clone();
        all.shard_mut(hash(&7)).find_entry(hash(&7), |n| *n == 7).unwrap().remove();
        let found = |all: &Shards<u32>, n: u32| all.get(hash(&n), |other| *other == n).is_some();
        assert!((0..5000).all(|n| found(&before, n)), "what was shared is as it was");
        assert!((0..5000).all(|n| found(&all, n) == (n != 7)));
        assert!(!found(&all, 5000));
        assert_eq!((all.iter().count(), before.iter().count()), (4999, 5000));
    }
}
