//! From raw packet to request, and from sections to raw reply. Parsing and encoding are hickory's.

use crate::{
    answer::{Answer, Question},
    packet::{self, HEADER, PLAIN_UDP, SAFE_UDP, question_octets},
};
use hickory_proto::{
    ProtoError,
    op::{Edns, Metadata, ResponseCode},
    rr::Record,
    serialize::binary::BinEncoder,
};
use hickory_server::{net::xfer::Protocol, server::Request, zone_handler::MessageResponseBuilder};
use std::net::SocketAddr;

/// A packet, looked at.
#[derive(Debug)]
pub(crate) enum Screened {
    /// Nothing to answer: no header, or itself a response (answering could make two servers chat for ever).
    Drop,
    /// Not a query that can be answered: this reply, with this code.
    Reply(Vec<u8>, ResponseCode),
    /// One question.
    Query(Box<Request>),
}

/// Looks at a packet. Nothing is allocated in proportion to what its header claims, only to its own size.
pub(crate) fn screen(packet: &[u8], client: SocketAddr) -> Screened {
    let Some(header) = packet.first_chunk::<HEADER>() else { return Screened::Drop };
    let [_, _, flags, _, questions @ ..] = header;
    if flags & 0x80 != 0 {
        return Screened::Drop;
    }
    if flags & 0x78 != 0 {
        return error(packet, header, ResponseCode::NotImp);
    }
    if questions[..2] != [0, 1] {
        return error(packet, header, ResponseCode::FormErr);
    }
    match Request::from_bytes(packet.to_vec(), client, Protocol::Udp) {
        Ok(request) if request.queries.len() == 1 => Screened::Query(Box::new(request)),
        _ => error(packet, header, ResponseCode::FormErr),
    }
}

/// A reply without the question, which may be what could not be read.
fn error(packet: &[u8], header: &[u8; HEADER], rcode: ResponseCode) -> Screened {
    Screened::Reply(bare(packet, header, None, rcode), rcode)
}

/// A reply with this code to a query that nobody has read further, with its question if that is plain; no longer than
/// the query. `None` when the packet is no query.
pub(crate) fn unread(packet: &[u8], rcode: ResponseCode) -> Option<Vec<u8>> {
    let header = packet.first_chunk()?;
    (header[2] & 0x80 == 0).then(|| bare(packet, header, question_octets(packet), rcode))
}

/// A header, the question if it is to be there, and OPT where the query has one (RFC 6891 section 7).
fn bare(packet: &[u8], header: &[u8; HEADER], question: Option<&[u8]>, rcode: ResponseCode) -> Vec<u8> {
    let mut reply = header.to_vec();
    // QR, the query's opcode and RD.
    reply[2] = 0x80 | (header[2] & 0x79);
    reply[3] = rcode.low();
    reply[4..].fill(0);
    if let Some(question) = question {
        reply[5] = 1;
        reply.extend_from_slice(question);
    }
    push_opt(&mut reply, packet::edns(packet));
    reply
}

/// Adds OPT to a message without additional records, for a client that sent one: `edns` is its DO bit.
fn push_opt(reply: &mut Vec<u8>, edns: Option<bool>) {
    if let Some(dnssec_ok) = edns {
        reply[11] = 1;
        reply.extend_from_slice(&packet::opt(dnssec_ok));
    }
}

/// The question of a screened request.
pub(crate) fn question(request: &Request) -> Option<Question> {
    let query = request.queries.queries().first()?.original();
    Some(Question::new(query.name().clone(), query.query_type()).in_class(query.query_class()))
}

/// The DO bit of a screened request; `None` without EDNS.
pub(crate) fn edns(request: &Request) -> Option<bool> {
    request.edns.as_ref().map(|edns| edns.flags().dnssec_ok)
}

/// Most octets that `request`'s sender takes over UDP: what it advertised (RFC 6891 section 6.2.3), 512 without EDNS.
pub(crate) fn advertised(request: &Request) -> usize {
    request.edns.as_ref().map_or(PLAIN_UDP, |edns| usize::from(edns.max_payload()).max(PLAIN_UDP))
}

/// Encodes the reply to `request`; `udp` bounds its size by what the client takes, and sets TC when records are
/// missing; over TCP, where asking again would help nobody, what fits is the answer. The question is echoed as it came, case included. Falls back to SERVFAIL should encoding fail.
pub(crate) fn reply(
    request: &Request,
    answer: &Answer,
    udp: bool,
    recursion: bool,
) -> (Vec<u8>, ResponseCode) {
    let mut meta = Metadata::response_from_request(&request.metadata);
    meta.recursion_available = recursion;
    meta.checking_disabled = false;
    meta.response_code = answer.rcode;
    meta.authoritative = matches!(answer.rcode, ResponseCode::NoError | ResponseCode::NXDomain);
    let edns = edns(request).map(|dnssec_ok| {
        let mut edns = Edns::new();
        edns.set_max_payload(SAFE_UDP);
        // Copied back as it came (RFC 3225 section 3).
        edns.set_dnssec_ok(dnssec_ok);
        edns
    });
    let limit = match udp {
        true => u16::try_from(advertised(request)).unwrap_or(SAFE_UDP).min(SAFE_UDP),
        false => u16::MAX,
    };
    let draft = Draft { request, meta, edns: edns.as_ref(), limit, udp };
    draft.fitted(answer).unwrap_or_else(|_| (draft.failed(), ResponseCode::ServFail))
}

/// All of a reply but its records.
struct Draft<'r> {
    request: &'r Request,
    meta: Metadata,
    edns: Option<&'r Edns>,
    limit: u16,
    udp: bool,
}

impl Draft<'_> {
    /// Whole if it fits; else without the additional section, which alone does not make a reply truncated (RFC 2181
    /// section 9); else, with TC over UDP, as many answers as leave room for OPT.
    fn fitted(&self, answer: &Answer) -> Result<(Vec<u8>, ResponseCode), ProtoError> {
        let (bytes, whole, written) =
            self.encode(&answer.answers, &answer.authority, &answer.additional, false)?;
        if whole {
            return Ok((bytes, answer.rcode));
        }
        let (bytes, whole, _) = self.encode(&answer.answers, &answer.authority, &[], false)?;
        if whole {
            return Ok((bytes, answer.rcode));
        }
        // OPT is no longer than the shortest record, so leaving one out makes room for it.
        let spare = usize::from(self.edns.is_some());
        let kept = written.min(answer.answers.len()).saturating_sub(spare);
        let (bytes, ..) = self.encode(&answer.answers[..kept], &[], &[], self.udp)?;
        Ok((bytes, answer.rcode))
    }

    /// The octets, whether all records are in them, and how many answers are.
    fn encode(
        &self,
        answers: &[Record],
        authority: &[Record],
        additional: &[Record],
        truncated: bool,
    ) -> Result<(Vec<u8>, bool, usize), ProtoError> {
        let mut meta = self.meta;
        meta.truncation = truncated;
        let mut builder = MessageResponseBuilder::from_message_request(self.request);
        if let Some(edns) = self.edns {
            builder.edns(edns);
        }
        let message = builder.build(meta, answers, authority, &[], additional);
        let mut bytes = Vec::with_capacity(PLAIN_UDP);
        let mut encoder = BinEncoder::new(&mut bytes);
        encoder.set_max_size(self.limit);
        let info = message.destructive_emit(&mut encoder)?;
        let (cut, written) = (info.truncation, usize::from(info.counts().answers));
        Ok((bytes, !cut, written))
    }

    /// SERVFAIL without a record but OPT.
    fn failed(&self) -> Vec<u8> {
        let mut meta = self.meta;
        meta.response_code = ResponseCode::ServFail;
        meta.authoritative = false;
        let draft = Draft { meta, ..*self };
        draft.encode(&[], &[], &[], false).map_or_else(|_| Vec::new(), |(bytes, ..)| bytes)
    }
}

/// Header and question of `reply` with TC set and no records but, for a client with EDNS, whose DO bit `edns` is, OPT:
/// what it gets over UDP of a reply too long for it.
pub(crate) fn truncated(reply: &[u8], edns: Option<bool>) -> Option<Vec<u8>> {
    let question = question_octets(reply)?;
    let mut short = reply.get(..HEADER)?.to_vec();
    short[2] |= 0x02;
    short[6..].fill(0);
    short.extend_from_slice(question);
    push_opt(&mut short, edns);
    Some(short)
}
