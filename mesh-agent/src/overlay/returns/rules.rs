//! The rules of the way back. Pure but for libnftnl's buffers.
//!
//! What came by the overlay goes through chains of its own: other packets of the host are asked one question by each hook (what
//! comes in before conntrack two), those between containers one more. The overlay's own packets on the underlay are not tracked.

use crate::{
    overlay::plan::{CLASH_MARK, RETURN_MARK, RETURN_MASK},
    sys::{
        nft::{Expr, Family, Holds, Hook, HookKind, Kind, Set, Table, reg},
        rtnl::{self, NewLink, Vxlan},
    },
};
use ipnetwork::IpNetwork;
use std::{borrow::Cow, net::IpAddr};

/// The name of our tables.
pub const TABLE: &str = "mesh-agent-overlay";
/// VTEP → mark, in the inet table.
pub(super) const VTEPS: &str = "vteps";
/// Addresses of the other nodes, by family, in the inet table.
const NODES: [&str; 2] = ["nodes4", "nodes6"];
/// Mark → VTEP, in the netdev table.
const MACS: &str = "macs";
/// Source ports for flows that have to get another: those that systems do not give their own connections.
const PORTS: [u16; 2] = [1024, 32_767];
/// The chains of what came by the overlay, before conntrack and after it.
const ARRIVED: [&str; 2] = ["raw-arrived", "arrived"];

/// Rules, each with what it says to people. A table is laid anew when that differs.
pub(super) type Rules = Vec<(Cow<'static, str>, Vec<Expr>)>;

/// Goes on only when the register's mark is one of ours; leaves the mark in `reg`, uses the one after it.
fn ours(word: u32) -> [Expr; 2] {
    let mask = RETURN_MASK.to_ne_bytes();
    [Expr::mask(reg(word), reg(word + 1), &mask), Expr::cmp(reg(word + 1), true, &RETURN_MARK.to_ne_bytes())]
}

/// Goes on only with addresses of a network in the first register.
fn within(network: &IpNetwork) -> [Expr; 2] {
    let (base, mask) = match network {
        IpNetwork::V4(n) => (n.network().octets().to_vec(), n.mask().octets().to_vec()),
        IpNetwork::V6(n) => (n.network().octets().to_vec(), n.mask().octets().to_vec()),
    };
    [Expr::mask(reg(0), reg(0), &mask), Expr::cmp(reg(0), true, &base)]
}

/// Goes back with packets one end of which is in a network: `four` and `six` are where that end is in their headers.
fn passed(
    network: &IpNetwork,
    (text, four, six): (&'static str, u32, u32),
) -> (Cow<'static, str>, Vec<Expr>) {
    let (proto, offset, length) = if network.is_ipv4() { (2_u8, four, 4) } else { (10, six, 16) };
    let mut rule = vec![
        Expr::meta(reg(0), libc::NFT_META_NFPROTO),
        Expr::cmp(reg(0), true, &[proto]),
        Expr::network(reg(0), offset, length),
    ];
    rule.extend(within(network));
    rule.push(Expr::verdict(libc::NFT_RETURN));
    (text.into(), rule)
}

/// Of what came by the overlay, goes on with flows from outside of it: first go back those of containers, which are most,
/// then what goes to a VIP, which another node sent here as it was, and the answers to such: they leave by their own routes.
fn foreign(networks: &[IpNetwork], vips: &[IpNetwork]) -> Rules {
    let inside = networks.iter().map(|network| passed(network, ("of the overlay", 12, 8)));
    let ends =
        [("to a VIP, sent here as it was", 16, 24), ("from a VIP that another node answered for", 12, 8)];
    inside.chain(vips.iter().flat_map(|network| ends.map(|end| passed(network, end)))).collect()
}

/// For flows from outside, a rule for each family of the overlay; the number of their VTEP's mark is in register 2.
fn each(networks: &[IpNetwork], text: &'static str, only: &[Expr], then: &[Expr]) -> Rules {
    let rule = |network: &IpNetwork| {
        let proto = if network.is_ipv4() { 2_u8 } else { 10 };
        let mut rule = vec![Expr::meta(reg(0), libc::NFT_META_NFPROTO), Expr::cmp(reg(0), true, &[proto])];
        rule.extend_from_slice(only);
        rule.extend([Expr::link(reg(0), 6, 6), Expr::map(reg(0), reg(2), VTEPS)]);
        rule.extend_from_slice(then);
        (text.into(), rule)
    };
    networks.iter().map(rule).collect()
}

/// Keeps conntrack away from the overlay's packets on the underlay. Each flow in the overlay has a source port of its own there
/// (RFC 7348 section 5), so there would be two entries more for it on both nodes, one for each direction.
///
/// What `arrives` counts only when it is for this host: a container or a guest of this host may be a node of another mesh.
fn own(device: &NewLink, arrives: bool) -> Rules {
    let rtnl::Kind::Vxlan(Vxlan { vni, port, .. }) = device.kind else { return Rules::new() };
    let mut rule = Expr::vxlan(vni, port).to_vec();
    if arrives {
        rule.extend(Expr::to_here(true));
    }
    rule.extend([Expr::notrack(), Expr::verdict(libc::NF_ACCEPT)]);
    vec![(format!("packets of VXLAN network {vni}, port {port}, need no tracking").into(), rule)]
}

/// Keeps the flows of each VTEP apart, before conntrack sees them.
fn zones(networks: &[IpNetwork]) -> Rules {
    each(networks, "apart from other nodes' flows", &[], &[Expr::set_zone(reg(2))])
}

/// The protocols with ports, and where their checksum is.
const PORTED: [(u8, u32); 2] = [(6, 16), (17, 6)];

/// Goes on with packets of a protocol, their checksum if any, and turns the first bit of the port at `offset`. Uses
/// registers 4 and 5.
fn turned((protocol, sum): (u8, u32), offset: u32) -> Vec<Expr> {
    let mut all = vec![Expr::meta(reg(4), libc::NFT_META_L4PROTO), Expr::cmp(reg(4), true, &[protocol])];
    if protocol == 17 {
        // Datagrams need have no sum (RFC 768).
        all.extend([Expr::transport(reg(4), sum, 2), Expr::cmp(reg(4), false, &[0; 2])]);
    }
    all.extend([
        Expr::transport(reg(4), offset, 2),
        Expr::flip(reg(4), &[0x80, 0]),
        Expr::set_transport(reg(4), offset, 2, sum),
    ]);
    all
}

/// Gives clients of each VTEP's flows ports that IPVS does not know them by.
fn shifts(networks: &[IpNetwork]) -> Rules {
    let shift = |of| each(networks, "apart from those of IPVS", &[], &turned(of, 0));
    PORTED.into_iter().flat_map(shift).collect()
}

/// Notes by which VTEP a foreign flow came in.
fn arrivals(networks: &[IpNetwork]) -> Rules {
    // NF_CT_STATE_BIT(IP_CT_NEW).
    let new = 8_u32.to_ne_bytes();
    let only = [
        Expr::ct(reg(0), libc::NFT_CT_STATE),
        Expr::mask(reg(0), reg(0), &new),
        Expr::cmp(reg(0), false, &[0; 4]),
    ];
    let note = [Expr::set_ct(reg(2), libc::NFT_CT_MARK)];
    each(networks, "came in at another node", &only, &note)
}

/// Marks answers of such flows.
fn answers() -> Rules {
    let mut rule = vec![Expr::ct(reg(0), libc::NFT_CT_MARK)];
    rule.extend(ours(0));
    // IP_CT_DIR_REPLY.
    rule.extend([Expr::ct(reg(1), libc::NFT_CT_DIRECTION), Expr::cmp(reg(1), true, &[1])]);
    rule.push(Expr::set_meta(reg(0), libc::NFT_META_MARK));
    vec![("goes back there".into(), rule)]
}

/// Gives translated flows of other nodes this node's address, where they go on to yet another node, and flows of
/// containers, where they leave the overlay: nobody outside knows the way back to those.
fn departing(bridge: &str, device: &str) -> Rules {
    let mut out = Expr::came_by(bridge, true).to_vec();
    out.extend(Expr::leaves_by(bridge, false));
    out.extend(Expr::leaves_by(device, false));
    out.push(Expr::masquerade());
    // What IPVS sends to a backend nf_tables does not take for translated.
    let ways = [Expr::translated(true), crate::dataplane::ipvs::ours()];
    let rule = |((set, proto, offset, len), way): ((&str, u8, u32, u32), &[Expr; 3])| {
        let mut rule = Expr::leaves_by(device, true).to_vec();
        rule.extend([Expr::meta(reg(0), libc::NFT_META_NFPROTO), Expr::cmp(reg(0), true, &[proto])]);
        rule.extend_from_slice(way);
        rule.extend([Expr::network(reg(0), offset, len), Expr::lookup(reg(0), set), Expr::masquerade()]);
        ("a node that dials another".into(), rule)
    };
    let of = [(NODES[0], 2, 12, 4), (NODES[1], 10, 8, 16)];
    let mut rules: Rules = ways.iter().flat_map(|way| of.map(|of| rule((of, way)))).collect();
    rules.push(("a container that leaves the overlay".into(), out));
    for (proto, offset, len) in [(libc::NFPROTO_IPV4, 12, 4), (libc::NFPROTO_IPV6, 8, 16)] {
        let rule = vec![
            Expr::meta(reg(0), libc::NFT_META_MARK),
            Expr::cmp(reg(0), true, &CLASH_MARK.to_ne_bytes()),
            Expr::meta(reg(0), libc::NFT_META_NFPROTO),
            Expr::cmp(reg(0), true, &[u8::try_from(proto).unwrap_or_default()]),
            Expr::network(reg(0), offset, len),
            Expr::immediate(reg(4), &PORTS[0].to_be_bytes()),
            Expr::immediate(reg(5), &PORTS[1].to_be_bytes()),
            Expr::snat(proto, reg(0), Some([reg(4), reg(5)])),
        ];
        rules.push(("its answers have another's place".into(), rule));
    }
    rules
}

/// Gives programs of this host its address on the overlay when another node is sent what they send to a VIP: as every node has
/// that, they have it themselves as their address. (Of IPv6, masquerading would choose it again: RFC 6724, rule 1.)
fn programs(device: &str, vips: &[IpNetwork], gateways: &[IpNetwork]) -> Rules {
    let mut rules = Rules::new();
    for vips in vips {
        let Some(own) = gateways.iter().find(|g| g.is_ipv4() == vips.is_ipv4()).map(IpNetwork::ip) else {
            continue;
        };
        let (proto, family, [from, to], address) = match own {
            IpAddr::V4(own) => (2_u8, libc::NFPROTO_IPV4, [12, 16], own.octets().to_vec()),
            IpAddr::V6(own) => (10, libc::NFPROTO_IPV6, [8, 24], own.octets().to_vec()),
        };
        let mut rule = Expr::leaves_by(device, true).to_vec();
        rule.extend([Expr::meta(reg(0), libc::NFT_META_NFPROTO), Expr::cmp(reg(0), true, &[proto])]);
        for offset in [from, to] {
            rule.push(Expr::network(reg(0), offset, u32::try_from(address.len()).unwrap_or(0)));
            rule.extend(within(vips));
        }
        rule.extend([Expr::immediate(reg(0), &address), Expr::snat(family, reg(0), None)]);
        rules.push((format!("a program that is sent on, as {own}").into(), rule));
    }
    rules
}

/// Sends marked packets to the VTEP they belong to.
fn departures(ipvs: bool) -> Rules {
    let mark = Expr::meta(reg(0), libc::NFT_META_MARK);
    let [masked, _] = ours(0);
    let other = Expr::cmp(reg(1), false, &RETURN_MARK.to_ne_bytes());
    let most = vec![mark.clone(), masked, other, Expr::verdict(libc::NF_ACCEPT)];
    let mut rules: Rules = vec![("all but such answers".into(), most)];
    let back = |of| ("as the client knows it".into(), turned(of, 2));
    rules.extend(PORTED.into_iter().filter(|_| ipvs).map(back));
    let known = vec![mark, Expr::map(reg(0), reg(2), MACS), Expr::set_link(reg(2), 0, 6)];
    let marked = vec![Expr::immediate(reg(0), &[0; 4]), Expr::set_meta(reg(0), libc::NFT_META_MARK)];
    rules.push(("to the node it came from".into(), known));
    rules.push(("the outer packet takes the usual way".into(), marked));
    rules
}

/// A chain; without a hook others lead to it.
pub(super) struct Chain {
    pub(super) name: &'static str,
    pub(super) hook: Option<Hook>,
    pub(super) rules: Rules,
}

/// What the rules depend on besides links.
pub(super) struct Ground<'a> {
    /// The overlay's networks.
    pub(super) networks: &'a [IpNetwork],
    /// Where VIPs are.
    pub(super) vips: &'a [IpNetwork],
    /// This node's addresses on the overlay.
    pub(super) gateways: &'a [IpNetwork],
    /// Whether the kernel has the egress hook; else only what departs is seen to.
    pub(super) leads: bool,
    /// Whether this node's data plane is IPVS.
    pub(super) ipvs: bool,
}

/// The tables for this bridge and this VXLAN device, each with its sets and its chains; a chain comes before those that lead to it.
pub(super) fn tables(
    bridge: &str,
    vxlan: &NewLink,
    ground: &Ground<'_>,
) -> Vec<(Table, Vec<Set>, Vec<Chain>)> {
    let Ground { networks, vips, gateways, leads, ipvs } = *ground;
    let device = vxlan.name.as_str();
    let hook = |kind, number, device: Option<&str>| {
        // The priority of mangle tables: after conntrack, before NAT.
        Hook { kind, number, priority: -150, device: device.map(str::to_owned) }
    };
    let to = |chain| {
        let mut rule = Expr::came_by(device, true).to_vec();
        rule.push(Expr::goto(chain));
        ("came by the overlay".into(), rule)
    };
    let mut early = foreign(networks, vips);
    early.extend(zones(networks));
    if ipvs {
        early.extend(shifts(networks));
    }
    let mut late = foreign(networks, vips);
    late.extend(arrivals(networks));
    let mut prerouting = vec![to(ARRIVED[1])];
    prerouting.extend(answers());
    let mut departed = programs(device, vips, gateways);
    departed.extend(vips.iter().map(|network| passed(network, ("answers from a VIP", 12, 8))));
    departed.extend(departing(bridge, device));
    let departing = Chain {
        name: "postrouting",
        hook: Some(Hook { priority: 90, ..hook(HookKind::Nat, libc::NF_INET_POST_ROUTING, None) }),
        rules: departed,
    };
    // Before conntrack, which is at -200.
    let raw = |name, number, rules| {
        let hook = Hook { priority: -300, ..hook(HookKind::Filter, number, None) };
        Chain { name, hook: Some(hook), rules }
    };
    let mut arriving = own(vxlan, true);
    if leads {
        arriving.push(to(ARRIVED[0]));
    }
    let mangle = hook(HookKind::Filter, libc::NF_INET_PRE_ROUTING, None);
    let output = hook(HookKind::Route, libc::NF_INET_LOCAL_OUT, None);
    let leading = vec![
        Chain { name: ARRIVED[0], hook: None, rules: early },
        Chain { name: ARRIVED[1], hook: None, rules: late },
        Chain { name: "prerouting", hook: Some(mangle), rules: prerouting },
        Chain { name: "output", hook: Some(output), rules: answers() },
    ];
    let mut inet = if leads { leading } else { Vec::new() };
    inet.extend([
        raw("raw", libc::NF_INET_PRE_ROUTING, arriving),
        raw("raw-output", libc::NF_INET_LOCAL_OUT, own(vxlan, false)),
        departing,
    ]);
    let vteps = Set::new(VTEPS, &[Kind::Ether], Holds::Data(&[Kind::Mark]));
    let nodes4 = Set::new(NODES[0], &[Kind::Ipv4], Holds::Keys);
    let nodes6 = Set::new(NODES[1], &[Kind::Ipv6], Holds::Keys);
    let mut all = vec![(Table::new(Family::Inet, TABLE), vec![vteps, nodes4, nodes6], inet)];
    if leads {
        let macs = Set::new(MACS, &[Kind::Mark], Holds::Data(&[Kind::Ether]));
        // NF_NETDEV_EGRESS, since 5.16.
        let hook = Some(hook(HookKind::Filter, 1, Some(device)));
        let egress = Chain { name: "egress", hook, rules: departures(ipvs) };
        all.push((Table::new(Family::Netdev, TABLE), vec![macs], vec![egress]));
    }
    all
}
