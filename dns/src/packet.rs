//! Where the parts of a message are, for those who need a few octets of it only (RFC 1035 section 4.1).

/// Octets of a header (RFC 1035 section 4.1.1).
pub(crate) const HEADER: usize = 12;

/// Most octets of a UDP reply without EDNS (RFC 1035 section 4.2.1).
pub(crate) const PLAIN_UDP: usize = 512;

/// Most octets of our own UDP replies, and what we tell clients they may send: no fragment on any usual path (DNS
/// flag day 2020).
pub(crate) const SAFE_UDP: u16 = 1232;

/// Most octets of an upstream's reply that goes to a UDP client, whatever the client takes: no longer one comes from
/// an upstream over UDP, and what is fetched over TCP may be longer than any datagram.
pub(crate) const FORWARDED_UDP: usize = 4096;

/// OPT's type (RFC 6891 section 6.1.2).
pub(crate) const OPT: u16 = 41;

/// Octets of an OPT record without options.
pub(crate) const OPT_LENGTH: usize = 11;

/// Where the parts of a resource record are (RFC 1035 section 4.1.3).
pub(crate) struct Record {
    pub(crate) kind: u16,
    pub(crate) ttl: u32,
    pub(crate) ttl_at: usize,
    pub(crate) data: usize,
    pub(crate) end: usize,
}

impl Record {
    /// The one whose name begins at `at`; `None` when it is not whole.
    pub(crate) fn read(message: &[u8], at: usize) -> Option<Record> {
        let at = after_name(message, at)?;
        let fixed = message.get(at..)?.first_chunk::<10>()?;
        let [k0, k1, _, _, t0, t1, t2, t3, l0, l1] = *fixed;
        let data = at + 10;
        let end = data + usize::from(u16::from_be_bytes([l0, l1]));
        let kind = u16::from_be_bytes([k0, k1]);
        (end <= message.len()).then_some(Record {
            kind,
            ttl: u32::from_be_bytes([t0, t1, t2, t3]),
            ttl_at: at + 4,
            data,
            end,
        })
    }
}

/// Where the name that begins at `at` ends.
fn after_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match usize::from(*message.get(at)?) {
            0 => return Some(at + 1),
            length @ 1..=63 => at += 1 + length,
            192..=255 => return Some(at + 2),
            _ => return None,
        }
    }
}

/// The DO bit of a message's OPT record, whatever its opcode and version; `None` where there is none, or something
/// before it cannot be read. Takes time in proportion to the packet, not to what its header claims.
pub(crate) fn edns(packet: &[u8]) -> Option<bool> {
    let header = packet.first_chunk::<HEADER>()?;
    let count = |at: usize| u32::from(u16::from_be_bytes([header[at], header[at + 1]]));
    let mut at = HEADER;
    for _ in 0..count(4) {
        at = after_name(packet, at)? + 4;
    }
    let others = count(6) + count(8);
    for place in 0..others + count(10) {
        let record = Record::read(packet, at)?;
        if place >= others && record.kind == OPT && packet[at] == 0 {
            return Some(record.ttl & 0x8000 != 0);
        }
        at = record.end;
    }
    None
}

/// Our own OPT: version 0, the size we take, and the DO bit as it came (RFC 3225 section 3).
pub(crate) fn opt(dnssec_ok: bool) -> [u8; OPT_LENGTH] {
    let ([_, kind], [high, low]) = (OPT.to_be_bytes(), SAFE_UDP.to_be_bytes());
    [0, 0, kind, high, low, 0, 0, if dnssec_ok { 0x80 } else { 0 }, 0, 0, 0]
}

/// The octets of a packet's first question, header excluded; `None` when it is not one question with a plain name.
pub(crate) fn question_octets(packet: &[u8]) -> Option<&[u8]> {
    if packet.get(4..6)? != [0, 1] {
        return None;
    }
    let mut at = HEADER;
    loop {
        match usize::from(*packet.get(at)?) {
            0 => break,
            // A pointer here could only point into the header.
            length @ 1..=63 => at += 1 + length,
            _ => return None,
        }
        if at - HEADER > 254 {
            return None;
        }
    }
    packet.get(HEADER..at + 5)
}
