//! Nodes on an underlay, as namespaces, and the snapshot they share.

use ipnetwork::IpNetwork;
use mesh_agent::{
    overlay::{
        OverlayConfig,
        apply::{Applied, apply, teardown},
        attach::{AttachError, AttachRequest, Attachment, Containers, Ground},
        host::OverlayError,
        plan::OverlayPlan,
    },
    sys::{
        link,
        netns::Netns,
        rtnl::{Address, LinkChange, Rtnl},
    },
};
use mesh_control::model::{Addresses, Family, Name, NodeInfo, NodeState, NodeView, Snapshot, Tunnel};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    process::Command,
    sync::Arc,
};

pub(crate) const BOTH: [Family; 2] = [Family::V4, Family::V6];

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
    /// What it told the others, as gossip would.
    pub(crate) tunnels: Vec<Tunnel>,
}

pub(crate) struct World {
    /// The switch between the nodes; it goes with the world.
    pub(crate) hub: Netns,
    pub(crate) nodes: Vec<Node>,
    underlay: Underlay,
}

pub(crate) fn name(i: usize) -> Name {
    Name::new(&format!("n{i}")).unwrap()
}

fn address(underlay: Underlay, i: usize) -> IpAddr {
    let low = u16::try_from(i).unwrap() + 1;
    match underlay {
        Underlay::V4 => Ipv4Addr::from_bits(0xc000_0200 + u32::from(low)).into(),
        Underlay::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, low).into(),
    }
}

/// The subnets of node `i`, IPv4 and IPv6.
pub(crate) fn subnets(i: usize) -> Vec<IpNetwork> {
    let v4 = Ipv4Addr::from_bits(0x0a80_0000 + (u32::try_from(i).unwrap() << 8));
    let v6 = Ipv6Addr::new(0xfd00, 0x4d, 0, u16::try_from(i).unwrap(), 0, 0, 0, 0);
    vec![IpNetwork::new(v4.into(), 24).unwrap(), IpNetwork::new(v6.into(), 64).unwrap()]
}

impl World {
    pub(crate) fn new(nodes: usize, underlay: Underlay) -> World {
        let hub = Netns::new().unwrap();
        link::add_bridge(&hub, "switch").unwrap();
        let mut world = World { hub, nodes: Vec::new(), underlay };
        for i in 0..nodes {
            let plug = |netns: &Netns| {
                link::connect(&world.hub, "switch", &format!("port{i}"), netns, "eth0").unwrap();
            };
            let node = world.node(i, plug);
            world.nodes.push(node);
        }
        world
    }

    /// Two nodes, each on the end of a cable whose other end is `port` in a namespace of its own.
    pub(crate) fn cabled(ends: &[Netns; 2]) -> World {
        let hub = Netns::new().unwrap();
        let mut world = World { hub, nodes: Vec::new(), underlay: Underlay::V4 };
        for (i, end) in ends.iter().enumerate() {
            let plug = |netns: &Netns| {
                output(end, "ip", "link add port type veth peer name eth0");
                output(end, "ip", &format!("link set eth0 netns {}", netns.path().display()));
                output(end, "ip", "link set port up");
                output(netns, "ip", "link set eth0 up");
            };
            let node = world.node(i, plug);
            world.nodes.push(node);
        }
        world
    }

    fn node(&self, i: usize, plug: impl FnOnce(&Netns)) -> Node {
        let netns = Netns::new().unwrap();
        plug(&netns);
        let address = address(self.underlay, i);
        rtnl(&netns, |rtnl| {
            let lo = rtnl.link("lo").unwrap().unwrap().index;
            rtnl.change_link(lo, LinkChange::Up(true)).unwrap();
            let eth0 = rtnl.link("eth0").unwrap().unwrap().index;
            let network = IpNetwork::new(address, if address.is_ipv4() { 16 } else { 64 }).unwrap();
            rtnl.add_address(&Address { link: eth0, network }).unwrap();
        });
        let mut addresses = Addresses::default();
        addresses.set(address);
        let config = OverlayConfig {
            networks: vec!["10.128.0.0/14".parse().unwrap(), "fd00:4d::/48".parse().unwrap()],
            vip_cidrs: vec!["10.96.0.0/16".parse().unwrap(), "fd00:96::/112".parse().unwrap()],
            underlay: addresses,
            vni: OverlayConfig::VNI,
            port: OverlayConfig::PORT,
            bridge: OverlayConfig::BRIDGE.into(),
            device: OverlayConfig::DEVICE.into(),
            audit_interval: OverlayConfig::AUDIT,
            probe_port: OverlayConfig::PROBE_PORT,
            probe_interval: OverlayConfig::PROBE,
            encryption: None,
            ipvs: false,
        };
        Node { netns, config, tunnels: Vec::new() }
    }

    /// What node `me` sees of a mesh of `count` nodes.
    pub(crate) fn snapshot(&self, me: usize, count: usize) -> Snapshot {
        let mut snapshot = Snapshot::empty(name(me));
        for i in 0..count {
            snapshot.set_node(name(i), Some(Arc::new(self.view(i))));
        }
        snapshot.set_own_subnets(subnets(me));
        snapshot
    }

    pub(crate) fn view(&self, i: usize) -> NodeView {
        let mut addresses = Addresses::default();
        addresses.set(address(self.underlay, i));
        let tunnels = self.nodes.get(i).map(|node| node.tunnels.clone()).unwrap_or_default();
        NodeView {
            name: name(i),
            info: NodeInfo { addresses, tunnels, ..NodeInfo::default() },
            gossip: None,
            state: NodeState::Alive,
            subnets: subnets(i),
        }
    }

    /// Brings node `me` of a mesh of `count` to where it should be.
    pub(crate) fn apply(&self, me: usize, count: usize) -> Applied {
        let applied = self.nodes[me].apply(&self.snapshot(me, count)).unwrap();
        assert!(applied.failed.is_empty(), "{:#?}", applied.failed);
        applied
    }

    /// Brings all nodes to where they should be.
    pub(crate) fn apply_all(&self) {
        for me in 0..self.nodes.len() {
            self.apply(me, self.nodes.len());
        }
    }

    pub(crate) fn plan(&self, me: usize) -> OverlayPlan {
        self.apply(me, self.nodes.len()).plan
    }

    /// Has the switch lose what is larger than `mtu` bytes on its way to node `i`, without a word.
    pub(crate) fn narrow(&self, i: usize, mtu: u32) {
        rtnl(&self.hub, |rtnl| {
            let port = rtnl.link(&format!("port{i}")).unwrap().unwrap().index;
            rtnl.change_link(port, LinkChange::Mtu(mtu)).unwrap();
        });
    }

    /// A new container on node `me`.
    pub(crate) fn container(&self, me: usize) -> (Netns, Attachment) {
        let netns = Netns::new().unwrap();
        let attached = self.attach(me, &request(&netns)).unwrap();
        (netns, attached)
    }

    pub(crate) fn attach(&self, me: usize, request: &AttachRequest) -> Result<Attachment, AttachError> {
        let (plan, snapshot) = (self.plan(me), &self.snapshot(me, self.nodes.len()));
        let networks = &self.nodes[me].config.networks;
        let ground = Ground { plan: &plan, networks, snapshot };
        self.nodes[me].rtnl(|rtnl| Containers::default().attach(rtnl, ground, request))
    }
}

pub(crate) fn request(netns: &Netns) -> AttachRequest {
    AttachRequest { netns: netns.path(), name: "eth0".into(), address: None }
}

impl Node {
    /// Does `work` in the node's namespace.
    pub(crate) fn rtnl<T: Send>(&self, work: impl FnOnce(&mut Rtnl) -> T + Send) -> T {
        rtnl(&self.netns, work)
    }

    pub(crate) fn apply(&self, snapshot: &Snapshot) -> Result<Applied, OverlayError> {
        self.rtnl(|rtnl| apply(rtnl, &self.config, snapshot, &BOTH.into()))
    }

    pub(crate) fn teardown(&self) -> Vec<String> {
        let (done, failed) = self.rtnl(|rtnl| teardown(rtnl, &self.config).unwrap());
        assert!(failed.is_empty(), "{failed:#?}");
        done
    }

    /// Runs a program in the node's namespace and returns what it prints.
    pub(crate) fn run(&self, program: &str, words: &str) -> String {
        output(&self.netns, program, words)
    }
}

pub(crate) fn rtnl<T: Send>(netns: &Netns, work: impl FnOnce(&mut Rtnl) -> T + Send) -> T {
    netns.run(|| work(&mut Rtnl::open().unwrap())).unwrap()
}

pub(crate) fn output(netns: &Netns, program: &str, words: &str) -> String {
    let run = || Command::new(program).args(words.split(' ')).output();
    let output = netns.run(run).unwrap().unwrap_or_else(|e| panic!("{program} (iproute2): {e}"));
    let problem = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {words}: {problem}");
    String::from_utf8(output.stdout).unwrap()
}

/// What `ip` and `bridge` print, without what the kernel counts or settles by itself.
pub(crate) fn steady(text: &str) -> Vec<String> {
    let still = |word: &&str| {
        let timer = word.contains('.') && word.parse::<f64>().is_ok();
        !timer && !word.ends_with("sec") && *word != "tentative"
    };
    // The routes to a link's own address of the link come when nobody else turns out to have that address.
    text.lines()
        .filter(|line| !line.starts_with("local fe80:") && !line.starts_with("anycast fe80:"))
        .map(|line| line.split_ascii_whitespace().filter(still).collect::<Vec<_>>().join(" "))
        .collect()
}

/// Fails with the lines that differ.
pub(crate) fn same(now: &[String], before: &[String]) {
    let more: Vec<_> = now.iter().filter(|line| !before.contains(line)).collect();
    let less: Vec<_> = before.iter().filter(|line| !now.contains(line)).collect();
    assert!(more.is_empty() && less.is_empty(), "new: {more:#?}\ngone: {less:#?}");
    assert_eq!(now.len(), before.len());
}
