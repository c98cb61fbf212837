//! Who has which place in the arrays: numbers of frontends and backends, regions of slots. Pure.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// A region that was given back is not handed out again for so long (ms): no program reads from it any more by then.
const REST: u64 = 100;

/// Numbers below a limit; the least free one is handed out, so that those in use stay together.
#[derive(Clone, Debug)]
pub(super) struct Numbers {
    limit: u32,
    /// None from here on was handed out.
    next: u32,
    free: BTreeSet<u32>,
}

impl Numbers {
    pub(super) fn new(limit: u32) -> Numbers {
        Numbers { limit, next: 0, free: BTreeSet::new() }
    }

    /// Notes that a number is in use.
    pub(super) fn hold(&mut self, number: u32) {
        self.free.remove(&number);
        if number >= self.next {
            self.free.extend(self.next..number);
            self.next = number + 1;
        }
    }

    /// How many are left.
    pub(super) fn left(&self) -> usize {
        self.free.len() + usize::try_from(self.limit.saturating_sub(self.next)).unwrap_or(0)
    }

    pub(super) fn take(&mut self) -> Option<u32> {
        if let Some(number) = self.free.pop_first() {
            return Some(number);
        }
        let number = Some(self.next).filter(|next| *next < self.limit)?;
        self.next += 1;
        Some(number)
    }

    pub(super) fn give(&mut self, number: u32) {
        self.free.insert(number);
    }

    /// One more than the greatest that was ever handed out.
    pub(super) fn end(&self) -> u32 {
        self.next
    }
}

/// Regions of an array.
#[derive(Clone, Debug)]
pub(super) struct Regions {
    /// Start → length; no two touch.
    free: BTreeMap<u32, u32>,
    /// When (ms), start, length, in this order.
    resting: VecDeque<(u64, u32, u32)>,
}

impl Regions {
    pub(super) fn new(length: u32) -> Regions {
        Regions { free: BTreeMap::from([(0, length)]), resting: VecDeque::new() }
    }

    /// The first that is long enough.
    pub(super) fn take(&mut self, length: u32, now: u64) -> Option<u32> {
        while let Some((_, start, length)) =
            self.resting.front().copied().filter(|(since, ..)| since + REST <= now)
        {
            self.resting.pop_front();
            self.join(start, length);
        }
        let (start, found) = self.free.iter().find(|(_, found)| **found >= length).map(|(s, l)| (*s, *l))?;
        self.hold(start, length).then_some(start).filter(|_| found >= length)
    }

    /// Takes just this one; whether it was free.
    pub(super) fn hold(&mut self, start: u32, length: u32) -> bool {
        let Some((from, found)) = self.free.range(..=start).next_back().map(|(s, l)| (*s, *l)) else {
            return false;
        };
        let (before, after) = (start - from, (from + found).checked_sub(start + length));
        let Some(after) = after else { return false };
        self.free.remove(&from);
        self.free
            .extend([(from, before), (start + length, after)].into_iter().filter(|(_, length)| *length > 0));
        true
    }

    pub(super) fn give(&mut self, start: u32, length: u32, now: u64) {
        if length > 0 {
            self.resting.push_back((now, start, length));
        }
    }

    fn join(&mut self, mut start: u32, mut length: u32) {
        if let Some((before, found)) = self.free.range(..start).next_back().map(|(s, l)| (*s, *l))
            && before + found == start
        {
            self.free.remove(&before);
            (start, length) = (before, found + length);
        }
        if let Some(found) = self.free.remove(&(start + length)) {
            length += found;
        }
        self.free.insert(start, length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngExt, SeedableRng, rngs::StdRng};

    #[test]
    fn numbers_are_the_least_free_ones() {
        let mut numbers = Numbers::new(4);
        numbers.hold(2);
        assert_eq!((numbers.left(), numbers.end()), (3, 3));
        assert_eq!([(); 4].map(|()| numbers.take()), [Some(0), Some(1), Some(3), None]);
        numbers.give(1);
        assert_eq!((numbers.take(), numbers.take()), (Some(1), None));
    }

    #[test]
    fn regions_never_overlap_and_come_back_when_they_have_rested() {
        let seed = 0x6562_7066;
        println!("seed {seed:#x}");
        let mut random = StdRng::seed_from_u64(seed);
        let (mut regions, mut held, mut now) = (Regions::new(1000), Vec::<(u32, u32)>::new(), 0);
        for _ in 0..10_000 {
            now += 50;
            if random.random_bool(0.5) && !held.is_empty() {
                let (start, length) = held.swap_remove(random.random_range(0..held.len()));
                regions.give(start, length, now);
                continue;
            }
            let length = random.random_range(1..60);
            let Some(start) = regions.take(length, now) else { continue };
            assert!(start + length <= 1000);
            assert!(
                held.iter().all(|(s, l)| start + length <= *s || s + l <= start),
                "{held:?} {start} {length}"
            );
            held.push((start, length));
        }
        for (start, length) in held {
            regions.give(start, length, now);
        }
        assert_eq!(regions.take(1000, now + 99), None, "what was given back just now rests");
        assert_eq!(regions.take(1000, now + 100), Some(0), "all of it is one region again");
        assert!(!regions.hold(0, 1));
    }
}
