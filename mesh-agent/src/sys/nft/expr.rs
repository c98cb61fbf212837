//! Expressions: what rules are made of. Each is its kernel name and attributes (uapi `enum nft_*_attributes`).

use super::c;
use nftnl::{Rule, expr::Expression};
use nftnl_sys::{self as sys, libc};
use std::{
    ffi::{CStr, CString},
    ptr::NonNull,
};

/// `RTN_LOCAL` of uapi `linux/rtnetlink.h`, as registers have it.
const RTN_LOCAL: u32 = 2;

/// How many 32-bit registers there are.
pub const REG: u32 = 16;

/// The number of 32-bit register `n` (0 to 15), `NFT_REG32_00` and up. A value of several words takes as many
/// registers in a row, and a concatenation is its fields in a row.
#[must_use]
pub fn reg(n: u32) -> u32 {
    debug_assert!(n < REG);
    8 + n
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Value {
    U32(u32),
    U64(u64),
    Bytes(Vec<u8>),
    Text(CString),
}

/// One expression.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Expr {
    name: &'static CStr,
    attributes: Vec<(u16, Value)>,
    /// A stateful expression that a dynamic set keeps in each element.
    inner: Option<Box<Expr>>,
}

/// libnftnl's attribute numbers are constants below 256.
#[expect(clippy::cast_possible_truncation, reason = "attribute numbers are small constants")]
const fn attr(number: u32) -> u16 {
    number as u16
}

impl Expr {
    fn new(name: &'static CStr, numbers: &[(u32, u32)]) -> Expr {
        let attributes = numbers.iter().map(|(a, v)| (attr(*a), Value::U32(*v))).collect();
        Expr { name, attributes, inner: None }
    }

    fn and(mut self, attribute: u32, value: Value) -> Expr {
        self.attributes.push((attr(attribute), value));
        self
    }

    /// Loads `len` bytes at `offset` of the network header.
    #[must_use]
    pub fn network(dreg: u32, offset: u32, len: u32) -> Expr {
        Self::payload(libc::NFT_PAYLOAD_NETWORK_HEADER, dreg, offset, len)
    }

    /// Loads `len` bytes at `offset` of the transport header.
    #[must_use]
    pub fn transport(dreg: u32, offset: u32, len: u32) -> Expr {
        Self::payload(libc::NFT_PAYLOAD_TRANSPORT_HEADER, dreg, offset, len)
    }

    /// Loads `len` bytes at `offset` of the link-layer header.
    #[must_use]
    pub fn link(dreg: u32, offset: u32, len: u32) -> Expr {
        Self::payload(libc::NFT_PAYLOAD_LL_HEADER, dreg, offset, len)
    }

    fn payload(base: libc::c_int, dreg: u32, offset: u32, len: u32) -> Expr {
        let base = base.unsigned_abs();
        Expr::new(
            c"payload",
            &[
                (sys::NFTNL_EXPR_PAYLOAD_DREG, dreg),
                (sys::NFTNL_EXPR_PAYLOAD_BASE, base),
                (sys::NFTNL_EXPR_PAYLOAD_OFFSET, offset),
                (sys::NFTNL_EXPR_PAYLOAD_LEN, len),
            ],
        )
    }

    /// Writes `len` bytes into the link-layer header at `offset`.
    #[must_use]
    pub fn set_link(sreg: u32, offset: u32, len: u32) -> Expr {
        Expr::new(
            c"payload",
            &[
                (sys::NFTNL_EXPR_PAYLOAD_SREG, sreg),
                (sys::NFTNL_EXPR_PAYLOAD_BASE, libc::NFT_PAYLOAD_LL_HEADER.unsigned_abs()),
                (sys::NFTNL_EXPR_PAYLOAD_OFFSET, offset),
                (sys::NFTNL_EXPR_PAYLOAD_LEN, len),
                (sys::NFTNL_EXPR_PAYLOAD_CSUM_TYPE, 0),
                (sys::NFTNL_EXPR_PAYLOAD_CSUM_OFFSET, 0),
            ],
        )
    }

    /// Writes `len` bytes into the transport header at `offset`, and brings its checksum, at `sum`, to that.
    #[must_use]
    pub fn set_transport(sreg: u32, offset: u32, len: u32, sum: u32) -> Expr {
        Expr::new(
            c"payload",
            &[
                (sys::NFTNL_EXPR_PAYLOAD_SREG, sreg),
                (sys::NFTNL_EXPR_PAYLOAD_BASE, libc::NFT_PAYLOAD_TRANSPORT_HEADER.unsigned_abs()),
                (sys::NFTNL_EXPR_PAYLOAD_OFFSET, offset),
                (sys::NFTNL_EXPR_PAYLOAD_LEN, len),
                (sys::NFTNL_EXPR_PAYLOAD_CSUM_TYPE, libc::NFT_PAYLOAD_CSUM_INET.unsigned_abs()),
                (sys::NFTNL_EXPR_PAYLOAD_CSUM_OFFSET, sum),
            ],
        )
    }

    /// Loads packet metadata: `NFT_META_*`.
    #[must_use]
    pub fn meta(dreg: u32, key: libc::c_int) -> Expr {
        Expr::new(
            c"meta",
            &[(sys::NFTNL_EXPR_META_DREG, dreg), (sys::NFTNL_EXPR_META_KEY, key.unsigned_abs())],
        )
    }

    /// Sets packet metadata.
    #[must_use]
    pub fn set_meta(sreg: u32, key: libc::c_int) -> Expr {
        Expr::new(
            c"meta",
            &[(sys::NFTNL_EXPR_META_SREG, sreg), (sys::NFTNL_EXPR_META_KEY, key.unsigned_abs())],
        )
    }

    /// Loads conntrack data: `NFT_CT_*`. Does not match a packet without a flow.
    #[must_use]
    pub fn ct(dreg: u32, key: libc::c_int) -> Expr {
        Expr::new(c"ct", &[(sys::NFTNL_EXPR_CT_DREG, dreg), (sys::NFTNL_EXPR_CT_KEY, key.unsigned_abs())])
    }

    /// Sets conntrack data.
    #[must_use]
    pub fn set_ct(sreg: u32, key: libc::c_int) -> Expr {
        Expr::new(c"ct", &[(sys::NFTNL_EXPR_CT_SREG, sreg), (sys::NFTNL_EXPR_CT_KEY, key.unsigned_abs())])
    }

    /// Puts the packet into the conntrack zone whose number the register's first two bytes are, as far as it goes in the
    /// direction of its flow; answers stay in zone 0. Before conntrack only.
    #[must_use]
    pub fn set_zone(sreg: u32) -> Expr {
        // IP_CT_DIR_ORIGINAL.
        Expr::set_ct(sreg, libc::NFT_CT_ZONE).and(sys::NFTNL_EXPR_CT_DIR, Value::Bytes(vec![0]))
    }

    /// Goes on only with packets of a VXLAN network on a UDP port. Uses the first register.
    #[must_use]
    pub fn vxlan(vni: u32, port: u16) -> [Expr; 6] {
        let [_, number @ ..] = vni.to_be_bytes();
        [
            Self::meta(reg(0), libc::NFT_META_L4PROTO),
            Self::cmp(reg(0), true, &[17]),
            Self::transport(reg(0), 2, 2),
            Self::cmp(reg(0), true, &port.to_be_bytes()),
            // Behind 8 bytes of UDP and 4 of VXLAN (RFC 7348 section 5).
            Self::transport(reg(0), 12, 3),
            Self::cmp(reg(0), true, &number),
        ]
    }

    /// Keeps conntrack away from the packet, where it comes before conntrack.
    #[must_use]
    pub fn notrack() -> Expr {
        Expr::new(c"notrack", &[])
    }

    /// Goes on only when the packet came in by this link (`yes`), or by another; not with this host's own. Uses the
    /// first four registers.
    #[must_use]
    pub fn came_by(link: &str, yes: bool) -> [Expr; 2] {
        Self::by(libc::NFT_META_IIFNAME, link, yes)
    }

    /// Goes on only when the packet leaves by this link (`yes`), or by another. Uses the first four registers.
    #[must_use]
    pub fn leaves_by(link: &str, yes: bool) -> [Expr; 2] {
        Self::by(libc::NFT_META_OIFNAME, link, yes)
    }

    fn by(key: libc::c_int, link: &str, yes: bool) -> [Expr; 2] {
        let mut name = link.as_bytes().to_vec();
        name.resize(libc::IFNAMSIZ, 0);
        [Self::meta(reg(0), key), Self::cmp(reg(0), yes, &name)]
    }

    /// Goes on only with flows whose destination was translated (`yes`), or was not: `IPS_DST_NAT` of
    /// linux/netfilter/nf_conntrack_common.h. Uses the first register.
    #[must_use]
    pub fn translated(yes: bool) -> [Expr; 3] {
        let dst_nat = (1_u32 << 5).to_ne_bytes();
        let status = Self::ct(reg(0), libc::NFT_CT_STATUS);
        [status, Self::mask(reg(0), reg(0), &dst_nat), Self::cmp(reg(0), !yes, &[0; 4])]
    }

    /// Goes on only with packets from an address of this host (`yes`), or from another. Uses `dreg`.
    #[must_use]
    pub fn from_here(dreg: u32, yes: bool) -> [Expr; 2] {
        [Self::fib(dreg, 1), Self::cmp(dreg, yes, &RTN_LOCAL.to_ne_bytes())]
    }

    /// Goes on only with packets to an address of this host (`yes`), or to another. Uses the first register.
    #[must_use]
    pub fn to_here(yes: bool) -> [Expr; 2] {
        [Self::fib(reg(0), 2), Self::cmp(reg(0), yes, &RTN_LOCAL.to_ne_bytes())]
    }

    /// `NFTA_FIB_F_*` in `flags`; the result is `NFT_FIB_RESULT_ADDRTYPE`.
    fn fib(dreg: u32, flags: u32) -> Expr {
        Expr::new(
            c"fib",
            &[
                (sys::NFTNL_EXPR_FIB_DREG, dreg),
                (sys::NFTNL_EXPR_FIB_RESULT, 3),
                (sys::NFTNL_EXPR_FIB_FLAGS, flags),
            ],
        )
    }

    /// Loads a constant.
    #[must_use]
    pub fn immediate(dreg: u32, data: &[u8]) -> Expr {
        Expr::new(c"immediate", &[(sys::NFTNL_EXPR_IMM_DREG, dreg)])
            .and(sys::NFTNL_EXPR_IMM_DATA, Value::Bytes(data.to_vec()))
    }

    /// Ends with a verdict: `NF_ACCEPT`, `NF_DROP`, `NFT_RETURN`.
    #[must_use]
    pub fn verdict(verdict: libc::c_int) -> Expr {
        Expr::new(
            c"immediate",
            &[(sys::NFTNL_EXPR_IMM_DREG, 0), (sys::NFTNL_EXPR_IMM_VERDICT, verdict.cast_unsigned())],
        )
    }

    /// Goes on in another chain and does not come back.
    #[must_use]
    pub fn goto(chain: &str) -> Expr {
        Self::verdict(libc::NFT_GOTO).and(sys::NFTNL_EXPR_IMM_CHAIN, Value::Text(c(chain)))
    }

    /// Goes on only when the register equals `data` (`equal`) or differs from it.
    #[must_use]
    pub fn cmp(sreg: u32, equal: bool, data: &[u8]) -> Expr {
        let op = u32::from(!equal);
        Expr::new(c"cmp", &[(sys::NFTNL_EXPR_CMP_SREG, sreg), (sys::NFTNL_EXPR_CMP_OP, op)])
            .and(sys::NFTNL_EXPR_CMP_DATA, Value::Bytes(data.to_vec()))
    }

    /// Keeps the bits of `mask`, sets the rest to 0.
    #[must_use]
    pub fn mask(sreg: u32, dreg: u32, mask: &[u8]) -> Expr {
        Self::bitwise(sreg, dreg, mask, vec![0; mask.len()])
    }

    /// Turns these bits of a register.
    #[must_use]
    pub fn flip(reg: u32, bits: &[u8]) -> Expr {
        Self::bitwise(reg, reg, &vec![0xff; bits.len()], bits.to_vec())
    }

    fn bitwise(sreg: u32, dreg: u32, mask: &[u8], xor: Vec<u8>) -> Expr {
        let len = u32::try_from(mask.len()).unwrap_or(0);
        Expr::new(
            c"bitwise",
            &[
                (sys::NFTNL_EXPR_BITWISE_SREG, sreg),
                (sys::NFTNL_EXPR_BITWISE_DREG, dreg),
                (sys::NFTNL_EXPR_BITWISE_LEN, len),
            ],
        )
        .and(sys::NFTNL_EXPR_BITWISE_MASK, Value::Bytes(mask.to_vec()))
        .and(sys::NFTNL_EXPR_BITWISE_XOR, Value::Bytes(xor))
    }

    /// Loads the next of 0 to `modulus - 1`, by a counter of the rule's own, or one at random.
    #[must_use]
    pub fn numgen(dreg: u32, modulus: u32, random: bool) -> Expr {
        Expr::new(
            c"numgen",
            &[
                (sys::NFTNL_EXPR_NG_DREG, dreg),
                (sys::NFTNL_EXPR_NG_MODULUS, modulus),
                (sys::NFTNL_EXPR_NG_TYPE, u32::from(random)),
                (sys::NFTNL_EXPR_NG_OFFSET, 0),
            ],
        )
    }

    /// Loads `jhash(len bytes, seed) * modulus >> 32`: 0 to `modulus - 1`.
    #[must_use]
    pub fn jhash(sreg: u32, dreg: u32, len: u32, modulus: u32, seed: u32) -> Expr {
        Expr::new(
            c"hash",
            &[
                (sys::NFTNL_EXPR_HASH_SREG, sreg),
                (sys::NFTNL_EXPR_HASH_DREG, dreg),
                (sys::NFTNL_EXPR_HASH_LEN, len),
                (sys::NFTNL_EXPR_HASH_MODULUS, modulus),
                (sys::NFTNL_EXPR_HASH_SEED, seed),
                (sys::NFTNL_EXPR_HASH_TYPE, 0),
            ],
        )
    }

    /// Goes on only when the set has the key.
    #[must_use]
    pub fn lookup(sreg: u32, set: &str) -> Expr {
        Expr::new(c"lookup", &[(sys::NFTNL_EXPR_LOOKUP_SREG, sreg)])
            .and(sys::NFTNL_EXPR_LOOKUP_SET, Value::Text(c(set)))
    }

    /// Goes on only when the set does not have the key.
    #[must_use]
    pub fn lookup_not(sreg: u32, set: &str) -> Expr {
        Self::lookup(sreg, set)
            .and(sys::NFTNL_EXPR_LOOKUP_FLAGS, Value::U32(libc::NFT_LOOKUP_F_INV.unsigned_abs()))
    }

    /// Loads the map's data for the key; register 0 is the verdict, which is obeyed.
    #[must_use]
    pub fn map(sreg: u32, dreg: u32, set: &str) -> Expr {
        Self::lookup(sreg, set).and(sys::NFTNL_EXPR_LOOKUP_DREG, Value::U32(dreg))
    }

    /// Puts the key, with the data from `data` when the set is a map, into a set and renews its timeout (ms).
    #[must_use]
    pub fn learn(key: u32, data: Option<u32>, set: &str, timeout: Option<u64>) -> Expr {
        let op = libc::NFT_DYNSET_OP_UPDATE.unsigned_abs();
        let mut expr = Self::dynset(key, set, op);
        if let Some(data) = data {
            expr = expr.and(sys::NFTNL_EXPR_DYNSET_SREG_DATA, Value::U32(data));
        }
        if let Some(timeout) = timeout {
            expr = expr.and(sys::NFTNL_EXPR_DYNSET_TIMEOUT, Value::U64(timeout));
        }
        expr
    }

    /// Puts the key into a set, for good.
    #[must_use]
    pub fn remember(key: u32, set: &str) -> Expr {
        Self::dynset(key, set, libc::NFT_DYNSET_OP_ADD.unsigned_abs())
    }

    /// Takes the key out of a map (`NFT_DYNSET_OP_DELETE`); the kernel wants a register for data here too.
    #[must_use]
    pub fn forget(key: u32, data: u32, set: &str) -> Expr {
        Self::dynset(key, set, 2).and(sys::NFTNL_EXPR_DYNSET_SREG_DATA, Value::U32(data))
    }

    /// Puts the key into a set and goes on only while at most `most` flows are counted at it.
    #[must_use]
    pub fn limit_flows(key: u32, set: &str, most: u32) -> Expr {
        let mut expr = Self::dynset(key, set, libc::NFT_DYNSET_OP_ADD.unsigned_abs());
        let limit = [(sys::NFTNL_EXPR_CONNLIMIT_COUNT, most), (sys::NFTNL_EXPR_CONNLIMIT_FLAGS, 0)];
        expr.inner = Some(Box::new(Expr::new(c"connlimit", &limit)));
        expr
    }

    fn dynset(key: u32, set: &str, op: u32) -> Expr {
        Expr::new(c"dynset", &[(sys::NFTNL_EXPR_DYNSET_SREG_KEY, key), (sys::NFTNL_EXPR_DYNSET_OP, op)])
            .and(sys::NFTNL_EXPR_DYNSET_SET_NAME, Value::Text(c(set)))
    }

    /// Translates the flow's destination to the address and port in two registers; `family` is `NFPROTO_*`.
    #[must_use]
    pub fn dnat(family: libc::c_int, address: u32, port: u32) -> Expr {
        Expr::new(
            c"nat",
            &[
                (sys::NFTNL_EXPR_NAT_TYPE, libc::NFT_NAT_DNAT.unsigned_abs()),
                (sys::NFTNL_EXPR_NAT_FAMILY, family.unsigned_abs()),
                (sys::NFTNL_EXPR_NAT_REG_ADDR_MIN, address),
                (sys::NFTNL_EXPR_NAT_REG_PROTO_MIN, port),
            ],
        )
    }

    /// Gives the flow the source address in a register, and a free port at random out of the range in two others, or its own
    /// as far as that is free; `family` is `NFPROTO_*`.
    #[must_use]
    pub fn snat(family: libc::c_int, address: u32, ports: Option<[u32; 2]>) -> Expr {
        let mut what = vec![
            (sys::NFTNL_EXPR_NAT_TYPE, libc::NFT_NAT_SNAT.unsigned_abs()),
            (sys::NFTNL_EXPR_NAT_FAMILY, family.unsigned_abs()),
            (sys::NFTNL_EXPR_NAT_REG_ADDR_MIN, address),
        ];
        if let Some([first, last]) = ports {
            // NF_NAT_RANGE_PROTO_RANDOM_FULLY of linux/netfilter/nf_nat.h.
            let random = 1 << 4;
            what.extend([
                (sys::NFTNL_EXPR_NAT_REG_PROTO_MIN, first),
                (sys::NFTNL_EXPR_NAT_REG_PROTO_MAX, last),
                (sys::NFTNL_EXPR_NAT_FLAGS, random),
            ]);
        }
        Expr::new(c"nat", &what)
    }

    /// Gives a new flow of its protocol the timeouts of a [`FlowTimeout`](super::FlowTimeout).
    #[must_use]
    pub fn set_timeout(name: &str) -> Expr {
        Expr::new(c"objref", &[(sys::NFTNL_EXPR_OBJREF_IMM_TYPE, super::object::CT_TIMEOUT)])
            .and(sys::NFTNL_EXPR_OBJREF_IMM_NAME, Value::Text(c(name)))
    }

    /// Gives the flow the source address of the device it leaves by.
    #[must_use]
    pub fn masquerade() -> Expr {
        Expr::new(c"masq", &[])
    }

    /// Gives the flow this host as its destination.
    #[must_use]
    pub fn redirect() -> Expr {
        Expr::new(c"redir", &[])
    }

    /// Answers with a TCP reset.
    #[must_use]
    pub fn tcp_reset() -> Expr {
        let kind = libc::NFT_REJECT_TCP_RST.unsigned_abs();
        Expr::new(c"reject", &[(sys::NFTNL_EXPR_REJECT_TYPE, kind)])
    }

    /// Answers with ICMP "port unreachable"; `code` is 3 for IPv4 (RFC 792), 4 for IPv6 (RFC 4443 section 3.1).
    #[must_use]
    pub fn port_unreachable(code: u8) -> Expr {
        let kind = libc::NFT_REJECT_ICMP_UNREACH.unsigned_abs();
        Expr::new(
            c"reject",
            &[(sys::NFTNL_EXPR_REJECT_TYPE, kind), (sys::NFTNL_EXPR_REJECT_CODE, u32::from(code))],
        )
    }

    /// Counts packets and bytes, from these on.
    #[must_use]
    pub fn counter(packets: u64, bytes: u64) -> Expr {
        Expr::new(c"counter", &[])
            .and(sys::NFTNL_EXPR_CTR_PACKETS, Value::U64(packets))
            .and(sys::NFTNL_EXPR_CTR_BYTES, Value::U64(bytes))
    }

    /// libnftnl's form; whoever takes it frees it or hands it on.
    pub(super) fn raw(&self) -> NonNull<sys::nftnl_expr> {
        // SAFETY: the name is a C string; libnftnl copies every value it is given.
        unsafe {
            let Some(expr) = NonNull::new(sys::nftnl_expr_alloc(self.name.as_ptr())) else {
                std::alloc::handle_alloc_error(std::alloc::Layout::new::<Expr>())
            };
            for (attribute, value) in &self.attributes {
                match value {
                    Value::U32(v) => sys::nftnl_expr_set_u32(expr.as_ptr(), *attribute, *v),
                    Value::U64(v) => sys::nftnl_expr_set_u64(expr.as_ptr(), *attribute, *v),
                    Value::Bytes(v) => {
                        let len = u32::try_from(v.len()).unwrap_or(0);
                        sys::nftnl_expr_set(expr.as_ptr(), *attribute, v.as_ptr().cast(), len);
                    }
                    Value::Text(v) => {
                        sys::nftnl_expr_set_str(expr.as_ptr(), *attribute, v.as_ptr());
                    }
                }
            }
            if let Some(inner) = &self.inner {
                sys::nftnl_expr_add_expr(
                    expr.as_ptr(),
                    sys::NFTNL_EXPR_DYNSET_EXPRESSIONS,
                    inner.raw().as_ptr(),
                );
            }
            expr
        }
    }
}

impl Expression for Expr {
    fn to_expr(&self, _: &Rule<'_>) -> NonNull<sys::nftnl_expr> {
        self.raw()
    }
}
