//! Probes in short. In a mesh at rest nothing else is sent, so every byte counts: two members that know each other name
//! each other by marks instead of whole identities, and say the time and a digest of what they hold beside it.
//!
//! ```text
//! to 4 | from 4 | clock 6 | digest 4 | number 1 | incarnation 2 | foca's updates
//! ```

use crate::member::{Identity, Member};
use foca::{Header, Message};

/// A probe, or the answer to one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Probe {
    /// Mark of the receiver.
    pub(crate) to: u32,
    /// Mark of the sender.
    pub(crate) from: u32,
    /// The sender's wall clock, Unix milliseconds (48 bits: until the year 10889).
    pub(crate) wall: u64,
    /// Equal on two nodes when they hold the same records and know the same members to be up.
    pub(crate) digest: u32,
    /// Whether this is the answer.
    pub(crate) ack: bool,
    number: u8,
    incarnation: u16,
}

const LENGTH: usize = 4 + 4 + 6 + 4 + 1 + 2;

impl Probe {
    /// The short form of a foca message, with the updates that follow it; `None` if it is no plain probe or answer.
    pub(crate) fn shorten(message: &[u8], wall: u64, digest: u32) -> Option<(Probe, &[u8])> {
        let (header, rest): (Header<Identity>, _) = postcard::take_from_bytes(message).ok()?;
        let (ack, number) = match header.message {
            Message::Ping(number) => (false, number),
            Message::Ack(number) => (true, number),
            _ => return None,
        };
        let (to, from, incarnation) = (header.dst.mark(), header.src.mark(), header.src_incarnation);
        Some((Probe { to, from, wall, digest, ack, number, incarnation }, rest))
    }

    /// The wire form, with foca's `updates`.
    pub(crate) fn encode(&self, updates: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(LENGTH + updates.len());
        out.extend_from_slice(&self.to.to_be_bytes());
        out.extend_from_slice(&self.from.to_be_bytes());
        out.extend_from_slice(&self.wall.to_be_bytes()[2..]);
        out.extend_from_slice(&self.digest.to_be_bytes());
        out.push(self.number);
        out.extend_from_slice(&self.incarnation.to_be_bytes());
        // An empty list of updates says nothing.
        out.extend_from_slice(if updates == [0, 0] { &[] } else { updates });
        out
    }

    /// Reads the wire form; returns the updates too.
    pub(crate) fn decode(bytes: &[u8], ack: bool) -> Option<(Probe, &[u8])> {
        let (to, rest) = bytes.split_first_chunk()?;
        let (from, rest) = rest.split_first_chunk()?;
        let ([a, b, c, d, e, f], rest) = rest.split_first_chunk()?;
        let (digest, rest) = rest.split_first_chunk()?;
        let ([number], rest) = rest.split_first_chunk()?;
        let (incarnation, rest) = rest.split_first_chunk()?;
        let probe = Probe {
            to: u32::from_be_bytes(*to),
            from: u32::from_be_bytes(*from),
            wall: u64::from_be_bytes([0, 0, *a, *b, *c, *d, *e, *f]),
            digest: u32::from_be_bytes(*digest),
            ack,
            number: *number,
            incarnation: u16::from_be_bytes(*incarnation),
        };
        Some((probe, rest))
    }

    /// The foca message again.
    pub(crate) fn lengthen(&self, src: Identity, dst: Identity, updates: &[u8]) -> Option<Vec<u8>> {
        let message = if self.ack { Message::Ack(self.number) } else { Message::Ping(self.number) };
        let header = Header { src, src_incarnation: self.incarnation, dst, message };
        let mut bytes = postcard::to_stdvec(&header).ok()?;
        bytes.extend_from_slice(updates);
        Some(bytes)
    }
}

/// Sender and receiver of a foca message.
pub(crate) fn ends(message: &[u8]) -> Option<(Identity, Identity)> {
    let (header, _): (Header<Identity>, _) = postcard::take_from_bytes(message).ok()?;
    Some((header.src, header.dst))
}

/// A foca message without the members that are `unwanted`; `None` if its sender is, or if it is malformed.
pub(crate) fn without(message: &[u8], unwanted: impl Fn(&Identity) -> bool) -> Option<Vec<u8>> {
    let (header, rest): (Header<Identity>, _) = postcard::take_from_bytes(message).ok()?;
    if unwanted(&header.src) {
        return None;
    }
    let mut kept = message[..message.len() - rest.len()].to_vec();
    let Some((count, mut rest)) = rest.split_first_chunk() else { return Some(kept) };
    let mut members: Vec<Vec<u8>> = Vec::new();
    for _ in 0..u16::from_be_bytes(*count) {
        let (member, after): (Member, _) = postcard::take_from_bytes(rest).ok()?;
        if !unwanted(member.id()) {
            members.push(rest[..rest.len() - after.len()].to_vec());
        }
        rest = after;
    }
    kept.extend_from_slice(&u16::try_from(members.len()).unwrap_or_default().to_be_bytes());
    kept.extend(members.into_iter().flatten());
    Some(kept)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Name;
    use rand::{RngExt, SeedableRng, rngs::StdRng};

    fn id(name: &str, port: u16) -> Identity {
        Identity {
            name: Name::new(name).unwrap(),
            addr: ([10, 0, 0, 1], port).into(),
            epoch: 1_790_000_000_000,
        }
    }

    fn message(message: Message<Identity>, members: &[Member]) -> Vec<u8> {
        let header = Header { src: id("a", 1), src_incarnation: 3, dst: id("b", 2), message };
        let mut bytes = postcard::to_stdvec(&header).unwrap();
        bytes.extend_from_slice(&u16::try_from(members.len()).unwrap().to_be_bytes());
        members.iter().for_each(|m| bytes.extend(postcard::to_stdvec(m).unwrap()));
        bytes
    }

    #[test]
    fn a_probe_survives_the_short_form() {
        let news = [Member::down(id("c", 3))];
        for (long, short) in [
            (message(Message::Ping(7), &[]), LENGTH),
            (message(Message::Ack(8), &news), LENGTH + 2 + postcard::to_stdvec(&news[0]).unwrap().len()),
        ] {
            let (probe, updates) = Probe::shorten(&long, 1_790_000_000_123, 5).unwrap();
            let wire = probe.encode(updates);
            assert_eq!(wire.len(), short);
            let (read, updates) = Probe::decode(&wire, probe.ack).unwrap();
            assert_eq!((read, read.wall), (probe, 1_790_000_000_123));
            let updates = if updates.is_empty() { &[0, 0] } else { updates };
            assert_eq!(read.lengthen(id("a", 1), id("b", 2), updates).unwrap(), long);
        }
        assert_eq!(Probe::shorten(&message(Message::Announce, &[]), 0, 0), None);
    }

    #[test]
    fn unwanted_members_are_taken_out_and_no_bytes_make_it_panic() {
        let news = [Member::down(id("c", 3)), Member::alive(id("d", 4))];
        let both = message(Message::Gossip, &news);
        let one = without(&both, |id| id.addr.port() == 3).unwrap();
        assert_eq!(one, message(Message::Gossip, &news[1..]));
        assert_eq!(without(&both, |id| id.addr.port() == 1), None);
        let mut rng = StdRng::seed_from_u64(41);
        for _ in 0..20_000 {
            let mut bytes = both.clone();
            for _ in 0..rng.random_range(0..4) {
                let at = rng.random_range(0..bytes.len());
                bytes[at] = rng.random();
            }
            bytes.truncate(rng.random_range(0..=bytes.len()));
            let _ = (without(&bytes, |_| false), Probe::decode(&bytes, false), ends(&bytes));
            let _ = Probe::shorten(&bytes, 0, 0);
        }
    }
}
