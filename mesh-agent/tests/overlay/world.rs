//! Nodes on an underlay, as namespaces, and the snapshot they share.

use ipnetwork::IpNetwork;
use mesh_agent::{
    overlay::{
        OverlayConfig,
        apply::{Applied, apply, teardown},
    },
    sys::{
        link,
        netns::Netns,
        rtnl::{Address, LinkChange, Route, Rtnl},
    },
};
use mesh_control::model::{Addresses, Family, Name, NodeInfo, NodeState, NodeView, Snapshot};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

/// Whether this process may make network namespaces; otherwise the test is skipped, loudly, and fails on CI.
pub(crate) fn permitted() -> bool {
    let Err(error) = Netns::new() else { return true };
    assert!(std::env::var_os("CI").is_none(), "network namespaces are needed here: {error}");
    eprintln!("SKIPPED: no network namespace can be made: {error}");
    false
}

/// Which addresses the nodes have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Underlay {
    V4,
    V6,
}

pub(crate) struct Node {
    pub(crate) netns: Netns,
    pub(crate) config: OverlayConfig,
    pub(crate) name: Name,
}

pub(crate) struct World {
    /// The switch between the nodes.
    pub(crate) hub: Netns,
    pub(crate) nodes: Vec<Node>,
    pub(crate) underlay: Underlay,
}

pub(crate) fn name(i: usize) -> Name {
    Name::new(&format!("n{i}")).unwrap()
}

pub(crate) fn underlay_address(underlay: Underlay, i: usize) -> IpAddr {
    let low = u16::try_from(i).unwrap() + 1;
    match underlay {
        Underlay::V4 => Ipv4Addr::from_bits(0xc000_0200 + u32::from(low)).into(),
        Underlay::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, low).into(),
    }
}

/// The subnets of node `i`, IPv4 and IPv6.
pub(crate) fn subnets(i: usize) -> Vec<IpNetwork> {
    let v4 = Ipv4Addr::from_bits(0x0af4_0000 + (u32::try_from(i).unwrap() << 8));
    let v6 = Ipv6Addr::new(0xfd00, 0x4d, 0, u16::try_from(i).unwrap(), 0, 0, 0, 0);
    vec![IpNetwork::new(v4.into(), 24).unwrap(), IpNetwork::new(v6.into(), 64).unwrap()]
}

impl World {
    pub(crate) fn new(nodes: usize, underlay: Underlay) -> World {
        let hub = Netns::new().unwrap();
        link::add_bridge(&hub, "switch").unwrap();
        let nodes = (0..nodes).map(|i| node(&hub, i, underlay)).collect();
        World { hub, nodes, underlay }
    }

    /// What node `me` sees of a mesh of `count` nodes.
    pub(crate) fn snapshot(&self, me: usize, count: usize) -> Snapshot {
        let mut snapshot = Snapshot::empty(name(me));
        for i in 0..count {
            let mut addresses = Addresses::default();
            addresses.set(underlay_address(self.underlay, i));
            let view = NodeView {
                name: name(i),
                info: NodeInfo { addresses, ..NodeInfo::default() },
                gossip: None,
                state: NodeState::Alive,
                subnets: subnets(i),
            };
            snapshot.set_node(name(i), Some(Arc::new(view)));
        }
        snapshot.set_own_subnets(subnets(me));
        snapshot
    }

    pub(crate) fn apply(&self, me: usize, count: usize) -> Applied {
        let snapshot = self.snapshot(me, count);
        let node = &self.nodes[me];
        node.rtnl(|rtnl| apply(rtnl, &node.config, &snapshot, &BOTH.into()).unwrap())
    }
}

pub(crate) const BOTH: [Family; 2] = [Family::V4, Family::V6];

impl Node {
    /// Does `work` in the node's namespace.
    pub(crate) fn rtnl<T: Send>(&self, work: impl FnOnce(&mut Rtnl) -> T + Send) -> T {
        rtnl(&self.netns, work)
    }

    pub(crate) fn teardown(&self) -> (Vec<String>, Vec<String>) {
        self.rtnl(|rtnl| teardown(rtnl, &self.config).unwrap())
    }
}

pub(crate) fn rtnl<T: Send>(netns: &Netns, work: impl FnOnce(&mut Rtnl) -> T + Send) -> T {
    netns.run(|| work(&mut Rtnl::open().unwrap())).unwrap()
}

fn node(hub: &Netns, i: usize, underlay: Underlay) -> Node {
    let netns = Netns::new().unwrap();
    link::connect(hub, "switch", &format!("port{i}"), &netns, "eth0").unwrap();
    let address = underlay_address(underlay, i);
    rtnl(&netns, |rtnl| {
        let lo = rtnl.link("lo").unwrap().unwrap().index;
        rtnl.change_link(lo, LinkChange::Up(true)).unwrap();
        let eth0 = rtnl.link("eth0").unwrap().unwrap().index;
        let network = IpNetwork::new(address, if address.is_ipv4() { 24 } else { 64 }).unwrap();
        rtnl.add_address(&Address { link: eth0, network }).unwrap();
    });
    let mut addresses = Addresses::default();
    addresses.set(address);
    let config = OverlayConfig {
        networks: vec!["10.244.0.0/16".parse().unwrap(), "fd00:4d::/48".parse().unwrap()],
        vip_cidrs: vec!["10.96.0.0/16".parse().unwrap(), "fd00:96::/112".parse().unwrap()],
        underlay: addresses,
        vni: OverlayConfig::VNI,
        port: OverlayConfig::PORT,
        bridge: OverlayConfig::BRIDGE.into(),
        device: OverlayConfig::DEVICE.into(),
        audit_interval: OverlayConfig::AUDIT,
    };
    Node { netns, config, name: name(i) }
}
