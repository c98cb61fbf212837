//! The tables of nf_tables beside IPVS: they give packets the marks that virtual services go by, turn away what may not
//! connect or finds no backend, reset connections that lost theirs, and carry names. Pure.
//!
//! Marks are our own range, so that what is ours in IPVS is known by its number:
//! `0x4e`, 7 bits of which published address (0 is every local one), 1 bit UDP, 16 bits of port. VIPs have services by
//! address; their packets carry the mark without a number only to be known again on their way out. What other nodes sent
//! here as it was carries `0x4c` and 24 bits that number the port of the VIP.

use super::site::Site;
use crate::{
    dataplane::netfilter::{
        base::{Base, refusals, reset, source},
        layout::{Layout, octets},
        names::{REJECT, Rule, comment},
        sets::Common,
    },
    sys::nft::{
        Expr, Holds, Hook, HookKind,
        Kind::{Ipv4, Ipv6, Mark, Port, Protocol},
        Set, reg,
    },
};
use ipnetwork::IpNetwork;
use mesh_control::model::{Family, Protocol as Transport};
use std::net::IpAddr;

/// The name of our tables.
pub const TABLE: &str = "mesh-agent-ipvs";
/// Frontends: address, protocol, port → mark. The first port of each carries what the frontend is.
pub(super) const MARKS: &str = "marks";
/// Published ports with affinity → the address and port of their service.
pub(super) const ANCHORS: &str = "anchors";
/// Backends: frontend, backend's id; they carry what each is.
pub(super) const BACKENDS: &str = "backends";
/// Frontends whose new flows find no backend: frontend → what happens to them.
pub(super) const EMPTY: &str = "empty";

/// Frontends that other nodes send packets here for: address, protocol, port → mark.
pub(super) const ARRIVING: &str = "arriving";

/// The chains that packets of our frontends go through.
const EXACT: &str = "exact";
const LOCAL: &str = "local";

/// The mark of what goes to a VIP.
pub(super) const MARK: u32 = 0x4e00_0000;
/// That of what other nodes sent here, without its number.
pub(super) const ARRIVING_MARK: u32 = 0x4c00_0000;
/// The bits of its number.
pub(super) const MARK_BITS: u32 = 0x00ff_ffff;
/// What both have in common, and the bits that tell them from others.
pub(super) const OURS: u32 = 0x4c00_0000;
/// See [`OURS`].
pub(super) const MARK_MASK: u32 = 0xfd00_0000;
/// Most single addresses that ports are published on.
pub(super) const MOST_ADDRESSES: u8 = 127;

/// The mark of a published port; `address` is the number of the address that it is published on, 0 for all.
pub(super) fn mark(address: u8, protocol: Transport, port: u16) -> u32 {
    let udp = u32::from(protocol == Transport::Udp);
    MARK | u32::from(address & MOST_ADDRESSES) << 17 | udp << 16 | u32::from(port)
}

/// The number of the address in a mark.
pub(super) fn address_of(mark: u32) -> u8 {
    u8::try_from((mark & !MARK) >> 17 & u32::from(MOST_ADDRESSES)).unwrap_or(0)
}

/// The address of services of published ports with affinity: the kernel remembers clients of a service by mark without
/// giving packets the destination's port (`ip_vs_sched_persist`), so their packets are sent here first.
pub(super) fn anchor(family: Family, address: u8) -> IpAddr {
    match family {
        Family::V4 => [169, 254, 78, address + 1].into(),
        Family::V6 => [0xfd6d, 0x6573, 0x6800, 0, 0, 0, 0, u16::from(address) + 1].into(),
    }
}

/// The layouts of both families' tables.
pub(super) fn layouts() -> [Layout; 2] {
    [Layout::of(Family::V4, TABLE), Layout::of(Family::V6, TABLE)]
}

pub(super) fn sets(layout: &Layout, site: &Site) -> Vec<Set> {
    let key = layout.kinds(&[Ipv4, Protocol, Port], &[Ipv6, Protocol, Port]);
    let named = layout.kinds(&[Ipv4, Protocol, Port, Mark, Mark], &[Ipv6, Protocol, Port, Mark, Mark]);
    let mut sets = vec![
        Set::new(MARKS, key, Holds::Data(&[Mark])),
        Set::new(ANCHORS, key, Holds::Data(layout.kinds(&[Ipv4, Port], &[Ipv6, Port]))),
        Set::new(BACKENDS, named, Holds::Keys),
        Set { counts: true, ..Set::new(EMPTY, key, Holds::Verdicts) },
    ];
    if site.direct.is_some() {
        sets.push(Set::new(ARRIVING, key, Holds::Data(&[Mark])));
    }
    sets.extend(Common::ALL.map(|common| common.set(layout)));
    sets
}

/// Goes on only with packets that carry one of our marks. Uses the first register.
pub fn ours() -> [Expr; 3] {
    [
        Expr::meta(reg(0), libc::NFT_META_MARK),
        Expr::mask(reg(0), reg(0), &MARK_MASK.to_ne_bytes()),
        Expr::cmp(reg(0), true, &OURS.to_ne_bytes()),
    ]
}

/// Goes on only with the first packet of a flow. Uses the first register.
fn new() -> Vec<Expr> {
    // NF_CT_STATE_BIT(IP_CT_NEW)
    let new = 8_u32.to_ne_bytes();
    vec![
        Expr::ct(reg(0), libc::NFT_CT_STATE),
        Expr::mask(reg(0), reg(0), &new),
        Expr::cmp(reg(0), false, &[0; 4]),
    ]
}

/// The same where answers may pass this node by, as conntrack goes by those: of TCP what asks for a connection, of the
/// rest what conntrack has not seen yet.
fn first() -> [Vec<Expr>; 2] {
    let protocol = |yes| [Expr::meta(reg(0), libc::NFT_META_L4PROTO), Expr::cmp(reg(0), yes, &[6])];
    let mut tcp = protocol(true).to_vec();
    // SYN without ACK: bits 1 and 4 of the flags at byte 13 (RFC 9293 section 3.1).
    tcp.extend([
        Expr::transport(reg(0), 13, 1),
        Expr::mask(reg(0), reg(0), &[0x12]),
        Expr::cmp(reg(0), true, &[2]),
    ]);
    let mut rest = protocol(false).to_vec();
    rest.extend(new());
    // IPS_CONFIRMED of linux/netfilter/nf_conntrack_common.h.
    let confirmed = (1_u32 << 3).to_ne_bytes();
    rest.extend([
        Expr::ct(reg(0), libc::NFT_CT_STATUS),
        Expr::mask(reg(0), reg(0), &confirmed),
        Expr::cmp(reg(0), true, &[0; 4]),
    ]);
    [tcp, rest]
}

/// What becomes of packets of our frontends; `local` of those published on every address.
fn screen(layout: &Layout, local: bool, direct: bool) -> Base {
    let begins = if direct { first().to_vec() } else { vec![new()] };
    let deny = |mut rule: Vec<Expr>| {
        rule.extend(layout.load_key(local));
        rule.push(layout.source(layout.key_words()));
        rule.extend([
            Expr::lookup_not(reg(0), Common::Allow.name()),
            Expr::lookup(reg(0), Common::Denied.name()),
            Expr::goto(REJECT),
        ]);
        (rule, comment("source not allowed"))
    };
    let empty = |mut rule: Vec<Expr>| {
        rule.extend(layout.load_key(local));
        rule.push(Expr::map(reg(0), 0, EMPTY));
        (rule, comment("no backend takes new flows"))
    };
    let rules = begins.iter().cloned().map(deny).chain(begins.iter().cloned().map(empty)).collect();
    Base { name: if local { LOCAL } else { EXACT }, hook: None, rules }
}

/// Goes on only with packets to an address of this host that is neither a VIP nor of loopback: what is sent from there
/// cannot leave the host.
fn to_this_host(layout: &Layout) -> Vec<Expr> {
    let mut all = Expr::to_here(true).to_vec();
    all.extend(layout.not_loopback());
    all.extend([layout.destination(0), Expr::lookup_not(reg(0), Common::Vips.name())]);
    all
}

/// Sends published ports with affinity to their services.
fn anchoring(layout: &Layout) -> Vec<Rule> {
    let word = layout.key_words();
    let send = |local: bool| {
        let mut rule = layout.load_key(local).to_vec();
        rule.push(Expr::map(reg(0), reg(word), ANCHORS));
        rule.push(Expr::dnat(layout.nfproto(), reg(word), reg(word + layout.words())));
        rule
    };
    let mut any = to_this_host(layout);
    any.extend(send(true));
    vec![
        (send(false), comment("affinity of ports published on one address")),
        (any, comment("affinity of ports published on every local address")),
    ]
}

/// Gives what other nodes sent here its marks.
fn receiving(layout: &Layout, device: &str) -> Rule {
    let word = layout.key_words();
    let mut rule = Expr::came_by(device, true).to_vec();
    rule.extend(layout.load_key(false));
    let mark = Expr::set_meta(reg(word), libc::NFT_META_MARK);
    rule.extend([Expr::map(reg(0), reg(word), ARRIVING), mark, Expr::goto(EXACT)]);
    (rule, comment("VIPs, sent here by another node"))
}

/// Refuses what another node sent here and IPVS would send on as it is, by a connection of its own that the client's port had
/// before: it might come back.
fn circling(layout: &Layout) -> Rule {
    let mut rule = vec![
        Expr::meta(reg(0), libc::NFT_META_MARK),
        Expr::mask(reg(0), reg(0), &(!MARK_BITS).to_ne_bytes()),
        Expr::cmp(reg(0), true, &ARRIVING_MARK.to_ne_bytes()),
        layout.destination(0),
        Expr::lookup(reg(0), Common::Vips.name()),
    ];
    rule.push(Expr::goto(REJECT));
    (rule, comment("VIPs, sent here and not to be sent on"))
}

/// Gives packets their marks.
fn marking(layout: &Layout, vip_cidrs: &[IpNetwork]) -> Vec<Rule> {
    let word = layout.key_words();
    let give = |local: bool| {
        let mut rule = layout.load_key(local).to_vec();
        let chain = if local { LOCAL } else { EXACT };
        let mark = Expr::set_meta(reg(word), libc::NFT_META_MARK);
        rule.extend([Expr::map(reg(0), reg(word), MARKS), mark, Expr::goto(chain)]);
        rule
    };
    let mut any = to_this_host(layout);
    any.extend(give(true));
    let mut rules = vec![
        reset(),
        (give(false), comment("VIPs, and ports published on one address")),
        (any, comment("ports published on every local address")),
    ];
    for cidr in vip_cidrs.iter().filter(|c| Family::of(&c.ip()) == layout.family) {
        let mut nobody = vec![
            layout.destination(0),
            Expr::mask(reg(0), reg(0), &octets(cidr.mask())),
            Expr::cmp(reg(0), true, &octets(cidr.network())),
        ];
        nobody.extend(Expr::to_here(false));
        nobody.push(Expr::goto(REJECT));
        rules.push((nobody, comment(&format!("nobody serves this in {cidr}"))));
    }
    rules
}

pub(super) fn chains(layout: &Layout, site: &Site) -> Vec<Base> {
    let Site { outline, direct, .. } = site;
    let hook = |kind, number, priority| Some(Hook { kind, number, priority, device: None });
    // After conntrack (-200), before IPVS (-99 and later).
    let early = |name, number| Base {
        name,
        hook: hook(HookKind::Filter, number, -150),
        rules: marking(layout, &outline.vip_cidrs),
    };
    let mut output = early("output", libc::NF_INET_LOCAL_OUT);
    let mut first = early("prerouting", libc::NF_INET_PRE_ROUTING);
    if let Some(direct) = direct {
        // After the resets.
        first.rules.insert(1, receiving(layout, &direct.device));
        output.rules.insert(0, circling(layout));
    }
    let nat = |name, number| Base { name, hook: hook(HookKind::Nat, number, -105), rules: anchoring(layout) };
    // Programs of this host that do not choose an address get the VIP itself, which every node has.
    let mut itself = vec![layout.source(0), Expr::lookup(reg(0), Common::Vips.name())];
    itself.extend(Expr::to_here(false));
    itself.push(Expr::masquerade());
    let mut leaving = vec![(itself, comment("programs of this host"))];
    leaving.extend(source(layout, &ours(), outline.bridge.as_deref()));
    // The packet around it inherits the mark, and a service by mark takes whatever has it.
    let mut unmark = ours().to_vec();
    unmark.extend([Expr::immediate(reg(0), &[0; 4]), Expr::set_meta(reg(0), libc::NFT_META_MARK)]);
    let mut all: Vec<Base> = refusals(layout).into();
    all.extend([
        screen(layout, false, direct.is_some()),
        screen(layout, true, direct.is_some()),
        first,
        output,
        nat("prerouting-nat", libc::NF_INET_PRE_ROUTING),
        nat("output-nat", libc::NF_INET_LOCAL_OUT),
        Base {
            name: "postrouting",
            hook: hook(HookKind::Nat, libc::NF_INET_POST_ROUTING, 95),
            rules: leaving,
        },
        Base {
            name: "unmark",
            hook: hook(HookKind::Filter, libc::NF_INET_POST_ROUTING, 200),
            rules: vec![(unmark, comment("what a tunnel puts around it is not for IPVS"))],
        },
    ]);
    all
}
