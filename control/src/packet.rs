//! Sealed datagrams.
//!
//! ```text
//! version 1 | key id 4 | sender 16 | counter 8 | AES-256-GCM(body) | tag 16
//! ```
//! The key is HKDF(cluster key, sender): every run of a node draws a random sender id, so a counter that begins at 0
//! never repeats a nonce. The additional data is the header and the receiver's name, so a datagram cannot be turned
//! to another node.

use crate::keyring::{Keyring, WireId, wire_id};
use ring::aead::{Aad, LessSafeKey, Nonce};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

/// The wire format's version.
pub(crate) const VERSION: u8 = 1;
/// A random number that a run of a node draws for itself.
pub(crate) type SenderId = [u8; 16];

const HEADER: usize = 1 + 4 + 16 + 8;
/// Bytes that sealing adds.
pub(crate) const OVERHEAD: usize = HEADER + 16;
/// Largest datagram that is opened.
pub(crate) const MAX_DATAGRAM: usize = 1500;
/// Senders remembered; the one heard least recently is forgotten first.
const MAX_SENDERS: usize = 4096;
/// How far behind a sender's newest counter a datagram may arrive.
const WINDOW: u64 = 256;

/// Why a datagram is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Refused {
    TooLarge,
    Malformed,
    Version,
    UnknownKey,
    /// Wrong key material, another receiver's datagram, or tampered with.
    Forged,
    Replayed,
}

impl Refused {
    /// The word for metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Refused::TooLarge => "too large",
            Refused::Malformed => "malformed",
            Refused::Version => "unknown version",
            Refused::UnknownKey => "unknown key",
            Refused::Forged => "forged",
            Refused::Replayed => "replayed",
        }
    }
}

/// Seals what one run of a node sends.
pub(crate) struct Sealer {
    id: SenderId,
    key_id: WireId,
    key: LessSafeKey,
    counter: u64,
}

impl Sealer {
    /// A sealer with the ring's first key.
    pub(crate) fn new(ring: &Keyring, id: SenderId) -> Option<Sealer> {
        let key_id = wire_id(ring.sealing().id());
        Some(Sealer { id, key_id, key: ring.subkey(key_id, &[b"datagram", &id])?, counter: 0 })
    }

    /// Seals with another ring's first key from now on. The counter goes on, so a key that returns repeats no nonce.
    pub(crate) fn rekey(&mut self, ring: &Keyring) {
        if let Some(Sealer { key_id, key, .. }) = Sealer::new(ring, self.id) {
            (self.key_id, self.key) = (key_id, key);
        }
    }

    /// Seals `body` for the node named `to`; `None` after 2^64 datagrams.
    pub(crate) fn seal(&mut self, to: &str, body: &[u8]) -> Option<Vec<u8>> {
        let counter = self.counter;
        self.counter = counter.checked_add(1)?;
        let mut packet = Vec::with_capacity(OVERHEAD + body.len());
        packet.push(VERSION);
        packet.extend_from_slice(&self.key_id);
        packet.extend_from_slice(&self.id);
        packet.extend_from_slice(&counter.to_be_bytes());
        let aad = additional(&packet, to);
        packet.extend_from_slice(body);
        let tag = self
            .key
            .seal_in_place_separate_tag(nonce(counter), Aad::from(aad), &mut packet[HEADER..])
            .ok()?;
        packet.extend_from_slice(tag.as_ref());
        Some(packet)
    }
}

/// Opens what arrives, each datagram once.
pub(crate) struct Opener {
    ring: Arc<Keyring>,
    me: String,
    senders: HashMap<(WireId, SenderId), Sender>,
    /// Senders by when they were last heard.
    heard: BTreeMap<u64, (WireId, SenderId)>,
    clock: u64,
}

struct Sender {
    key: LessSafeKey,
    window: Window,
    heard: u64,
}

impl Opener {
    /// An opener for the node named `me`.
    pub(crate) fn new(ring: Arc<Keyring>, me: &str) -> Opener {
        Opener { ring, me: me.to_owned(), senders: HashMap::new(), heard: BTreeMap::new(), clock: 0 }
    }

    /// Opens by another ring's keys from now on.
    pub(crate) fn rekey(&mut self, ring: Arc<Keyring>) {
        self.senders.retain(|(key, _), _| ring.opens(*key));
        self.heard.retain(|_, (key, _)| ring.opens(*key));
        self.ring = ring;
    }

    /// Opens a datagram in place and returns its body.
    ///
    /// # Errors
    /// [`Refused`]; nothing is remembered of a datagram that does not authenticate.
    pub(crate) fn open<'a>(&mut self, packet: &'a mut [u8]) -> Result<&'a [u8], Refused> {
        if packet.len() > MAX_DATAGRAM {
            return Err(Refused::TooLarge);
        }
        let Some((header, sealed)) = packet.split_at_mut_checked(HEADER) else {
            return Err(Refused::Malformed);
        };
        let Some((key_id, sender, counter)) = parse(header)? else { return Err(Refused::Malformed) };
        let aad = Aad::from(additional(header, &self.me));
        self.clock += 1;
        if let Some(known) = self.senders.get_mut(&(key_id, sender)) {
            if known.window.seen(counter) {
                return Err(Refused::Replayed);
            }
            let body = known.key.open_in_place(nonce(counter), aad, sealed).map_err(|_| Refused::Forged)?;
            known.window.add(counter);
            self.heard.remove(&known.heard);
            known.heard = self.clock;
            self.heard.insert(self.clock, (key_id, sender));
            return Ok(body);
        }
        let key = self.ring.subkey(key_id, &[b"datagram", &sender]).ok_or(Refused::UnknownKey)?;
        let body = key.open_in_place(nonce(counter), aad, sealed).map_err(|_| Refused::Forged)?;
        if self.senders.len() >= MAX_SENDERS
            && let Some((_, oldest)) = self.heard.pop_first()
        {
            self.senders.remove(&oldest);
        }
        let mut window = Window::default();
        window.add(counter);
        self.senders.insert((key_id, sender), Sender { key, window, heard: self.clock });
        self.heard.insert(self.clock, (key_id, sender));
        Ok(body)
    }
}

fn parse(header: &[u8]) -> Result<Option<(WireId, SenderId, u64)>, Refused> {
    let Some((version, rest)) = header.split_first() else { return Ok(None) };
    if *version != VERSION {
        return Err(Refused::Version);
    }
    let Some((key_id, rest)) = rest.split_first_chunk::<4>() else { return Ok(None) };
    let Some((sender, rest)) = rest.split_first_chunk::<16>() else { return Ok(None) };
    let Some((counter, _)) = rest.split_first_chunk::<8>() else { return Ok(None) };
    Ok(Some((*key_id, *sender, u64::from_be_bytes(*counter))))
}

fn additional(header: &[u8], to: &str) -> Vec<u8> {
    [header, to.as_bytes()].concat()
}

/// A nonce of a counter; its key is used by one sender only.
pub(crate) fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&counter.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

/// Which of the newest [`WINDOW`] counters arrived (RFC 4303 section 3.4.3).
#[derive(Debug, Default)]
struct Window {
    /// One more than the newest counter.
    next: u64,
    bits: [u64; 4],
}

impl Window {
    /// Whether `counter` arrived already or is too old to tell.
    fn seen(&self, counter: u64) -> bool {
        if counter >= self.next {
            return false;
        }
        if self.next - counter > WINDOW {
            return true;
        }
        let (word, bit) = Self::place(counter);
        self.bits[word] & bit != 0
    }

    fn add(&mut self, counter: u64) {
        if counter >= self.next {
            // Everything between the old and the new end has not arrived.
            let fresh = (counter - self.next).min(WINDOW);
            for missed in (counter - fresh)..counter {
                let (word, bit) = Self::place(missed);
                self.bits[word] &= !bit;
            }
            self.next = counter.saturating_add(1);
        }
        let (word, bit) = Self::place(counter);
        self.bits[word] |= bit;
    }

    fn place(counter: u64) -> (usize, u64) {
        let index = counter % WINDOW;
        (usize::try_from(index / 64).unwrap_or_default(), 1 << (index % 64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keyring::{ClusterKey, tests::ring};
    use rand::{RngExt, SeedableRng, rngs::StdRng};
    use std::collections::HashSet;

    fn pair() -> (Sealer, Opener) {
        (Sealer::new(&ring(1), [7; 16]).unwrap(), Opener::new(Arc::new(ring(1)), "n2"))
    }

    #[test]
    fn a_datagram_opens_once_at_its_receiver() {
        let (mut sealer, mut opener) = pair();
        let packet = sealer.seal("n2", b"hello").unwrap();
        assert_eq!(packet.len(), OVERHEAD + 5);
        assert_eq!(opener.open(&mut packet.clone()).unwrap(), b"hello");
        assert_eq!(opener.open(&mut packet.clone()).unwrap_err(), Refused::Replayed);
        let other = sealer.seal("n3", b"hello").unwrap();
        assert_eq!(opener.open(&mut other.clone()).unwrap_err(), Refused::Forged);
        let mut stranger = Opener::new(Arc::new(ring(2)), "n2");
        assert_eq!(stranger.open(&mut packet.clone()).unwrap_err(), Refused::UnknownKey);
        let mut newer = packet.clone();
        newer[0] = 2;
        assert_eq!(opener.open(&mut newer).unwrap_err(), Refused::Version);
        assert_eq!(opener.open(&mut [0; 2000]).unwrap_err(), Refused::TooLarge);
    }

    #[test]
    fn a_ring_opens_with_its_older_keys() {
        let (old, new) = (ClusterKey::generate().unwrap(), ClusterKey::generate().unwrap());
        let mut sealer = Sealer::new(&Keyring::new([old.clone()]), [1; 16]).unwrap();
        let mut opener = Opener::new(Arc::new(Keyring::new([new.clone(), old.clone()])), "n2");
        let first = sealer.seal("n2", b"x").unwrap();
        assert_eq!(opener.open(&mut first.clone()).unwrap(), b"x");
        // There and back: no counter repeats under one key, and what was opened opens no second time.
        sealer.rekey(&Keyring::new([new.clone(), old.clone()]));
        assert_eq!(opener.open(&mut sealer.seal("n2", b"y").unwrap()).unwrap(), b"y");
        sealer.rekey(&Keyring::new([old]));
        let third = sealer.seal("n2", b"z").unwrap();
        assert_eq!(opener.open(&mut third.clone()).unwrap(), b"z");
        assert_eq!(opener.open(&mut first.clone()).unwrap_err(), Refused::Replayed);
        assert_ne!(first[21..29], third[21..29]);
        // Removed: also a sender that is known is refused.
        opener.rekey(Arc::new(Keyring::new([new])));
        assert_eq!((opener.senders.len(), opener.heard.len()), (1, 1));
        assert_eq!(opener.open(&mut sealer.seal("n2", b"x").unwrap()).unwrap_err(), Refused::UnknownKey);
    }

    #[test]
    fn the_window_remembers_exactly_what_arrived() {
        let mut rng = StdRng::seed_from_u64(5);
        let (mut window, mut model, mut top) = (Window::default(), HashSet::new(), 0u64);
        for _ in 0..20_000 {
            let jump = if rng.random_range(0..100) == 0 { 900 } else { 5 };
            let counter = (top + rng.random_range(0..jump)).saturating_sub(rng.random_range(0..300));
            let old = top > counter && top - counter > WINDOW;
            assert_eq!(window.seen(counter), old || model.contains(&counter), "{counter} of {top}");
            if !window.seen(counter) {
                window.add(counter);
                model.insert(counter);
                top = top.max(counter + 1);
            }
        }
    }

    #[test]
    fn garbage_and_altered_datagrams_are_refused() {
        let (mut sealer, mut opener) = pair();
        let mut rng = StdRng::seed_from_u64(3);
        for round in 0..5_000 {
            let mut bytes: Vec<u8> = if round % 2 == 0 {
                (0..rng.random_range(0..200)).map(|_| rng.random()).collect()
            } else {
                let mut packet = sealer.seal("n2", b"some body").unwrap();
                let at = rng.random_range(0..packet.len());
                packet[at] ^= 1 << rng.random_range(0..8);
                packet
            };
            assert!(opener.open(&mut bytes).is_err());
        }
        assert!(opener.senders.is_empty(), "nothing is remembered of what does not authenticate");
    }

    #[test]
    fn senders_are_bounded() {
        let mut opener = Opener::new(Arc::new(ring(1)), "n2");
        let shared = ring(1);
        for i in 0..(MAX_SENDERS as u64 + 10) {
            let mut id = [0; 16];
            id[..8].copy_from_slice(&i.to_be_bytes());
            let packet = Sealer::new(&shared, id).unwrap().seal("n2", b"x");
            opener.open(&mut packet.unwrap()).unwrap();
        }
        assert_eq!((opener.senders.len(), opener.heard.len()), (MAX_SENDERS, MAX_SENDERS));
    }
}
