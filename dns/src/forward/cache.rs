//! The cache of upstreams' replies: bounded by entries and by octets, in shards, each with a clock for eviction.
//! Time is an argument.

use super::wire::{Asked, Kept};
use foldhash::quality::RandomState;
use hickory_proto::op::ResponseCode;
use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

const SHARDS: usize = 16;

/// Octets an entry takes beside its key and its reply: two references to the key, the entry, the map's slack.
const OVERHEAD: usize = 200;

#[derive(Debug)]
pub(super) struct Cache {
    shards: [RwLock<Shard>; SHARDS],
    max_entries: usize,
    max_octets: usize,
    max_stale: Duration,
}

#[derive(Debug, Default)]
struct Shard {
    entries: HashMap<Arc<[u8]>, Entry, RandomState>,
    /// Every key once, the next candidate for eviction first.
    clock: VecDeque<Arc<[u8]>>,
    octets: usize,
}

#[derive(Debug)]
struct Entry {
    kept: Kept,
    since: Instant,
    /// Answered since the clock's hand last passed.
    used: AtomicBool,
}

/// What a hit was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hit {
    pub(super) rcode: ResponseCode,
    pub(super) negative: bool,
}

/// What an insertion changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) entries: i64,
    pub(super) octets: i64,
    pub(super) evicted: u64,
}

impl Cache {
    /// At most so many entries and octets, rounded up to the next entry in each of 16 shards; no entry, no cache.
    /// Expired ones stay for `max_stale`.
    pub(super) fn new(entries: usize, octets: usize, max_stale: Duration) -> Self {
        Cache {
            shards: std::array::from_fn(|_| RwLock::default()),
            max_entries: entries.div_ceil(SHARDS),
            max_octets: octets / SHARDS,
            max_stale,
        }
    }

    /// Writes the reply to `asked` into `out` if a fresh one is there at `now`.
    pub(super) fn fresh(&self, asked: &Asked<'_>, now: Instant, udp: bool, out: &mut Vec<u8>) -> Option<Hit> {
        self.get(asked, |entry| {
            let age = entry.age(now);
            (age < entry.kept.ttl).then(|| entry.kept.render(asked, Some(age), udp, out))
        })
    }

    /// The same with one that is fresh or expired no longer ago than `max_stale`.
    pub(super) fn stale(&self, asked: &Asked<'_>, now: Instant, udp: bool, out: &mut Vec<u8>) -> Option<Hit> {
        self.get(asked, |entry| {
            entry.usable(now, self.max_stale).then(|| entry.kept.render(asked, None, udp, out))
        })
    }

    fn get(&self, asked: &Asked<'_>, answer: impl FnOnce(&Entry) -> Option<()>) -> Option<Hit> {
        let shard = self.shard(asked.key()).read().unwrap_or_else(PoisonError::into_inner);
        let entry = shard.entries.get(asked.key())?;
        answer(entry)?;
        if !entry.used.load(Ordering::Relaxed) {
            entry.used.store(true, Ordering::Relaxed);
        }
        Some(Hit { rcode: entry.kept.rcode, negative: entry.kept.negative })
    }

    /// What is there for `asked` at `now`, without using it: its code, its age and how long it is fresh, in seconds.
    /// None that is too old to be given.
    pub(super) fn look(&self, asked: &Asked<'_>, now: Instant) -> Option<(ResponseCode, u32, u32)> {
        let shard = self.shard(asked.key()).read().unwrap_or_else(PoisonError::into_inner);
        let entry = shard.entries.get(asked.key()).filter(|entry| entry.usable(now, self.max_stale))?;
        Some((entry.kept.rcode, entry.age(now), entry.kept.ttl))
    }

    /// Keeps a reply; others go for it where the bounds ask for that.
    pub(super) fn insert(&self, asked: &Asked<'_>, kept: Kept, now: Instant) -> Change {
        let mut change = Change::default();
        let size = asked.key().len() + kept.size() + OVERHEAD;
        if self.max_entries == 0 || size > self.max_octets {
            return change;
        }
        let mut shard = self.shard(asked.key()).write().unwrap_or_else(PoisonError::into_inner);
        let before = shard.octets;
        let entry = Entry { kept, since: now, used: AtomicBool::new(false) };
        if let Some(old) = shard.entries.get_mut(asked.key()) {
            let old = std::mem::replace(old, entry);
            shard.octets -= asked.key().len() + old.kept.size() + OVERHEAD;
        } else {
            let key: Arc<[u8]> = asked.key().into();
            shard.clock.push_back(Arc::clone(&key));
            shard.entries.insert(key, entry);
            change.entries += 1;
        }
        shard.octets += size;
        while shard.entries.len() > self.max_entries || shard.octets > self.max_octets {
            if !shard.evict() {
                break;
            }
            change.entries -= 1;
            change.evicted += 1;
        }
        change.octets = signed(shard.octets) - signed(before);
        change
    }

    /// Forgets everything: other upstreams may say other things.
    pub(super) fn clear(&self) -> Change {
        let mut change = Change::default();
        for shard in &self.shards {
            let old = std::mem::take(&mut *shard.write().unwrap_or_else(PoisonError::into_inner));
            change.entries -= signed(old.entries.len());
            change.octets -= signed(old.octets);
        }
        change
    }

    fn shard(&self, key: &[u8]) -> &RwLock<Shard> {
        let mixed =
            key.iter().fold(0usize, |sum, octet| sum.wrapping_mul(31).wrapping_add(usize::from(*octet)));
        &self.shards[(mixed ^ (mixed >> 8)) % SHARDS]
    }
}

impl Shard {
    /// Drops the first entry that was not used since the hand last passed it; `false` when there is none at all.
    fn evict(&mut self) -> bool {
        while let Some(key) = self.clock.pop_front() {
            let Some(entry) = self.entries.get_mut(&key) else { continue };
            if std::mem::take(entry.used.get_mut()) {
                self.clock.push_back(key);
                continue;
            }
            self.octets -= key.len() + entry.kept.size() + OVERHEAD;
            self.entries.remove(&key);
            return true;
        }
        false
    }
}

impl Entry {
    /// Whether it is fresh or expired no longer ago than `max_stale`.
    fn usable(&self, now: Instant, max_stale: Duration) -> bool {
        now.saturating_duration_since(self.since) < Duration::from_secs(self.kept.ttl.into()) + max_stale
    }

    /// Whole seconds since it came.
    fn age(&self, now: Instant) -> u32 {
        u32::try_from(now.saturating_duration_since(self.since).as_secs()).unwrap_or(u32::MAX)
    }
}

fn signed(octets: usize) -> i64 {
    i64::try_from(octets).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::{
        super::wire::tests::{query, reply},
        *,
    };
    use hickory_proto::rr::{Name, RData, Record, RecordType, rdata::TXT};

    const HOUR: Duration = Duration::from_secs(3600);

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn kept(ttl: u32, text: &str) -> Kept {
        let text = TXT::new(vec![text.to_owned()]);
        let record = Record::from_rdata(Name::from_ascii("www.example.").unwrap(), ttl, RData::TXT(text));
        Kept::of(&reply(ResponseCode::NoError, vec![record], vec![], false).to_vec().unwrap()).unwrap()
    }

    /// The TTL of the record in the reply.
    fn ttl(out: &[u8]) -> u32 {
        hickory_proto::op::Message::from_vec(out).unwrap().answers[0].ttl
    }

    #[test]
    fn an_entry_ages_and_is_then_stale_and_then_gone() {
        let cache = Cache::new(100, 1 << 20, HOUR);
        let packet = query("www.example.", RecordType::A, false);
        let asked = Asked::read(&packet).unwrap();
        let (then, mut out) = (Instant::now(), Vec::new());
        assert_eq!(cache.fresh(&asked, then, true, &mut out), None);
        assert_eq!(cache.insert(&asked, kept(60, "x"), then).entries, 1);
        for (age, left) in [(s(0), 60), (s(1), 59), (Duration::from_millis(1999), 59), (s(59), 1)] {
            assert!(cache.fresh(&asked, then + age, true, &mut out).is_some());
            assert_eq!(ttl(&out), left, "{age:?}");
        }
        assert_eq!(cache.fresh(&asked, then + s(60), true, &mut out), None);
        let look = |age| cache.look(&asked, then + age);
        assert_eq!(look(s(59)), Some((ResponseCode::NoError, 59, 60)));
        assert_eq!((look(s(60 + 3599)), look(s(60 + 3600))), (Some((ResponseCode::NoError, 3659, 60)), None));
        assert!(cache.stale(&asked, then + s(60 + 3599), true, &mut out).is_some());
        assert_eq!(ttl(&out), 30);
        assert_eq!(cache.stale(&asked, then + s(60 + 3600), true, &mut out), None);
        assert_eq!(cache.insert(&asked, kept(60, "x"), then + HOUR), Change::default(), "in its own place");
        assert!(cache.fresh(&asked, then + HOUR, true, &mut out).is_some(), "it came again");
        assert_eq!(cache.clear().entries, -1);
        assert_eq!(cache.stale(&asked, then + HOUR, true, &mut out), None);
    }

    /// Fills a cache, using one entry between all others, and says what is left: the balance of entries and octets.
    fn filled(cache: &Cache, text: &str) -> (i64, i64) {
        let (now, mut out) = (Instant::now(), Vec::new());
        let used = query("used.example.", RecordType::A, false);
        let used = Asked::read(&used).unwrap();
        let mut sum = cache.insert(&used, kept(60, text), now);
        for i in 0..2000 {
            let packet = query(&format!("host-{i}.example."), RecordType::A, false);
            let change = cache.insert(&Asked::read(&packet).unwrap(), kept(60, text), now);
            sum.entries += change.entries;
            sum.octets += change.octets;
            assert!(cache.fresh(&used, now, true, &mut out).is_some(), "{i}: what is used stays");
        }
        let entries: usize = cache.shards.iter().map(|s| s.read().unwrap().entries.len()).sum();
        let octets: usize = cache.shards.iter().map(|s| s.read().unwrap().octets).sum();
        assert_eq!((sum.entries, sum.octets), (signed(entries), signed(octets)));
        for shard in &cache.shards {
            let shard = shard.read().unwrap();
            assert_eq!(shard.clock.len(), shard.entries.len());
        }
        (sum.entries, sum.octets)
    }

    #[test]
    fn entries_and_octets_are_bounded_and_what_is_used_stays() {
        let (entries, _) = filled(&Cache::new(320, 1 << 30, HOUR), "x");
        assert!((160..=320).contains(&entries), "{entries}: shards are filled about alike");
        let (entries, octets) = filled(&Cache::new(1 << 20, 160 << 10, HOUR), &"x".repeat(250));
        assert!(((80 << 10)..=(160 << 10)).contains(&octets) && entries < 400, "{entries}: {octets}");
    }

    #[test]
    fn nothing_is_kept_without_room() {
        let packet = query("www.example.", RecordType::A, false);
        let asked = Asked::read(&packet).unwrap();
        for cache in [Cache::new(0, 1 << 20, HOUR), Cache::new(100, 16, HOUR)] {
            assert_eq!(cache.insert(&asked, kept(60, "x"), Instant::now()), Change::default());
        }
    }
}
