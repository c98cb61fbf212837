//! Which flows are meant. The kernel leaves out what it can (CTA_FILTER since 5.8, marks since 3.x); whatever it still
//! tells is checked here too, so an old kernel is only slower.

use super::entry::{
    CTA_IP_V4_DST, CTA_IP_V4_SRC, CTA_IP_V6_DST, CTA_IP_V6_SRC, CTA_MARK, CTA_PROTO_DST_PORT, CTA_PROTO_NUM,
    CTA_PROTO_SRC_PORT, CTA_STATUS, CTA_TUPLE_IP, CTA_TUPLE_ORIG, CTA_TUPLE_PROTO, CTA_TUPLE_REPLY,
    FlowEntry, Tuple, family_of,
};
use crate::sys::nfnetlink::Request;
use std::net::IpAddr;

const CTA_MARK_MASK: u16 = 21;
const CTA_FILTER: u16 = 25;
const CTA_STATUS_MASK: u16 = 26;
/// `CTA_FILTER_ORIG_FLAGS`; `CTA_FILTER_REPLY_FLAGS` is the next one.
const CTA_FILTER_ORIG_FLAGS: u16 = 1;

// Which fields of a tuple count (`CTA_FILTER_FLAG` of the kernel's nf_internals.h).
const IP_SRC: u32 = 1 << 0;
const IP_DST: u32 = 1 << 1;
const PROTO_NUM: u32 = 1 << 3;
const SRC_PORT: u32 = 1 << 4;
const DST_PORT: u32 = 1 << 5;

/// An address family.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// What one direction must be; `None` is anything.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Side {
    /// Source address.
    pub src: Option<IpAddr>,
    /// Destination address.
    pub dst: Option<IpAddr>,
    /// Source port.
    pub sport: Option<u16>,
    /// Destination port.
    pub dport: Option<u16>,
}

/// Bits under a mask.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Masked {
    /// The bits, all under the mask.
    pub value: u32,
    /// Those that count.
    pub mask: u32,
}

impl Masked {
    /// All these bits are set.
    #[must_use]
    pub fn all(bits: u32) -> Masked {
        Masked { value: bits, mask: bits }
    }

    fn holds(self, bits: u32) -> bool {
        bits & self.mask == self.value
    }
}

/// Which flows are meant: those for which all that is given holds. The default means every flow.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Filter {
    /// Only this family.
    pub family: Option<Family>,
    /// Only this IP protocol (`IPPROTO_*`).
    pub proto: Option<u8>,
    /// As the client sent: `dst` and `dport` are the frontend.
    pub original: Side,
    /// As it is answered: `src` and `sport` are the backend.
    pub reply: Side,
    /// The connection's mark.
    pub mark: Option<Masked>,
    /// Bits of [`status`](super::status).
    pub status: Option<Masked>,
}

impl Side {
    fn holds(&self, tuple: &Tuple) -> bool {
        self.src.is_none_or(|a| a == tuple.src)
            && self.dst.is_none_or(|a| a == tuple.dst)
            && self.sport.is_none_or(|p| p == tuple.sport)
            && self.dport.is_none_or(|p| p == tuple.dport)
    }

    /// The kernel looks at ports only together with the protocol, and reads ICMP's otherwise than we show them. Of IPv6
    /// addresses it tells those that differ instead of those that are equal (6.18 does, by an inverted comparison in
    /// `ctnetlink_filter_match_tuple`), so it is not asked for them.
    fn flags(&self, proto: Option<u8>) -> u32 {
        let ported = proto.is_some_and(|p| matches!(i32::from(p), libc::IPPROTO_TCP | libc::IPPROTO_UDP));
        let bit = |given: bool, bit| if given { bit } else { 0 };
        bit(self.src.is_some_and(|a| a.is_ipv4()), IP_SRC)
            | bit(self.dst.is_some_and(|a| a.is_ipv4()), IP_DST)
            | bit(self.sport.is_some() && ported, SRC_PORT)
            | bit(self.dport.is_some() && ported, DST_PORT)
    }

    fn write(&self, kind: u16, flags: u32, proto: Option<u8>, request: &mut Request) {
        if flags == 0 {
            return;
        }
        request.nest(kind, |tuple| {
            tuple.nest(CTA_TUPLE_IP, |ip| {
                if let Some(address) = self.src {
                    ip.put_ip(CTA_IP_V4_SRC, CTA_IP_V6_SRC, address);
                }
                if let Some(address) = self.dst {
                    ip.put_ip(CTA_IP_V4_DST, CTA_IP_V6_DST, address);
                }
            });
            tuple.nest(CTA_TUPLE_PROTO, |ports| {
                if let Some(proto) = proto {
                    ports.put(CTA_PROTO_NUM, &[proto]);
                }
                if let Some(port) = self.sport {
                    ports.put(CTA_PROTO_SRC_PORT, &port.to_be_bytes());
                }
                if let Some(port) = self.dport {
                    ports.put(CTA_PROTO_DST_PORT, &port.to_be_bytes());
                }
            });
        });
    }
}

impl Filter {
    /// Whether a flow is meant.
    #[must_use]
    pub fn matches(&self, flow: &FlowEntry) -> bool {
        self.family.is_none_or(|f| (f == Family::V4) == flow.original.dst.is_ipv4())
            && self.proto.is_none_or(|p| p == flow.original.proto)
            && self.original.holds(&flow.original)
            && self.reply.holds(&flow.reply)
            && self.mark.is_none_or(|m| m.holds(flow.mark))
            && self.status.is_none_or(|m| m.holds(flow.status))
    }

    fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let sides = [self.original.src, self.original.dst, self.reply.src, self.reply.dst];
        sides.into_iter().flatten()
    }

    /// The family to ask for (`AF_*`, 0 is any); `None` when no flow can be of all the families that are given.
    pub(super) fn family(&self) -> Option<u8> {
        let given = self.family.map(|f| if f == Family::V4 { libc::AF_INET } else { libc::AF_INET6 });
        let given = given.and_then(|f| u8::try_from(f).ok());
        let mut families = given.into_iter().chain(self.addresses().map(family_of));
        let first = families.next().unwrap_or(0);
        families.all(|f| f == first).then_some(first)
    }

    pub(super) fn write(&self, request: &mut Request) {
        for (attributes, masked) in
            [((CTA_MARK, CTA_MARK_MASK), self.mark), ((CTA_STATUS, CTA_STATUS_MASK), self.status)]
        {
            if let Some(Masked { value, mask }) = masked.filter(|m| m.mask != 0) {
                request.put_u32(attributes.0, value);
                request.put_u32(attributes.1, mask);
            }
        }
        // Tuples only together with a family, or the answer is EOPNOTSUPP.
        if self.family().is_none_or(|f| f == 0) {
            return;
        }
        let proto = if self.proto.is_some() { PROTO_NUM } else { 0 };
        let original = self.original.flags(self.proto) | proto;
        let reply = self.reply.flags(self.proto);
        let reply = if reply == 0 { 0 } else { reply | proto };
        self.original.write(CTA_TUPLE_ORIG, original, self.proto, request);
        self.reply.write(CTA_TUPLE_REPLY, reply, self.proto, request);
        if original | reply != 0 {
            // Unlike the other numbers of conntrack, these are in the host's byte order.
            request.nest(CTA_FILTER, |filter| {
                filter.put(CTA_FILTER_ORIG_FLAGS, &original.to_ne_bytes());
                filter.put(CTA_FILTER_ORIG_FLAGS + 1, &reply.to_ne_bytes());
            });
        }
    }
}
