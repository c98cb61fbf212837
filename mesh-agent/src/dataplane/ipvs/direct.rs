//! Direct routing to the nodes that backends are on, for VIPs (`ipvs.forward: direct`).
//!
//! ```text
//! client ─▶ node that has the VIP's packet ─ Route ─▶ overlay, the packet as it is ─▶ backend's node ─ Masq ─▶ backend
//!    ▲                                                                                       │
//!    └──────────────────────────── from the VIP, by its own route ◀────────────────────────┘
//! ```
//!
//! LVS wants of a real server that it has the VIP, keeps silent about it and is reached without a router between. Every
//! node of the mesh is so, as seen from the others: it has all VIPs, nobody is asked for them, and the overlay is one link.
//! Containers are not, so it is their node that translates. A packet that came by the overlay has a mark of its own, by
//! which it meets a service of this node's backends alone: it is never sent on to another node while one is here.
//!
//! Pure but for [`sever`].

use super::{
    explain::unspelled,
    host::Ground,
    realize::Program,
    state::{Numbers, VipPort},
};
use crate::{
    dataplane::netfilter::{flows::over, layout::number as number_of, names::RESET},
    overlay::plan::gateway,
    plan::{Backend, Frontend, FrontendKey, Listen, maglev},
    sys::{
        conntrack::{Conntrack, Filter},
        ipvs::{Command, Destination, Virtual},
    },
};
use ipnetwork::IpNetwork;
use mesh_control::model::{NodeName, Protocol, Scheduler};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, SocketAddr},
    ops::ControlFlow,
};

/// Where nodes are that take packets to VIPs as they are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Direct {
    /// The overlay's device, by which such packets come.
    pub device: String,
    /// The overlay's networks, and the prefix length of a node's subnet. Were another node's longer, packets would still
    /// reach a node, which would send them on.
    pub networks: Vec<(IpNetwork, u8)>,
}

impl Direct {
    /// The address of the node that a backend is on; `None` of this one's, and of those outside the overlay.
    pub(super) fn hop(&self, own: &NodeName, backend: &Backend) -> Option<IpAddr> {
        if backend.id.node == *own {
            return None;
        }
        let (_, prefix) = self.networks.iter().find(|(network, _)| network.contains(backend.address))?;
        IpNetwork::new(backend.address, *prefix).ok().map(gateway)
    }
}

/// Whether packets to a frontend may go to nodes as they are: where the choice among all its backends is what matters,
/// one node has to make it.
pub(super) fn suits(frontend: &Frontend) -> bool {
    matches!(frontend.key.listen, Listen::Vip(_))
        && frontend.affinity.is_none()
        && frontend.max_connections.is_none()
        && frontend.scheduler != Scheduler::Maglev
}

/// The ports of a frontend on a VIP.
pub(super) fn ports(key: &FrontendKey) -> impl Iterator<Item = VipPort> + use<> {
    let vip = if let Listen::Vip(vip) = key.listen { Some(vip) } else { None };
    let (protocol, ports) = (key.protocol, key.ports);
    vip.into_iter().flat_map(move |vip| ports.iter().map(move |port| (vip, protocol, port)))
}

/// How many numbers there are, from 1 on.
const NUMBERS: u32 = (1 << 24) - 1;

/// Gives every port of a frontend that suits a number, from one of its own on, unless it has one. `false` when all are
/// taken.
pub(super) fn number(numbers: &mut Numbers, frontend: &Frontend) -> bool {
    if !suits(frontend) {
        return true;
    }
    ports(&frontend.key).all(|at| {
        if numbers.arriving(&at).is_some() {
            return true;
        }
        let own = maglev::client_hash(at.0) >> 32 ^ u64::from(at.2) << 1 ^ u64::from(at.1 == Protocol::Udp);
        let start = u32::try_from(own % u64::from(NUMBERS)).unwrap_or(0);
        let mut all = (0..NUMBERS).map(|n| (start + n) % NUMBERS + 1);
        all.any(|number| numbers.arrive(at, number))
    })
}

/// Nodes that no packets to a port go to any more, by what a change will delete.
pub(super) fn left(commands: &[Command], held: &BTreeMap<Virtual, Program>) -> BTreeSet<(VipPort, IpAddr)> {
    let mut all = BTreeSet::new();
    for command in commands {
        let (Command::DelDest(of, _) | Command::DelService(of)) = command else { continue };
        let Virtual::Address { at: vip, protocol } = *of else { continue };
        let protocol = if protocol == number_of(Protocol::Udp) { Protocol::Udp } else { Protocol::Tcp };
        let only = if let Command::DelDest(_, at) = command { Some(at) } else { None };
        let gone = held.get(of).into_iter().flat_map(|program| &program.destinations);
        let gone =
            gone.filter(|(at, how)| how.forward == Destination::ROUTE && only.is_none_or(|only| only == *at));
        all.extend(gone.map(|(at, _)| ((vip.ip(), protocol, vip.port()), at.ip())));
    }
    all
}

/// The connection of a line of IPVS's list (`/proc/net/ip_vs_conn`), if it leads to one of `hops`: port and client.
fn leads(line: &str, hops: &BTreeSet<(VipPort, IpAddr)>) -> Option<(VipPort, SocketAddr)> {
    let mut words = line.split_ascii_whitespace();
    let protocol = match words.next()? {
        "TCP" => Protocol::Tcp,
        "UDP" => Protocol::Udp,
        _ => return None,
    };
    let mut socket = || {
        let address = unspelled(words.next()?)?;
        Some(SocketAddr::new(address, u16::from_str_radix(words.next()?, 16).ok()?))
    };
    let (client, vip, hop) = (socket()?, socket()?, socket()?);
    let at = (vip.ip(), protocol, vip.port());
    hops.contains(&(at, hop.ip())).then_some((at, client))
}

/// Ends what was led to these nodes: connections are reset with the client's next packet, datagrams begin a new flow.
/// Conntrack cannot tell where they go, as they are not translated here. Costs time in connections.
pub(super) fn sever(
    ground: &Ground,
    conntrack: &mut Conntrack,
    hops: &BTreeSet<(VipPort, IpAddr)>,
) -> io::Result<()> {
    let mut ends = BTreeSet::new();
    ground.connections(|line| {
        ends.extend(leads(line, hops));
        ControlFlow::Continue(())
    })?;
    let mut flows = Vec::new();
    if !ends.is_empty() {
        conntrack.for_each(&Filter::default(), |flow| {
            let to = &flow.original;
            let protocol = match to.proto {
                6 => Protocol::Tcp,
                17 => Protocol::Udp,
                _ => return,
            };
            if ends.contains(&((to.dst, protocol, to.dport), SocketAddr::new(to.src, to.sport))) {
                flows.push(flow);
            }
        })?;
    }
    for flow in flows {
        match flow.original.proto {
            6 if over(&flow) => {}
            6 => drop(conntrack.set_mark(&flow, RESET, u32::MAX)?),
            _ => drop(conntrack.delete(&flow)?),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{BackendId, BackendState};
    use mesh_control::model::{Affinity, Name, PortRange};
    use std::time::Duration;

    fn key(port: u16) -> FrontendKey {
        let listen = Listen::Vip([10, 96, 0, 1].into());
        FrontendKey { listen, ports: PortRange::single(port).unwrap(), protocol: Protocol::Tcp }
    }

    #[test]
    fn a_backend_is_reached_through_its_node() {
        let networks = ["10.244.0.0/16", "fd44::/48"].map(|n| n.parse().unwrap());
        let direct =
            Direct { device: "mesh-vx".into(), networks: vec![(networks[0], 24), (networks[1], 64)] };
        let own = Name::new("n1").unwrap();
        let hop = |node: &str, address: &str| {
            let id = BackendId { instance: Name::new("a").unwrap(), node: Name::new(node).unwrap() };
            let state = BackendState::Active;
            let backend = Backend { id, address: address.parse().unwrap(), port: 80, weight: 1, state };
            direct.hop(&own, &backend).map(|hop| hop.to_string())
        };
        assert_eq!(hop("n2", "10.244.7.9").as_deref(), Some("10.244.7.1"));
        assert_eq!(hop("n2", "fd44:0:0:3::9").as_deref(), Some("fd44:0:0:3::1"));
        assert_eq!(hop("n1", "10.244.7.9"), None, "of this node");
        assert_eq!(hop("n2", "192.0.2.9"), None, "outside the overlay");
    }

    #[test]
    fn what_one_node_has_to_choose_is_not_sent_on() {
        let plain = Frontend::plain(key(80));
        let sticky = Some(Affinity { timeout: Duration::from_secs(1) });
        assert!(suits(&plain));
        assert!(!suits(&Frontend { affinity: sticky, ..plain.clone() }));
        assert!(!suits(&Frontend { max_connections: Some(1), ..plain.clone() }));
        assert!(!suits(&Frontend { scheduler: Scheduler::Maglev, ..plain.clone() }));
        let everywhere = FrontendKey { listen: Listen::AnyLocal(mesh_control::model::Family::V4), ..key(80) };
        assert!(!suits(&Frontend::plain(everywhere)), "no node has another's addresses");
    }

    #[test]
    fn every_port_has_a_number_of_its_own_until_its_frontend_goes() {
        let mut numbers = Numbers::default();
        let mut seen = BTreeSet::new();
        for port in 1..=2000 {
            assert!(number(&mut numbers, &Frontend::plain(key(port))));
            let at = ports(&key(port)).next().unwrap();
            assert!(seen.insert(numbers.arriving(&at).unwrap()));
        }
        let before = numbers.clone();
        assert!(number(&mut numbers, &Frontend::plain(key(7))) && numbers == before, "it has one");
        let at = ports(&key(7)).next().unwrap();
        let held = numbers.arriving(&at).unwrap();
        numbers.left(&key(7));
        assert_eq!(numbers.arriving(&at), None);
        assert!(numbers.arrive((at.0, Protocol::Udp, 9), held), "it is free");
        assert!(!numbers.arrive((at.0, Protocol::Udp, 10), held), "no more");
    }

    #[test]
    fn connections_to_a_node_are_found_in_the_list() {
        let at = (IpAddr::from([10, 96, 0, 1]), Protocol::Tcp, 80);
        let hops = BTreeSet::from([(at, IpAddr::from([10, 244, 7, 1]))]);
        let line = "TCP C0000201 C350 0A600001 0050 0AF40701 0050 ESTABLISHED     899";
        assert_eq!(leads(line, &hops), Some((at, "192.0.2.1:50000".parse().unwrap())));
        for other in [
            "UDP C0000201 C350 0A600001 0050 0AF40701 0050 UDP     899",
            "TCP C0000201 C350 0A600001 0051 0AF40701 0051 ESTABLISHED     899",
            "TCP C0000201 C350 0A600001 0050 0AF40801 0050 ESTABLISHED     899",
            "Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Expires PEName PEData",
            "TCP C0000201",
        ] {
            assert_eq!(leads(other, &hops), None, "{other}");
        }
    }
}
