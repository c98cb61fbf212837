//! Queries and replies as the cache sees them: octets, and where in them the TTLs are.

use crate::packet::{self, FORWARDED_UDP, HEADER, OPT, OPT_LENGTH, PLAIN_UDP, Record, question_octets};
use hickory_proto::op::ResponseCode;

/// Longest a positive answer is kept, in seconds, whatever its TTLs say (RFC 8767 section 4 asks for some such bound).
const MAX_TTL: u32 = 86_400;

/// Longest a negative answer is kept, in seconds (RFC 2308 section 5: one to three hours work well).
const MAX_NEGATIVE_TTL: u32 = 3_600;

/// TTL of a stale record (RFC 8767 section 4).
const STALE_TTL: u32 = 30;

/// A question, type, class and flags.
const MAX_KEY: usize = 255 + 4 + 1;

const SOA: u16 = 6;
/// Signatures over the message (RFC 8945, RFC 2931): such a reply is good for one client only.
const SIGNED: [u16; 2] = [250, 24];

/// A query that the cache may answer: one question of an ordinary type, RD, and nothing in EDNS that would change the
/// reply (cookies, padding and keepalive are between neighbours only; a client subnet is not, RFC 7871).
pub(super) struct Asked<'q> {
    question: &'q [u8],
    id: [u8; 2],
    key: [u8; MAX_KEY],
    key_length: usize,
    edns: Option<u16>,
    dnssec_ok: bool,
}

impl<'q> Asked<'q> {
    pub(super) fn read(query: &'q [u8]) -> Option<Self> {
        let header = query.first_chunk::<HEADER>()?;
        // A plain query that wants recursion, one question, at most one additional record.
        if header[2] & 0xfb != 1 || header[4..11] != [0, 1, 0, 0, 0, 0, 0] {
            return None;
        }
        let question = question_octets(query)?;
        let (name, kind) = question.split_last_chunk::<4>()?;
        // Meta types (RFC 6895 section 3.1) are no data; OPT is no question.
        if kind[0] == 0 && (kind[1] >= 128 || u16::from(kind[1]) == OPT) {
            return None;
        }
        let rest = &query[HEADER + question.len()..];
        let (edns, dnssec_ok) = match header[11] {
            0 if rest.is_empty() => (None, false),
            1 => {
                let (payload, dnssec_ok) = edns(rest)?;
                (Some(payload), dnssec_ok)
            }
            _ => return None,
        };
        // AD asks for the reply's AD bit (RFC 6840 section 5.7), as DO does.
        let flags = (header[3] & 0x30) | u8::from(dnssec_ok);
        let mut key = [0; MAX_KEY];
        for (to, from) in key.iter_mut().zip(name) {
            *to = from.to_ascii_lowercase();
        }
        let key_length = question.len() + 1;
        key[name.len()..question.len()].copy_from_slice(kind);
        *key.get_mut(question.len())? = flags;
        Some(Asked { question, id: [header[0], header[1]], key, key_length, edns, dnssec_ok })
    }

    /// What the reply depends on: name in lower case, type, class, AD, CD, DO.
    pub(super) fn key(&self) -> &[u8] {
        &self.key[..self.key_length]
    }
}

/// Payload size and DO bit of the OPT record that `record` is; `None` when it is anything else, or more than these.
fn edns(record: &[u8]) -> Option<(u16, bool)> {
    let ([0, 0, 41, payload @ .., 0, 0, flags, 0], rest) = record.split_first_chunk::<9>()? else {
        return None;
    };
    let (length, mut options) = rest.split_first_chunk::<2>()?;
    if flags & 0x7f != 0 || usize::from(u16::from_be_bytes(*length)) != options.len() {
        return None;
    }
    while !options.is_empty() {
        let ([0, 10..=12, length @ ..], data) = options.split_first_chunk::<4>()? else { return None };
        options = data.get(usize::from(u16::from_be_bytes(*length))..)?;
    }
    Some((u16::from_be_bytes(*payload), flags & 0x80 != 0))
}

/// A reply worth keeping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kept {
    /// The message without OPT, which is between neighbours.
    octets: Box<[u8]>,
    /// Where the TTLs are.
    ttls: Box<[u16]>,
    /// Seconds it is fresh.
    pub(super) ttl: u32,
    /// NXDOMAIN or no data.
    pub(super) negative: bool,
    pub(super) rcode: ResponseCode,
}

impl Kept {
    /// `reply`, which fits its query, if it may be kept: whole, NOERROR or NXDOMAIN, well-formed to its last octet,
    /// every TTL above 0, and when negative with the SOA that says how long (RFC 2308 section 5).
    pub(super) fn of(reply: &[u8]) -> Option<Self> {
        let header = reply.first_chunk::<HEADER>()?;
        let rcode = ResponseCode::from_low(header[3] & 0x0f);
        if header[2] & 0x02 != 0 || !matches!(rcode, ResponseCode::NoError | ResponseCode::NXDomain) {
            return None;
        }
        let count = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        let (answers, authority, additional) = (count(6), count(8), count(10));
        let mut octets = reply.to_vec();
        let mut at = HEADER + question_octets(reply)?.len();
        let (mut ttls, mut ttl, mut soa) = (Vec::new(), u32::MAX, false);
        for (section, records) in [answers, authority, additional].into_iter().enumerate() {
            for _ in 0..records {
                let record = Record::read(reply, at)?;
                match record.kind {
                    OPT => {
                        // The last of all, and no extended response code; then it is cut off.
                        if record.end != reply.len() || record.ttl >> 24 != 0 || additional == 0 {
                            return None;
                        }
                        octets.truncate(at);
                        octets[10..12].copy_from_slice(&(additional - 1).to_be_bytes());
                        at = record.end;
                        continue;
                    }
                    kind if SIGNED.contains(&kind) => return None,
                    SOA if section == 1 => {
                        // Two names, then five numbers, the last of which is the minimum.
                        let minimum = *reply.get(record.data..record.end)?.last_chunk::<4>()?;
                        if record.end - record.data < 22 {
                            return None;
                        }
                        soa = true;
                        ttl = ttl.min(u32::from_be_bytes(minimum));
                    }
                    _ => {}
                }
                // What has the first bit set counts as 0 (RFC 2181 section 8).
                ttl = ttl.min(if record.ttl >> 31 == 0 { record.ttl } else { 0 });
                ttls.push(u16::try_from(record.ttl_at).ok()?);
                at = record.end;
            }
        }
        // An alias may lead to a name without data: then answers and SOA stand together.
        let negative = soa || answers == 0 || rcode == ResponseCode::NXDomain;
        let ttl = ttl.min(if negative { MAX_NEGATIVE_TTL } else { MAX_TTL });
        if at != reply.len() || ttl == 0 || (negative && !soa) {
            return None;
        }
        // From a cache it is not authoritative.
        octets[2] &= !0x04;
        if negative {
            // The client shall not keep it longer than we do.
            for at in ttls.iter().map(|at| usize::from(*at)) {
                let own = u32::from_be_bytes(*octets.get(at..)?.first_chunk()?);
                octets[at..at + 4].copy_from_slice(&own.min(ttl).to_be_bytes());
            }
        }
        Some(Kept { octets: octets.into(), ttls: ttls.into(), ttl, negative, rcode })
    }

    /// Octets it takes, about.
    pub(super) fn size(&self) -> usize {
        self.octets.len() + self.ttls.len() * 2
    }

    /// The reply to `asked`, `age` seconds later, in place of what `out` holds: its id, the case of its question, its
    /// EDNS, the TTLs counted down; `None` is stale, and says so. Over `udp` it is cut to header
    /// and question, with TC, when it is longer than the client takes.
    pub(super) fn render(&self, asked: &Asked<'_>, age: Option<u32>, udp: bool, out: &mut Vec<u8>) {
        out.clear();
        out.extend_from_slice(&self.octets);
        let limit = match asked.edns {
            _ if !udp => usize::from(u16::MAX),
            None => PLAIN_UDP,
            Some(payload) => usize::from(payload).clamp(PLAIN_UDP, FORWARDED_UDP),
        };
        let (opt, length) = opt(asked, age.is_none(), self.rcode);
        let mut opt = &opt[..length];
        if !udp && out.len() + opt.len() > limit {
            // Where a message can be no longer, the answer is more than OPT.
            opt = &[];
        }
        if out.len() + opt.len() > limit {
            out.truncate(HEADER + asked.question.len());
            out[2] |= 0x02;
            out[6..HEADER].fill(0);
        } else {
            for at in self.ttls.iter().map(|at| usize::from(*at)) {
                let Some(ttl) = out[at..].first_chunk_mut::<4>() else { continue };
                let own = u32::from_be_bytes(*ttl);
                *ttl = age.map_or(STALE_TTL, |age| own.saturating_sub(age)).to_be_bytes();
            }
        }
        out[..2].copy_from_slice(&asked.id);
        out[HEADER..HEADER + asked.question.len()].copy_from_slice(asked.question);
        if !opt.is_empty() {
            out.extend_from_slice(opt);
            let additional = u16::from_be_bytes([out[10], out[11]]).wrapping_add(1);
            out[10..12].copy_from_slice(&additional.to_be_bytes());
        }
    }
}

/// Octets of the option that says why a reply is as it is, without text (RFC 8914 section 2).
const WHY_LENGTH: usize = 6;

/// OPT for a client that sent one, and its length; 0 for others. What is stale it calls so (RFC 8914 sections 4.4 and
/// 4.20).
fn opt(asked: &Asked<'_>, stale: bool, rcode: ResponseCode) -> ([u8; OPT_LENGTH + WHY_LENGTH], usize) {
    let mut opt = [0; OPT_LENGTH + WHY_LENGTH];
    opt[..OPT_LENGTH].copy_from_slice(&packet::opt(asked.dnssec_ok));
    if asked.edns.is_none() || !stale {
        return (opt, if asked.edns.is_some() { OPT_LENGTH } else { 0 });
    }
    let why = if rcode == ResponseCode::NXDomain { 19 } else { 3 };
    opt[OPT_LENGTH - 1..].copy_from_slice(&[6, 0, 15, 0, 2, 0, why]);
    (opt, OPT_LENGTH + WHY_LENGTH)
}

#[cfg(test)]
pub(super) mod tests;
