//! What one client may take of the server, so that the others get theirs. Shared by all addresses and both transports.

use crate::config::Limits;
use foldhash::fast::RandomState;
use std::{
    collections::{HashMap, hash_map::Entry},
    hash::BuildHasher,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

/// Clients whose rate is remembered: `SETS` times `WAYS`. Of more the ones that asked least are forgotten.
const SETS: usize = 1024;
const WAYS: usize = 4;

/// A client: its address; of IPv6 the /64, in which a host may choose any (RFC 4291 section 2.5.1), unless it is
/// link-local, where all hosts share one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Client(u128);

impl Client {
    fn new(address: IpAddr) -> Client {
        Client(match address.to_canonical() {
            IpAddr::V4(a) => a.to_ipv6_mapped().to_bits(),
            IpAddr::V6(a) if a.is_unicast_link_local() => a.to_bits(),
            IpAddr::V6(a) => a.to_bits() >> 64 << 64,
        })
    }
}

/// The limits of each client.
#[derive(Debug)]
pub(super) struct Clients {
    rate: Option<Rate>,
    shares: Option<Arc<Shares>>,
    connections: Option<Arc<Shares>>,
}

impl Clients {
    pub(super) fn new(limits: &Limits, now: Instant) -> Clients {
        let &Limits { client_queries, client_burst, client_forwards, client_connections, .. } = limits;
        let shares = |most| (most > 0).then(|| Arc::new(Shares { most, held: Mutex::default() }));
        Clients {
            rate: (client_queries > 0).then(|| Rate::new(client_queries, client_burst, now)),
            shares: shares(client_forwards),
            connections: shares(client_connections),
        }
    }

    /// Whether a query from here may be answered now; then it counts.
    pub(super) fn admits(&self, address: IpAddr, now: Instant) -> bool {
        self.rate.as_ref().is_none_or(|rate| rate.admits(Client::new(address), now))
    }

    /// The right to have one more query forwarded, until it is dropped; `None` when the client has its share.
    pub(super) fn share(&self, address: IpAddr) -> Option<Share> {
        take(self.shares.as_ref(), address)
    }

    /// The same for one more TCP connection.
    pub(super) fn connection(&self, address: IpAddr) -> Option<Share> {
        take(self.connections.as_ref(), address)
    }
}

fn take(shares: Option<&Arc<Shares>>, address: IpAddr) -> Option<Share> {
    match shares {
        Some(shares) => shares.take(Client::new(address)),
        None => Some(Share(None)),
    }
}

/// A token bucket for each client, in a table of fixed size.
#[derive(Debug)]
struct Rate {
    /// Nanoseconds in which a bucket gains a token.
    interval: u64,
    /// Nanoseconds in which an empty bucket becomes full.
    depth: u64,
    began: Instant,
    hasher: RandomState,
    sets: Box<[Mutex<[Bucket; WAYS]>]>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    client: Client,
    /// When it is full again, in nanoseconds since `began`: all that has to be known of it.
    full: u64,
}

impl Rate {
    fn new(queries: u32, burst: u32, now: Instant) -> Rate {
        let interval = (1_000_000_000 / u64::from(queries.max(1))).max(1);
        let burst = if burst == 0 { queries } else { burst };
        Rate {
            interval,
            depth: interval * u64::from(burst.max(1)),
            began: now,
            hasher: RandomState::default(),
            sets: (0..SETS).map(|_| Mutex::default()).collect(),
        }
    }

    fn admits(&self, client: Client, now: Instant) -> bool {
        let now = u64::try_from(now.saturating_duration_since(self.began).as_nanos()).unwrap_or(u64::MAX / 2);
        let hash = self.hasher.hash_one(client).to_be_bytes();
        let set = usize::from(u16::from_be_bytes([hash[2], hash[3]])) % SETS;
        let mut buckets = lock(&self.sets[set]);
        let at = buckets.iter().position(|bucket| bucket.client == client).unwrap_or_else(|| {
            // The fullest tells least; one that is full tells nothing.
            let fullest = (0..WAYS).min_by_key(|at| buckets[*at].full).unwrap_or(0);
            buckets[fullest] = Bucket { client, full: 0 };
            fullest
        });
        let after = buckets[at].full.max(now) + self.interval;
        let admitted = after - now <= self.depth;
        if admitted {
            buckets[at].full = after;
        }
        admitted
    }
}

/// The forwards under way, or the connections, of each client; no more entries than there are of those at all.
#[derive(Debug)]
struct Shares {
    most: usize,
    held: Mutex<HashMap<Client, usize>>,
}

/// One forward or connection of a client.
#[derive(Debug)]
pub(super) struct Share(Option<(Client, Arc<Shares>)>);

impl Shares {
    fn take(self: &Arc<Self>, client: Client) -> Option<Share> {
        let mut held = lock(&self.held);
        let count = held.entry(client).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Share(Some((client, Arc::clone(self)))))
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let Some((client, shares)) = self.0.take() else { return };
        if let Entry::Occupied(mut count) = lock(&shares.held).entry(client) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

/// What is guarded here is whole at every moment: a panic elsewhere spoils nothing.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn clients(client_queries: u32, client_burst: u32, client_forwards: usize, now: Instant) -> Clients {
        Clients::new(&Limits { client_queries, client_burst, client_forwards, ..Limits::default() }, now)
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_burst_then_the_rate() {
        let now = Instant::now();
        let clients = clients(10, 5, 0, now);
        let admitted = |at: Instant| (0..20).filter(|_| clients.admits(ip("10.0.0.1"), at)).count();
        assert_eq!(admitted(now), 5);
        assert_eq!(admitted(now + Duration::from_millis(99)), 0);
        assert_eq!(admitted(now + Duration::from_millis(100)), 1, "what is refused costs nothing");
        assert_eq!(admitted(now + Duration::from_millis(350)), 2);
        assert_eq!(admitted(now + Duration::from_hours(1)), 5, "no more than the burst is saved up");
        assert!(clients.admits(ip("10.0.0.2"), now), "another has its own");
    }

    #[test]
    fn without_a_limit_all_are_admitted() {
        let now = Instant::now();
        let clients = clients(0, 0, 0, now);
        assert!((0..10_000).all(|_| clients.admits(ip("10.0.0.1"), now)));
        let shares: Vec<_> = (0..1000).map(|_| clients.share(ip("10.0.0.1"))).collect();
        assert!(shares.iter().all(Option::is_some));
    }

    #[test]
    fn who_is_one_client() {
        for (one, other, same) in [
            ("10.0.0.1", "10.0.0.1", true),
            ("10.0.0.1", "::ffff:10.0.0.1", true),
            ("10.0.0.1", "10.0.0.2", false),
            ("2001:db8::1", "2001:db8::ffff:1", true),
            ("2001:db8::1", "2001:db8:0:1::1", false),
            ("fe80::1", "fe80::2", false),
        ] {
            assert_eq!(Client::new(ip(one)) == Client::new(ip(other)), same, "{one} {other}");
        }
    }

    /// Whoever floods does not get away with it by making up other addresses, and the table does not grow.
    #[test]
    fn strangers_push_nobody_out_who_asks_much() {
        let now = Instant::now();
        let clients = clients(1, 100, 0, now);
        let loud = ip("192.0.2.1");
        assert_eq!((0..200).filter(|_| clients.admits(loud, now)).count(), 100);
        for stranger in 0..100_000_u32 {
            assert!(clients.admits(IpAddr::from(stranger.to_be_bytes()), now), "{stranger}");
        }
        assert!(!clients.admits(loud, now));
        assert_eq!(clients.rate.as_ref().map(|rate| rate.sets.len()), Some(SETS));
    }

    #[test]
    fn forwards_are_given_back() {
        let clients = clients(0, 0, 2, Instant::now());
        let (one, two) = (clients.share(ip("10.0.0.1")), clients.share(ip("10.0.0.1")));
        assert!(one.is_some() && two.is_some() && clients.share(ip("10.0.0.1")).is_none());
        let other = clients.share(ip("10.0.0.2"));
        assert!(other.is_some(), "another has its own");
        drop(one);
        let again = clients.share(ip("10.0.0.1"));
        assert!(again.is_some() && clients.share(ip("10.0.0.1")).is_none());
        drop((two, again, other));
        assert!(clients.shares.as_ref().is_some_and(|shares| lock(&shares.held).is_empty()));
    }

    #[test]
    fn connections_are_counted_apart_from_forwards() {
        let limits = Limits { client_connections: 1, client_forwards: 1, ..Limits::default() };
        let clients = Clients::new(&limits, Instant::now());
        let forward = clients.share(ip("10.0.0.1"));
        let one = clients.connection(ip("10.0.0.1"));
        assert!(forward.is_some() && one.is_some() && clients.connection(ip("10.0.0.1")).is_none());
        assert!(clients.connection(ip("10.0.0.2")).is_some(), "another has its own");
        drop(one);
        assert!(clients.connection(ip("10.0.0.1")).is_some());
    }
}
