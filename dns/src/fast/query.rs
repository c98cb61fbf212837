//! Reading a query of the plainest form.

use crate::{
    packet::{HEADER, OPT},
    zone::Label,
};

/// Most labels that a name of ours can have, and some.
const MAX_LABELS: usize = 16;
/// Most octets of a name read here, lengths and the root included. Longer ones, up to the 255 of RFC 1035 section 2.3.4,
/// are rare; the room for them would have to be cleared for every query.
const MAX_NAME: usize = 128;
/// Least octets of a UDP reply that every client takes (RFC 1035 section 4.2.1).
const PLAIN: u16 = 512;

/// One question of class IN without anything unusual: opcode QUERY, no record but an OPT of version 0 without options.
#[derive(Debug)]
pub(crate) struct Query<'p> {
    packet: &'p [u8],
    /// Where the question's type begins.
    end: usize,
    /// The name in lower case, as the packet has it: each label after its length.
    lower: [u8; MAX_NAME],
    /// Where each label begins and ends in `lower`.
    places: [(u8, u8); MAX_LABELS],
    labels: usize,
    /// QTYPE.
    pub(crate) kind: u16,
    /// With EDNS: whether DO is set.
    pub(crate) edns: Option<bool>,
    /// Most octets of a reply that the client takes.
    pub(crate) limit: u16,
}

impl<'p> Query<'p> {
    /// Reads a packet; `None` when it is of another form, and perhaps no query at all.
    pub(crate) fn read(packet: &'p [u8]) -> Option<Query<'p>> {
        let [_, _, flags, more, 0, 1, 0, 0, 0, 0, 0, additional @ 0..=1, ..] = *packet else { return None };
        // Of the flags RD, AD and CD may be set.
        if flags & !0x01 != 0 || more & !0x30 != 0 {
            return None;
        }
        let (mut lower, mut places) = ([0; MAX_NAME], [(0, 0); MAX_LABELS]);
        let (mut at, mut labels) = (HEADER, 0);
        loop {
            let length = *packet.get(at)?;
            if length == 0 {
                break;
            }
            let label = packet.get(at + 1..at + 1 + usize::from(length))?;
            // Also refuses pointers, and what leaves no room for the root.
            if length > 63 || at + 1 + label.len() - HEADER >= MAX_NAME {
                return None;
            }
            let begin = at + 1 - HEADER;
            let place = lower.get_mut(begin..begin + label.len())?;
            place.copy_from_slice(label);
            place.make_ascii_lowercase();
            *places.get_mut(labels)? = (u8::try_from(begin).ok()?, u8::try_from(begin + label.len()).ok()?);
            labels += 1;
            at += 1 + label.len();
        }
        let end = at + 1;
        let [kind_high, kind_low, 0, 1, rest @ ..] = packet.get(end..)? else { return None };
        let kind = u16::from_be_bytes([*kind_high, *kind_low]);
        let (edns, limit) = match (additional, rest) {
            (0, []) => (None, PLAIN),
            // Root, type, size, extended code 0, version 0, DO, and no options.
            (1, [0, t1, t2, s1, s2, 0, 0, z @ (0 | 0x80), 0, 0, 0])
                if u16::from_be_bytes([*t1, *t2]) == OPT =>
            {
                (Some(*z != 0), u16::from_be_bytes([*s1, *s2]).max(PLAIN))
            }
            _ => return None,
        };
        Some(Query { packet, end, lower, places, labels, kind, edns, limit })
    }

    /// The labels in lower case, leftmost first.
    pub(crate) fn labels<'a>(&'a self, into: &'a mut [Label<'a>; MAX_LABELS]) -> &'a [Label<'a>] {
        for (label, (begin, end)) in into.iter_mut().zip(self.places) {
            *label = &self.lower[usize::from(begin)..usize::from(end)];
        }
        &into[..self.labels]
    }

    /// Where in a message that repeats the question the last `labels` labels of its name begin.
    pub(crate) fn suffix(&self, labels: usize) -> u16 {
        let first = self.places[..self.labels].len().saturating_sub(labels);
        let begin = self.places.get(first).map_or(1, |(begin, _)| *begin);
        // The length octet stands before the label.
        u16::from(begin) + 11
    }

    /// The id and the flags of its second octet, of which RD stays in a reply.
    pub(crate) fn head(&self) -> ([u8; 2], u8) {
        ([self.packet[0], self.packet[1]], self.packet[2])
    }

    /// Name as it was written, type and class.
    pub(crate) fn question(&self) -> &'p [u8] {
        &self.packet[HEADER..self.end + 4]
    }
}

/// Labels, ready to be filled.
pub(crate) const NO_LABELS: [Label<'static>; MAX_LABELS] = [&[]; MAX_LABELS];
