//! Writing a reply (RFC 1035 section 4): header, the question as it came, and records that point into it.

use super::query::{NO_LABELS, Query};
use crate::{
    answer::{AnswerOptions, Found},
    index::AddressList,
    packet::{self, OPT, SAFE_UDP},
    records::{MAX_ANSWERS, MAX_TTL, rotated},
    resolve::Target,
    scope::{Scope, Seen},
    view::DnsView,
    zone::{NAME_SERVER, Zone},
};
use hickory_proto::op::ResponseCode;
use std::net::IpAddr;

/// Record types (RFC 1035 section 3.2.2, RFC 3596 section 2.1).
const A: u16 = 1;
const SOA: u16 = 6;
const TXT: u16 = 16;
const AAAA: u16 = 28;
const SRV: u16 = 33;
/// From here to 255 types are of questions only, and have rules of their own.
const QUESTIONS_ONLY: u16 = 128;
/// Points at the question's name.
const OWNER: u16 = 0xc00c;

/// What replies depend on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Context<'v> {
    /// The services.
    pub(crate) view: &'v DnsView,
    /// The zone and its defaults.
    pub(crate) options: &'v AnswerOptions,
    /// What the asker sees.
    pub(crate) scope: &'v Scope,
    /// Whether other names are forwarded.
    pub(crate) recursion: bool,
}

/// What became of a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The reply, with this code, is written.
    Written(ResponseCode),
    /// The name is neither ours nor one of an address: a cache may know it.
    NotOurs,
    /// Not for the fast path.
    Unusual,
}

/// Writes the reply to `query` into `out`, which is emptied first; `seed` decides where lists of addresses begin. What
/// `out` holds is of no use when none is written.
pub(crate) fn reply(context: &Context<'_>, query: &Query<'_>, seed: u64, out: &mut Vec<u8>) -> Outcome {
    let kind = query.kind;
    if kind == OPT || kind == 0 || (QUESTIONS_ONLY..=255).contains(&kind) {
        return Outcome::Unusual;
    }
    let seen = Seen::new(context.view, context.scope);
    let mut labels = NO_LABELS;
    let labels = query.labels(&mut labels);
    match context.options.find(seen, labels) {
        Some(_) if context.view.is_expired() => Outcome::Unusual,
        Some(found) => write(context, query, &found, seed, out).map_or(Outcome::Unusual, Outcome::Written),
        None if labels.last() == Some(&&b"arpa"[..]) => Outcome::Unusual,
        None => Outcome::NotOurs,
    }
}

fn write(
    context: &Context<'_>,
    query: &Query<'_>,
    found: &Found<'_>,
    seed: u64,
    out: &mut Vec<u8>,
) -> Option<ResponseCode> {
    let kind = query.kind;
    let entry = found.target.entry();
    let options = context.options;
    let ttl = entry.and_then(|entry| entry.ttl).unwrap_or(options.ttl).min(MAX_TTL);
    let ([id0, id1], flags) = query.head();
    out.clear();
    // QR, AA and the query's RD; RA. The counts are put right in the end.
    out.extend_from_slice(&[id0, id1, 0x84 | flags, if context.recursion { 0x80 } else { 0 }]);
    out.extend_from_slice(&[0, 1, 0, 0, 0, 0, 0, u8::from(query.edns.is_some())]);
    out.extend_from_slice(query.question());
    let mut answers: u16 = 0;
    let mut put = |out: &mut Vec<u8>, address: IpAddr| {
        match address {
            IpAddr::V4(a) if kind == A => record(out, kind, ttl, &a.octets()),
            IpAddr::V6(a) if kind == AAAA => record(out, kind, ttl, &a.octets()),
            _ => return,
        }
        answers += 1;
    };
    match found.target {
        Target::Apex | Target::NameServer | Target::Version | Target::External(_) => return None,
        Target::Service(_) if matches!(kind, TXT | SRV) => return None,
        Target::Port { .. } if kind == SRV => return None,
        // Addresses that repeat are found in the common way.
        Target::Instance(_, [_, _, ..]) => return None,
        Target::Service(_) | Target::Tasks(_) => {
            let room = usize::from(query.limit.min(SAFE_UDP));
            for address in addresses(&found.target.lists(), kind, seed) {
                if out.len() > room {
                    return None;
                }
                put(out, address);
            }
        }
        Target::Instance(_, endpoints) => {
            let ready = endpoints.iter().filter(|e| e.endpoint.ready);
            ready.flat_map(|e| e.endpoint.addresses.iter()).for_each(|address| put(out, address));
        }
        Target::Address(_, address) => put(out, address),
        Target::Port { .. } | Target::Empty | Target::Absent => {}
    }
    let absent = matches!(found.target, Target::Absent);
    if answers == 0 {
        let negative_ttl =
            entry.and_then(|entry| entry.negative_ttl).unwrap_or(options.negative_ttl).min(MAX_TTL);
        authority(out, query, found, negative_ttl, context.view.revision());
    }
    let code = if absent { ResponseCode::NXDomain } else { ResponseCode::NoError };
    out[3] |= code.low();
    out[6..8].copy_from_slice(&answers.to_be_bytes());
    out[9] = u8::from(answers == 0);
    if let Some(dnssec) = query.edns {
        out.extend_from_slice(&packet::opt(dnssec));
    }
    (out.len() <= usize::from(query.limit.min(SAFE_UDP))).then_some(code)
}

/// The addresses of `lists` of the family that `kind` asks for, one list after the other, each from `seed` on.
fn addresses(lists: &[&AddressList; 2], kind: u16, seed: u64) -> impl Iterator<Item = IpAddr> {
    let v4 = move |list: &AddressList| kind == A && !list.v4.is_empty();
    let v6 = move |list: &AddressList| kind == AAAA && !list.v6.is_empty();
    let of = move |list| {
        let (list4, list6): (&[_], &[_]) = match list {
            list if v4(list) => (&list.v4, &[]),
            list if v6(list) => (&[], &list.v6),
            _ => (&[], &[]),
        };
        let list4 = rotated(list4, seed).map(|a| IpAddr::V4(*a));
        list4.chain(rotated(list6, seed).map(|a| IpAddr::V6(*a)))
    };
    of(lists[0]).chain(of(lists[1])).take(MAX_ANSWERS)
}

/// A record of the question's name in class IN.
fn record(out: &mut Vec<u8>, kind: u16, ttl: u32, data: &[u8]) {
    header(out, OWNER, kind, ttl);
    out.extend_from_slice(&u16::try_from(data.len()).unwrap_or(0).to_be_bytes());
    out.extend_from_slice(data);
}

fn header(out: &mut Vec<u8>, owner: u16, kind: u16, ttl: u32) {
    let mut fixed = [0; 10];
    fixed[..2].copy_from_slice(&owner.to_be_bytes());
    fixed[2..4].copy_from_slice(&kind.to_be_bytes());
    fixed[5] = 1;
    fixed[6..].copy_from_slice(&ttl.to_be_bytes());
    out.extend_from_slice(&fixed);
}

/// The SOA of a negative answer, as [`crate::records::start_of_authority`] says it.
fn authority(out: &mut Vec<u8>, query: &Query<'_>, found: &Found<'_>, ttl: u32, revision: u64) {
    let zone = found.naming.zone;
    // A name without the zone is its own apex, and there the zone's name stands nowhere yet.
    let apex = if found.bare { None } else { Some(0xc000 | query.suffix(zone.origin().iter().len())) };
    header(out, apex.unwrap_or(OWNER), SOA, ttl);
    let length = out.len();
    out.extend_from_slice(&[0, 0]);
    let (ns, mail): (&[&str], &[&str]) = (&NAME_SERVER, &["hostmaster"]);
    let mut written = apex;
    for labels in [ns, mail] {
        for label in labels {
            push_label(out, label.as_bytes());
        }
        match written {
            Some(at) => out.extend_from_slice(&at.to_be_bytes()),
            None => written = Some(push_zone(out, zone)),
        }
    }
    let serial = u32::try_from(revision & u64::from(u32::MAX)).unwrap_or(u32::MAX);
    for number in [serial, 60, 60, 600, ttl] {
        out.extend_from_slice(&number.to_be_bytes());
    }
    let size = u16::try_from(out.len() - length - 2).unwrap_or(0);
    out[length..length + 2].copy_from_slice(&size.to_be_bytes());
}

fn push_label(out: &mut Vec<u8>, label: &[u8]) {
    out.push(u8::try_from(label.len()).unwrap_or(0));
    out.extend_from_slice(label);
}

/// Writes the zone's name in full; a pointer to it.
fn push_zone(out: &mut Vec<u8>, zone: &Zone) -> u16 {
    let at = u16::try_from(out.len()).unwrap_or(0);
    zone.origin().iter().for_each(|label| push_label(out, label));
    out.push(0);
    0xc000 | at
}
