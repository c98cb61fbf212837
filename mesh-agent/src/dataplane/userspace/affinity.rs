//! Client-IP affinity of one service: which backend a client went to, forgotten after a timeout. Pure.

use crate::plan::BackendId;
use std::{
    collections::HashMap,
    net::IpAddr,
    time::{Duration, Instant},
};

/// Remembers one backend per client address, at most `capacity` of them.
///
/// Two generations: entries enter the young one; when that is half of the capacity, it becomes the old one and the old
/// one is dropped. A used entry moves to the young one. So what is dropped at the bound is what was not used for
/// longest, and every step takes constant time.
#[derive(Debug)]
pub(super) struct AffinityTable {
    young: HashMap<IpAddr, Entry>,
    old: HashMap<IpAddr, Entry>,
    half: usize,
}

#[derive(Clone, Debug)]
struct Entry {
    backend: BackendId,
    last: Instant,
}

impl AffinityTable {
    /// An empty table; `capacity` is at least 2.
    pub(super) fn new(capacity: usize) -> Self {
        AffinityTable { young: HashMap::new(), old: HashMap::new(), half: (capacity / 2).max(1) }
    }

    /// The backend of `client`, when its last new flow began less than `timeout` before `now`.
    pub(super) fn get(&self, client: IpAddr, now: Instant, timeout: Duration) -> Option<&BackendId> {
        let entry = self.young.get(&client).or_else(|| self.old.get(&client))?;
        (now.saturating_duration_since(entry.last) < timeout).then_some(&entry.backend)
    }

    /// `client` began a flow to `backend` at `now`.
    pub(super) fn put(&mut self, client: IpAddr, backend: &BackendId, now: Instant) {
        if let Some(entry) = self.young.get_mut(&client) {
            entry.last = now;
            if entry.backend != *backend {
                entry.backend = backend.clone();
            }
            return;
        }
        self.old.remove(&client);
        if self.young.len() >= self.half {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(client, Entry { backend: backend.clone(), last: now });
    }

    /// How many clients are remembered, expired ones included.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn id(name: &str) -> BackendId {
        BackendId { instance: name.parse().unwrap(), node: "n1".parse().unwrap() }
    }

    fn client(n: u32) -> IpAddr {
        Ipv4Addr::from_bits(0x7f00_0000 + n).into()
    }

    #[test]
    fn it_expires_after_the_last_new_flow() {
        let (t0, timeout) = (Instant::now(), Duration::from_secs(10));
        let mut table = AffinityTable::new(100);
        table.put(client(1), &id("a"), t0);
        table.put(client(1), &id("a"), t0 + Duration::from_secs(6));
        assert_eq!(table.get(client(1), t0 + Duration::from_secs(15), timeout), Some(&id("a")));
        assert_eq!(table.get(client(1), t0 + Duration::from_secs(16), timeout), None);
        table.put(client(1), &id("b"), t0 + Duration::from_secs(17));
        assert_eq!(table.get(client(1), t0 + Duration::from_secs(18), timeout), Some(&id("b")));
    }

    #[test]
    fn it_stays_bounded_and_keeps_who_is_active() {
        let (now, timeout) = (Instant::now(), Duration::from_secs(1000));
        let mut table = AffinityTable::new(1000);
        for n in 0..100_000 {
            table.put(client(n), &id("a"), now);
            // Client 7 keeps coming.
            table.put(client(7), &id("b"), now);
            assert!(table.len() <= 1000, "{} entries", table.len());
        }
        assert_eq!(table.get(client(7), now, timeout), Some(&id("b")));
        assert_eq!(table.get(client(99_999), now, timeout), Some(&id("a")));
        assert_eq!(table.get(client(5), now, timeout), None);
    }
}
