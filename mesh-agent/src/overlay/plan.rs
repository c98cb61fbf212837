//! What this node's overlay should be: a pure function of the snapshot, the configuration and the underlay's MTU.
//!
//! ```text
//! container ─ veth ─ mesh0 (10.244.7.1/24) ─ routing ─ mesh-vx ─ UDP ─ the peer's mesh-vx ─ routing ─ its mesh0 ─ …
//!                          route    10.244.9.0/24 via 10.244.9.1 dev mesh-vx onlink src 10.244.7.1
//!                          neighbour 10.244.9.1 → the peer's MAC, FDB its MAC → its address on the underlay
//! ```
//! All is static, so nothing is ever flooded, learnt or resolved, and nothing is kept for a single endpoint. With
//! encryption the address on the underlay is one inside the tunnels ([`super::tunnel`]); all else is the same.

use super::{
    config::OverlayConfig,
    thing::Thing,
    tunnel::{self, address},
    vtep,
};
use crate::sys::rtnl::{Address, Fdb, Kind, Mac, Neighbour, NewLink, Route, Rule, Vxlan};
use ipnetwork::IpNetwork;
use mesh_control::model::{Family, NodeName, Snapshot, Tunnel, TunnelKey};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// Packets with this mark belong to flows that came in through another node and return through it. The low bits say
/// through which (a number of the data plane).
pub const RETURN_MARK: u32 = 0x4d00_0000;
/// Which bits of the mark say so.
pub const RETURN_MASK: u32 = 0xff00_0000;
/// Mark of packets that need another source port, as their answers would be taken for those of a flow that conntrack does
/// not know.
pub const CLASH_MARK: u32 = 0x4f00_0000;
/// Their routing table.
pub const RETURN_TABLE: u32 = 77;
/// The priority of the rule that leads there: before the main table, and before what VPNs usually add.
pub const RETURN_PRIORITY: u32 = 77;
/// The link-layer address of the router in that table: nobody's, the data plane writes the real one into each packet.
pub const RETURN_MAC: Mac = Mac([2, 0, 0, 0, 0, 0xff]);

/// The router in that table: a link-local address that nobody has.
fn return_router(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(169, 254, 77, 77).into(),
        Family::V6 => Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0x4d, 0x4d).into(),
    }
}

/// Another node of the overlay.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Peer {
    /// Its name.
    pub node: NodeName,
    /// Its VXLAN device's link-layer address, unlike that of every other peer.
    pub mac: Mac,
    /// Its address on the underlay.
    pub underlay: IpAddr,
    /// Where packets of the overlay are sent; absent when one of the two nodes encrypts and the other does not: then
    /// none are, lest they be read.
    pub remote: Option<IpAddr>,
    /// Its ends of the tunnels, the older first; empty without encryption.
    pub tunnels: Vec<Tunnel>,
    /// All its addresses there, with which its own programs dial other nodes.
    pub addresses: Vec<IpAddr>,
    /// Its subnets, at most one a family.
    pub subnets: Vec<IpNetwork>,
}

/// What this node's overlay should be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OverlayPlan {
    /// The bridge.
    pub bridge: NewLink,
    /// The VXLAN device.
    pub vxlan: NewLink,
    /// This node's address on the underlay.
    pub local: IpAddr,
    /// Largest packet of the overlay on the underlay, bytes.
    pub full: u32,
    /// The bridge's addresses with the length of this node's subnets, at most one a family: the gateways of containers.
    pub gateways: Vec<IpNetwork>,
    /// Where VIPs are.
    pub vips: Vec<IpNetwork>,
    /// The others, by name.
    pub peers: Vec<Peer>,
    /// Nodes that are left out and why, for people.
    pub problems: Vec<String>,
}

/// The first address of a subnet, which its node has itself.
#[must_use]
pub fn gateway(subnet: IpNetwork) -> IpAddr {
    match subnet.network() {
        IpAddr::V4(base) => Ipv4Addr::from_bits(base.to_bits() | 1).into(),
        IpAddr::V6(base) => Ipv6Addr::from_bits(base.to_bits() | 1).into(),
    }
}

/// What VXLAN adds to a packet: 14 bytes of inner Ethernet, 8 of VXLAN, 8 of UDP, and the outer IP header (RFC 7348
/// section 5).
fn overhead(underlay: IpAddr) -> u32 {
    if underlay.is_ipv4() { 50 } else { 70 }
}

/// RFC 8200 section 5; IPv4 would live with less, but nothing that people run does.
const LEAST_MTU: u32 = 1280;

/// The overlay of `snapshot.local`, whose packets leave from `local` through a link with `underlay_mtu` bytes.
#[must_use]
pub fn plan(snapshot: &Snapshot, config: &OverlayConfig, local: IpAddr, underlay_mtu: u32) -> OverlayPlan {
    let me = &snapshot.local;
    let gateways = snapshot.own_subnets.iter();
    let gateways = gateways.filter_map(|s| IpNetwork::new(gateway(*s), s.prefix()).ok()).collect();
    let mut problems = Vec::new();
    let sealed = config.encryption.is_some();
    // Where VXLAN sends from: an address of the tunnels is chosen by their routes.
    let source = if sealed { Ipv6Addr::UNSPECIFIED.into() } else { local };
    let headers = overhead(source) + if sealed { tunnel::overhead(local) } else { 0 };
    let mtu = underlay_mtu.saturating_sub(headers);
    if mtu < LEAST_MTU {
        let least = LEAST_MTU + headers;
        let problem =
            format!("the underlay's MTU of {underlay_mtu} leaves {mtu} bytes: make it {least} or more");
        problems.push(problem);
    }
    let peers = peers(snapshot, local, sealed, &mut problems);
    let vxlan = Vxlan { vni: config.vni, port: config.port, local: source, learning: false };
    OverlayPlan {
        bridge: NewLink { name: config.bridge.clone(), kind: Kind::Bridge, mac: vtep::bridge(me), mtu },
        vxlan: NewLink { name: config.device.clone(), kind: Kind::Vxlan(vxlan), mac: vtep::vtep(me), mtu },
        local,
        full: underlay_mtu,
        gateways,
        // Addresses of loopback cannot leave the host.
        vips: config.vip_cidrs.iter().copied().filter(|n| !n.network().is_loopback()).collect(),
        peers,
        problems,
    }
}

/// The nodes that hold subnets. Those that are down stay: packets to them lead nowhere else either way, and when they
/// return nothing has to be done.
fn peers(snapshot: &Snapshot, local: IpAddr, sealed: bool, problems: &mut Vec<String>) -> Vec<Peer> {
    let mut taken = BTreeMap::from([(vtep::vtep(&snapshot.local), &snapshot.local)]);
    let own = snapshot.nodes.get(&snapshot.local).into_iter().flat_map(|view| &view.info.tunnels);
    let mut keys: BTreeMap<TunnelKey, &NodeName> = own.map(|tunnel| (tunnel.key, &snapshot.local)).collect();
    let mut peers = Vec::new();
    for (node, view) in snapshot.nodes.iter().filter(|(node, _)| **node != snapshot.local) {
        if view.subnets.is_empty() {
            continue;
        }
        let Some(underlay) = view.info.addresses.get(Family::of(&local)) else {
            let family = if local.is_ipv4() { "IPv4" } else { "IPv6" };
            problems
                .push(format!("{node} has no {family} address in node.address, which this node sends from"));
            continue;
        };
        let mac = vtep::vtep(node);
        if let Some(other) = taken.insert(mac, node) {
            taken.insert(mac, other);
            problems.push(format!("{node} and {other} derive the same address {mac}: rename {node}"));
            continue;
        }
        let said = &view.info.tunnels;
        let twin = said.iter().find_map(|tunnel| keys.get(&tunnel.key)).map(|other| {
            format!(
                "{node} and {other} have the same WireGuard key: nothing is sent to {node}; restart its host"
            )
        });
        let refused = refusal(node, said, sealed).or(twin);
        keys.extend(said.iter().map(|tunnel| (tunnel.key, node)));
        let remote = if sealed { address::of_node(node).into() } else { underlay };
        let remote = refused.is_none().then_some(remote);
        let tunnels = if remote.is_some() { said.clone() } else { Vec::new() };
        problems.extend(refused);
        let addresses = view.info.addresses.iter().collect();
        let subnets = view.subnets.clone();
        peers.push(Peer { node: node.clone(), mac, underlay, remote, tunnels, addresses, subnets });
    }
    peers
}

/// Why nothing may be sent to a node that is known: lest it be read, of the two one does not encrypt.
fn refusal(node: &NodeName, tunnels: &[Tunnel], sealed: bool) -> Option<String> {
    let (does, not, place) = match (sealed, tunnels.is_empty()) {
        (true, true) => ("this node", node.as_str(), "there"),
        (false, false) => (node.as_str(), "this node", "here"),
        _ => return None,
    };
    Some(format!(
        "{does} encrypts and {not} does not: nothing is sent to {node}; write overlay.encryption: wireguard {place}"
    ))
}

impl OverlayPlan {
    /// What should be on the links of these indexes, and what leads to them.
    #[must_use]
    pub fn things(&self, bridge: u32, vxlan: u32) -> BTreeSet<Thing> {
        let mut things = BTreeSet::new();
        let own = |network: &IpNetwork| {
            self.gateways.iter().find(|g| g.is_ipv4() == network.is_ipv4()).map(IpNetwork::ip)
        };
        let route = |destination, via, link, source| {
            Thing::Route(Route { table: Route::MAIN, destination, via, link, source })
        };
        for gateway in &self.gateways {
            things.insert(Thing::Address(Address { link: bridge, network: *gateway }));
            if gateway.is_ipv4() {
                // A link without an address passes no packet whose sender is elsewhere, however loose rp_filter is
                // (`fib_validate_source`, no_addr): the subnet's first number, which is nobody's.
                let network = IpNetwork::from(gateway.network());
                things.insert(Thing::Address(Address { link: vxlan, network }));
            }
            things.extend(return_path(Family::of(&gateway.ip()), vxlan));
        }
        for vips in &self.vips {
            if let Some(source) = own(vips) {
                things.insert(route(*vips, None, bridge, Some(source)));
            }
        }
        for peer in &self.peers {
            if let Some(remote) = peer.remote {
                things.insert(Thing::Fdb(Fdb { link: vxlan, mac: peer.mac, remote }));
            }
            for subnet in &peer.subnets {
                let Some(source) = own(subnet) else { continue };
                let via = gateway(*subnet);
                things.insert(Thing::Neighbour(Neighbour { link: vxlan, address: via, mac: peer.mac }));
                things.insert(route(*subnet, Some(via), vxlan, Some(source)));
            }
        }
        things
    }
}

/// Where marked packets go: into the VXLAN device, whose egress hook writes the peer's address into them.
fn return_path(family: Family, vxlan: u32) -> [Thing; 3] {
    let router = return_router(family);
    let any: IpAddr = match family {
        Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
        Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
    };
    let table = RETURN_TABLE;
    let destination = IpNetwork::from(any);
    let destination = IpNetwork::new(destination.ip(), 0).unwrap_or(destination);
    let (priority, mark, mask) = (RETURN_PRIORITY, RETURN_MARK, RETURN_MASK);
    [
        Thing::Neighbour(Neighbour { link: vxlan, address: router, mac: RETURN_MAC }),
        Thing::Route(Route { table, destination, via: Some(router), link: vxlan, source: None }),
        Thing::Rule(Rule { family, priority, mark, mask, table }),
    ]
}
