//! A flow as the kernel tracks it, read from the attributes of uapi `linux/netfilter/nfnetlink_conntrack.h`.

use crate::sys::nfnetlink::{Attributes, Request};
use std::net::IpAddr;

/// Bits of [`FlowEntry::status`] (`enum ip_conntrack_status`).
pub mod status {
    /// Packets were seen in both directions.
    pub const SEEN_REPLY: u32 = 1 << 1;
    /// A full table does not drop it early.
    pub const ASSURED: u32 = 1 << 2;
    /// The source is translated.
    pub const SRC_NAT: u32 = 1 << 4;
    /// The destination is translated.
    pub const DST_NAT: u32 = 1 << 5;
    /// It is on its way out.
    pub const DYING: u32 = 1 << 9;
}

const IPPROTO_ICMP: u8 = 1;
const IPPROTO_ICMPV6: u8 = 58;

pub(super) const CTA_TUPLE_ORIG: u16 = 1;
pub(super) const CTA_TUPLE_REPLY: u16 = 2;
pub(super) const CTA_STATUS: u16 = 3;
const CTA_PROTOINFO: u16 = 4;
pub(super) const CTA_TIMEOUT: u16 = 7;
pub(super) const CTA_MARK: u16 = 8;
const CTA_COUNTERS_ORIG: u16 = 9;
const CTA_COUNTERS_REPLY: u16 = 10;
pub(super) const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;

pub(super) const CTA_TUPLE_IP: u16 = 1;
pub(super) const CTA_TUPLE_PROTO: u16 = 2;
const CTA_TUPLE_ZONE: u16 = 3;
pub(super) const CTA_IP_V4_SRC: u16 = 1;
pub(super) const CTA_IP_V4_DST: u16 = 2;
pub(super) const CTA_IP_V6_SRC: u16 = 3;
pub(super) const CTA_IP_V6_DST: u16 = 4;
pub(super) const CTA_PROTO_NUM: u16 = 1;
pub(super) const CTA_PROTO_SRC_PORT: u16 = 2;
pub(super) const CTA_PROTO_DST_PORT: u16 = 3;
/// `CTA_PROTO_ICMP_ID`; type and code follow it.
const CTA_PROTO_ICMP: u16 = 4;
const CTA_PROTO_ICMPV6: u16 = 7;

/// One direction of a flow.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Tuple {
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// IP protocol number (`IPPROTO_*`).
    pub proto: u8,
    /// Source port; of ICMP the id, as the kernel keeps it; 0 where there is none.
    pub sport: u16,
    /// Destination port; of ICMP type × 256 + code; 0 where there is none.
    pub dport: u16,
}

impl Tuple {
    fn read(attributes: Attributes<'_>) -> Option<(Tuple, Option<u16>)> {
        let (mut src, mut dst, mut proto, mut zone) = (None, None, None, None);
        let (mut sport, mut dport) = (0, [0; 2]);
        for (kind, value) in attributes {
            match kind {
                CTA_TUPLE_IP => {
                    for (kind, value) in value.nested() {
                        match kind {
                            CTA_IP_V4_SRC | CTA_IP_V6_SRC => src = value.ip(),
                            CTA_IP_V4_DST | CTA_IP_V6_DST => dst = value.ip(),
                            _ => {}
                        }
                    }
                }
                CTA_TUPLE_PROTO => {
                    for (kind, value) in value.nested() {
                        match kind {
                            CTA_PROTO_NUM => proto = value.bytes::<1>().map(|[n]| n),
                            CTA_PROTO_SRC_PORT | CTA_PROTO_ICMP | CTA_PROTO_ICMPV6 => sport = value.u16()?,
                            CTA_PROTO_DST_PORT => dport = value.bytes()?,
                            5 | 8 => dport[0] = value.bytes::<1>()?[0],
                            6 | 9 => dport[1] = value.bytes::<1>()?[0],
                            _ => {}
                        }
                    }
                }
                CTA_TUPLE_ZONE => zone = value.u16(),
                _ => {}
            }
        }
        let (src, dst) = (src?, dst?);
        let same = src.is_ipv4() == dst.is_ipv4();
        let tuple = Tuple { src, dst, proto: proto?, sport, dport: u16::from_be_bytes(dport) };
        same.then_some((tuple, zone))
    }

    fn write(&self, kind: u16, request: &mut Request) {
        request.nest(kind, |tuple| {
            tuple.nest(CTA_TUPLE_IP, |ip| {
                ip.put_ip(CTA_IP_V4_SRC, CTA_IP_V6_SRC, self.src);
                ip.put_ip(CTA_IP_V4_DST, CTA_IP_V6_DST, self.dst);
            });
            tuple.nest(CTA_TUPLE_PROTO, |proto| {
                proto.put(CTA_PROTO_NUM, &[self.proto]);
                let (sport, dport) = (self.sport.to_be_bytes(), self.dport.to_be_bytes());
                let icmp = match self.proto {
                    IPPROTO_ICMP => CTA_PROTO_ICMP,
                    IPPROTO_ICMPV6 => CTA_PROTO_ICMPV6,
                    _ => {
                        proto.put(CTA_PROTO_SRC_PORT, &sport);
                        return proto.put(CTA_PROTO_DST_PORT, &dport);
                    }
                };
                proto.put(icmp, &sport);
                proto.put(icmp + 1, &dport[..1]);
                proto.put(icmp + 2, &dport[1..]);
            });
        });
    }
}

/// State of a TCP flow (`enum tcp_conntrack`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "they are TCP's own names, RFC 9293")]
pub enum TcpState {
    None,
    SynSent,
    SynReceived,
    Established,
    FinWait,
    CloseWait,
    LastAck,
    TimeWait,
    Close,
    /// A simultaneous open.
    SynSent2,
}

impl TcpState {
    fn read(attributes: Attributes<'_>) -> Option<TcpState> {
        // CTA_PROTOINFO_TCP, and CTA_PROTOINFO_TCP_STATE in it.
        let (_, tcp) = { attributes }.find(|(kind, _)| *kind == 1)?;
        let (_, state) = tcp.nested().find(|(kind, _)| *kind == 1)?;
        Some(match state.bytes::<1>()?[0] {
            0 => TcpState::None,
            1 => TcpState::SynSent,
            2 => TcpState::SynReceived,
            3 => TcpState::Established,
            4 => TcpState::FinWait,
            5 => TcpState::CloseWait,
            6 => TcpState::LastAck,
            7 => TcpState::TimeWait,
            8 => TcpState::Close,
            9 => TcpState::SynSent2,
            _ => return None,
        })
    }
}

/// What went one way.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Counters {
    /// Packets.
    pub packets: u64,
    /// Bytes, with the IP header.
    pub bytes: u64,
}

impl Counters {
    fn read(attributes: Attributes<'_>) -> Option<Counters> {
        let mut counters = Counters::default();
        for (kind, value) in attributes {
            match kind {
                1 => counters.packets = value.u64()?,
                2 => counters.bytes = value.u64()?,
                _ => {}
            }
        }
        Some(counters)
    }
}

/// A flow that the kernel tracks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FlowEntry {
    /// As the first packet came: its destination is what the client dialled.
    pub original: Tuple,
    /// As answers come: its source is the backend, its destination the client unless the source is translated.
    pub reply: Tuple,
    /// Bits as in [`status`].
    pub status: u32,
    /// The connection's mark (0 when the kernel keeps none).
    pub mark: u32,
    /// Seconds until it is forgotten unless another packet comes; `None` where the kernel keeps no timer of it.
    pub timeout: Option<u32>,
    /// Of TCP.
    pub tcp: Option<TcpState>,
    /// Original and reply direction, while `net.netfilter.nf_conntrack_acct` is 1.
    pub counters: Option<[Counters; 2]>,
    /// A hash of the original tuple and of where the kernel keeps the entry; a later entry of the same tuple can have
    /// the same one.
    pub id: u32,
    /// Zones of the original and the reply direction, 0 unless rules give one.
    pub zones: [u16; 2],
}

impl FlowEntry {
    /// `None` unless both tuples and the id are there.
    pub(super) fn read(attributes: Attributes<'_>) -> Option<FlowEntry> {
        let (mut original, mut reply, mut id, mut zone, mut tuple_zones) =
            (None, None, None, None, [None; 2]);
        let (mut status, mut mark, mut timeout, mut tcp) = (0, 0, None, None);
        let mut counters = [None; 2];
        for (kind, value) in attributes {
            match kind {
                CTA_TUPLE_ORIG => (original, tuple_zones[0]) = Tuple::read(value.nested()).unzip(),
                CTA_TUPLE_REPLY => (reply, tuple_zones[1]) = Tuple::read(value.nested()).unzip(),
                CTA_STATUS => status = value.u32()?,
                CTA_PROTOINFO => tcp = TcpState::read(value.nested()),
                CTA_TIMEOUT => timeout = Some(value.u32()?),
                CTA_MARK => mark = value.u32()?,
                CTA_COUNTERS_ORIG => counters[0] = Counters::read(value.nested()),
                CTA_COUNTERS_REPLY => counters[1] = Counters::read(value.nested()),
                CTA_ID => id = value.u32(),
                CTA_ZONE => zone = value.u16(),
                _ => {}
            }
        }
        Some(FlowEntry {
            original: original?,
            reply: reply?,
            status,
            mark,
            timeout,
            tcp,
            counters: counters[0].zip(counters[1]).map(|(original, reply)| [original, reply]),
            id: id?,
            zones: tuple_zones.map(|of_tuple| zone.or(of_tuple.flatten()).unwrap_or(0)),
        })
    }

    /// What names this entry to the kernel (a request without a tuple would mean every flow). It is the reply tuple, for
    /// the id already stands for the original one: of a flow that was translated anew to another backend both are wrong.
    pub(super) fn write_key(&self, request: &mut Request) {
        self.reply.write(CTA_TUPLE_REPLY, request);
        if self.zones[1] != 0 {
            request.put(CTA_ZONE, &self.zones[1].to_be_bytes());
        }
    }

    /// `AF_INET` or `AF_INET6`.
    pub(super) fn family(&self) -> u8 {
        family_of(self.original.dst)
    }
}

/// `AF_INET` or `AF_INET6`.
pub(super) fn family_of(address: IpAddr) -> u8 {
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    u8::try_from(family).unwrap_or(0)
}
