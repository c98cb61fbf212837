//! Consistent hashing: which backend a client belongs to, the same on every node and in every version.
//!
//! The lookup table is that of Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer"
//! (NSDI 2016), section 3.4, with weights as turns: a backend of half the greatest weight gets every second turn.
//!
//! The hashes here are a contract between nodes, versions and data planes: test vectors below pin them. They are not
//! secret; a client that knows them can choose its backend, as with any unkeyed source hash.

use super::backend::BackendId;
use std::net::IpAddr;

/// The fixed constant that keys every hash: the bytes `mesh-v1\0`.
pub const KEY: u64 = 0x6d65_7368_2d76_3100;

/// Table sizes: primes, so that every skip visits every slot, about a factor of 8 apart, so that a service that
/// grows by one hardly ever changes its size.
const SIZES: [u32; 4] = [1_021, 8_191, 65_537, 655_373];

/// The 64-bit finalizer of MurmurHash3 (Appleby, public domain): every input bit flips every output bit with
/// probability near one half.
#[must_use]
pub const fn mix(mut x: u64) -> u64 {
    x ^= x >> 33;
    x = x.wrapping_mul(0xff51_afd7_ed55_8ccd);
    x ^= x >> 33;
    x = x.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ (x >> 33)
}

/// The seed of [`client_hash`].
pub const SEED: u32 = 0x6d65_7368;

/// The hash of a client's address: Bob Jenkins' lookup3 (public domain, 2006) over its 4 or 16 bytes, as the kernel
/// has it in `linux/jhash.h` with [`SEED`], in the upper 32 bits. Of the hashes there are it is the one that nf_tables
/// computes too, so that every data plane sends a client to the same backend. The port plays no part, and an
/// IPv4-mapped IPv6 address is that of IPv4.
#[must_use]
pub fn client_hash(client: IpAddr) -> u64 {
    let hash = match client.to_canonical() {
        IpAddr::V4(a) => jhash(&a.octets(), SEED),
        IpAddr::V6(a) => jhash(&a.octets(), SEED),
    };
    u64::from(hash) << 32
}

/// `jhash()` of the kernel on a little-endian machine, for whole words.
fn jhash(bytes: &[u8], seed: u32) -> u32 {
    let len = u32::try_from(bytes.len()).unwrap_or(0);
    let start = 0xdead_beef_u32.wrapping_add(len).wrapping_add(seed);
    let [mut a, mut b, mut c] = [start; 3];
    let mut words = bytes.chunks_exact(4).map(|w| u32::from_le_bytes([w[0], w[1], w[2], w[3]]));
    let mut left = len / 4;
    let mut next = || words.next().unwrap_or(0);
    while left > 3 {
        a = a.wrapping_add(next());
        b = b.wrapping_add(next());
        c = c.wrapping_add(next());
        for (x, y, z, turn) in
            [(0, 2, 1, 4), (1, 0, 2, 6), (2, 1, 0, 8), (0, 2, 1, 16), (1, 0, 2, 19), (2, 1, 0, 4)]
        {
            let mut r = [a, b, c];
            r[x] = r[x].wrapping_sub(r[y]) ^ r[y].rotate_left(turn);
            r[y] = r[y].wrapping_add(r[z]);
            [a, b, c] = r;
        }
        left -= 3;
    }
    if left == 0 {
        return c;
    }
    a = a.wrapping_add(next());
    b = b.wrapping_add(next());
    c = c.wrapping_add(next());
    for (x, y, turn) in [(2, 1, 14), (0, 2, 11), (1, 0, 25), (2, 1, 16), (0, 2, 4), (1, 0, 14), (2, 1, 24)] {
        let mut r = [a, b, c];
        r[x] = (r[x] ^ r[y]).wrapping_sub(r[y].rotate_left(turn));
        [a, b, c] = r;
    }
    c
}

/// The hash of a backend: 64-bit FNV-1a (Fowler, Noll, Vo) over `instance@node`, then [`mix`] with [`KEY`].
#[must_use]
pub fn backend_hash(id: &BackendId) -> u64 {
    let bytes = id.instance.as_str().bytes().chain([b'@']).chain(id.node.as_str().bytes());
    let fnv = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    mix(fnv ^ KEY)
}

/// Which of `slots` a hash means: the kernel's `reciprocal_scale()` of its upper half. 0 when there are none.
#[must_use]
pub fn slot_of(hash: u64, slots: usize) -> usize {
    let slots = u64::try_from(slots).unwrap_or(u64::MAX);
    usize::try_from(((hash >> 32) * slots) >> 32).unwrap_or(0)
}

/// The table size for a frontend of `backends` backends, whatever their state, so that health does not change it:
/// the first of 1021, 8191, 65537 and 655373 that is at least 100 times their number (the paper's rule for shares
/// within 1 % of each other), the last beyond that.
#[must_use]
pub fn table_size(backends: usize) -> u32 {
    let wanted = backends.saturating_mul(100);
    let fits = |size: &&u32| usize::try_from(**size).is_ok_and(|size| size >= wanted);
    SIZES.iter().find(fits).copied().unwrap_or(SIZES[SIZES.len() - 1])
}

/// Which backend each slot belongs to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MaglevTable {
    /// Index into the list the table was built from; empty when no backend has weight.
    slots: Box<[u16]>,
}

impl MaglevTable {
    /// Fills a table of `size` slots (a prime, see [`table_size`]) for backends given as (hash, weight), hash being
    /// [`backend_hash`]. Weight 0 gets no slot. Entries past the first 65,535 get none either.
    ///
    /// The order of `backends` decides ties, so every node must list them alike: sorted by id.
    #[must_use]
    pub fn build(backends: &[(u64, u16)], size: u32) -> MaglevTable {
        let size = u64::from(size.max(2));
        let heaviest = u64::from(backends.iter().map(|(_, weight)| *weight).max().unwrap_or(0));
        let mut turns: Vec<Turn> = (0..u16::MAX)
            .zip(backends)
            .filter(|(_, (_, weight))| *weight > 0)
            .map(|(index, &(hash, weight))| Turn::new(index, hash, weight, size))
            .collect();
        if turns.is_empty() {
            return MaglevTable::default();
        }
        let mut slots: Vec<Option<u16>> = vec![None; usize::try_from(size).unwrap_or(0)];
        let mut left = slots.len();
        while left > 0 {
            for turn in &mut turns {
                turn.credit += turn.weight;
                if turn.credit < heaviest {
                    continue;
                }
                turn.credit -= heaviest;
                turn.take(&mut slots, size);
                left -= 1;
                if left == 0 {
                    break;
                }
            }
        }
        MaglevTable { slots: slots.into_iter().flatten().collect() }
    }

    /// The backend for a client hash: an index into the list the table was built from.
    #[must_use]
    pub fn pick(&self, hash: u64) -> Option<usize> {
        self.slots.get(slot_of(hash, self.slots.len())).map(|index| usize::from(*index))
    }

    /// Every slot, in order.
    #[must_use]
    pub fn slots(&self) -> &[u16] {
        &self.slots
    }

    /// Share of the slots that lead to backend `index`, 0 to 1.
    #[must_use]
    pub fn share(&self, index: usize) -> f64 {
        let mine = self.slots.iter().filter(|i| usize::from(**i) == index).count();
        let share = |a: usize, b: usize| {
            f64::from(u32::try_from(a).unwrap_or(0)) / f64::from(u32::try_from(b).unwrap_or(1))
        };
        if self.slots.is_empty() { 0.0 } else { share(mine, self.slots.len()) }
    }
}

/// A backend's walk over the slots in its own order, a permutation because the size is a prime.
struct Turn {
    index: u16,
    weight: u64,
    credit: u64,
    next: u64,
    skip: u64,
}

impl Turn {
    fn new(index: u16, hash: u64, weight: u16, size: u64) -> Turn {
        let skip = mix(hash ^ KEY) % (size - 1) + 1;
        Turn { index, weight: u64::from(weight), credit: 0, next: hash % size, skip }
    }

    /// Takes the first free slot of its order; one is free.
    fn take(&mut self, slots: &mut [Option<u16>], size: u64) {
        for _ in 0..size {
            let slot = usize::try_from(self.next).unwrap_or(0);
            self.next = (self.next + self.skip) % size;
            if let Some(free @ None) = slots.get_mut(slot) {
                *free = Some(self.index);
                return;
            }
        }
    }
}
