//! Real clients and real instances in namespaces, for planes that program the kernel of a node.
//!
//! ```text
//!   clients 10.9.0.0/16 ──10.10.0.0/24── node ──10.11.0.0/24── elsewhere: has every other address and refuses
//!                                          │                   aloud whatever is dialled there
//!                                10.44.0.1/16 (a bridge)
//!                                    │         │
//!                                two containers: instances in turns, each with an address of its own
//! ```
//!
//! In IPv6 the same with fd09::/64, fd10::/64, fd11::/64, fd44::/64. VIPs are 10.96.h.l and fd96::n.

use super::{
    fixture::{Dialed, PlaneUnderTest, Said, backend},
    hosted::Hosted,
    talk::{self, Opened, SocketFlow},
};
use crate::lab::{self, Host, Hosts};
use ipnetwork::IpNetwork;
use mesh_agent::{dataplane::DataPlane, plan::Backend};
use mesh_control::model::Protocol;
use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};
use tokio::task::JoinSet;

/// The node's bridges, each with the number of its network: of the clients, of elsewhere, of the containers.
const LINKS: [(&str, u8); 3] = [("clients", 10), ("uplink", 11), ("backends", 44)];

/// How to make a plane of the kernel.
pub trait KernelPlane {
    /// The plane.
    type Plane: DataPlane + Send;
    /// What it stands on beside the node's namespace; it outlives every run of the plane.
    type Ground: std::fmt::Debug + Sync;

    /// Prepares the ground, before any socket is opened.
    fn ground() -> Self::Ground;

    /// A new run of it. Called on a thread that is in the node's namespace, with tokio's runtime entered.
    fn make(ground: &Self::Ground) -> Self::Plane;

    /// Whether sockets of the node itself are led to backends, not their packets: one that sends datagrams then meets an
    /// error when its backend is gone, and its program connects again.
    fn leads_sockets() -> bool {
        false
    }

    /// See [`PlaneUnderTest::shards`].
    fn shards() -> u32 {
        1
    }

    /// See [`PlaneUnderTest::rejects_udp_beside_old_flows`].
    fn rejects_udp_beside_old_flows() -> bool {
        true
    }

    /// See [`PlaneUnderTest::maglev_is_ours`].
    fn maglev_is_ours() -> bool {
        true
    }

    /// See [`PlaneUnderTest::affinity_ends_with_its_timeout`].
    fn affinity_ends_with_its_timeout() -> bool {
        true
    }

    /// Whether this kernel has what it needs; says so when not.
    fn possible() -> bool {
        true
    }
}

/// The fixture of a [`KernelPlane`], of one address family, with the clients on another host or on the node.
#[derive(Debug)]
pub struct Kernel<K: KernelPlane, const V6: bool, const ON_NODE: bool> {
    /// All hosts; told of when a test fails, before the plane and its sockets go.
    pub hosts: Hosts,
    plane: Option<K::Plane>,
    instances: JoinSet<()>,
    handed_out: u16,
    node: Host,
    /// Where the instances are, in turns.
    containers: Vec<Host>,
    /// Where the clients are.
    clients: Host,
    ground: K::Ground,
}

/// Clients of another host, IPv4.
pub type Routed4<K> = Kernel<K, false, false>;
/// Clients of another host, IPv6.
pub type Routed6<K> = Kernel<K, true, false>;
/// Clients that are processes of the node, IPv4.
pub type OnNode4<K> = Kernel<K, false, true>;
/// Clients that are processes of the node, IPv6.
pub type OnNode6<K> = Kernel<K, true, true>;

/// The `n`th address of one of the networks above, by its second byte.
fn address(v6: bool, network: u8, n: u16) -> IpAddr {
    let [high, low] = n.to_be_bytes();
    if v6 {
        // Digits stay digits: 96 is fd96.
        let digits = ((network / 10) << 4) | (network % 10);
        return [0xfd00 | u16::from(digits), 0, 0, 0, 0, 0, 0, n].into();
    }
    [10, network, high, low].into()
}

impl<K: KernelPlane, const V6: bool, const ON_NODE: bool> Kernel<K, V6, ON_NODE> {
    /// The `n`th address of a network, with the prefix of the network.
    fn at(network: u8, n: u16) -> IpNetwork {
        let prefix = match (V6, network) {
            (true, _) => 64,
            (false, 10 | 11) => 24,
            (false, _) => 16,
        };
        lab::net::network(address(V6, network, n), prefix)
    }

    fn build() -> io::Result<Self> {
        let ground = K::ground();
        let mut hosts = Hosts::default();
        let node = hosts.add("node")?;
        node.forwards()?;
        let everything = lab::everything(V6);
        // As the overlay sets it: a way around the node would be a way around its translation.
        for which in ["all", "default"] {
            node.sysctl(&format!("net/ipv4/conf/{which}/send_redirects"), "0")?;
        }
        // Every refusal is told, as far as these settings reach (icmp(7)).
        node.sysctl("net/ipv4/icmp_ratemask", "0")?;
        node.sysctl("net/ipv6/icmp/ratelimit", "0")?;
        for (link, network) in LINKS {
            node.bridge(link, &[Self::at(network, 1)])?;
        }
        let mut neighbour = |name: &str, (link, network): (&str, u8), n: u16| {
            let host = hosts.add(name)?;
            node.cable(link, name, &host, "eth0")?;
            host.addresses("eth0", &[Self::at(network, n)])?;
            io::Result::Ok(host)
        };
        let clients = neighbour("client", LINKS[0], 2)?;
        let elsewhere = neighbour("elsewhere", LINKS[1], 2)?;
        let containers = vec![neighbour("even", LINKS[2], 2)?, neighbour("odd", LINKS[2], 3)?];
        for container in &containers {
            node.hairpin(&container.name)?;
            container.route(everything, address(V6, 44, 1))?;
        }
        clients.route(everything, address(V6, 10, 1))?;
        node.route(everything, address(V6, 11, 2))?;
        elsewhere.sysctl("net/ipv4/icmp_ratemask", "0")?;
        elsewhere.sysctl("net/ipv6/icmp/ratelimit", "0")?;
        elsewhere.owns(everything)?;
        for network in [9, 44] {
            elsewhere.route(Self::at(network, 0), address(V6, 11, 1))?;
        }
        if ON_NODE {
            node.owns(Self::at(9, 0))?;
        } else {
            node.route(Self::at(9, 0), address(V6, 10, 2))?;
            clients.owns(Self::at(9, 0))?;
        }
        let clients = if ON_NODE { node.clone() } else { clients };
        Ok(Kernel {
            hosts,
            plane: None,
            instances: JoinSet::new(),
            handed_out: 0,
            node,
            containers,
            clients,
            ground,
        })
    }

    /// Ends the run of the plane, which leaves the kernel as it is; another begins when it is asked for.
    pub fn stop(&mut self) {
        self.plane = None;
    }

    /// What the plane stands on.
    #[must_use]
    pub fn ground(&self) -> &K::Ground {
        &self.ground
    }

    fn number(&mut self) -> u16 {
        self.handed_out += 1;
        self.handed_out
    }
}

impl<K: KernelPlane, const V6: bool, const ON_NODE: bool> PlaneUnderTest for Kernel<K, V6, ON_NODE> {
    type Plane = K::Plane;
    type Flow = SocketFlow;

    fn possible() -> bool {
        lab::possible() && K::possible()
    }

    async fn start() -> Self {
        Self::build().expect("a lab")
    }

    fn plane(&mut self) -> &mut K::Plane {
        let (node, ground) = (&self.node, &self.ground);
        self.plane.get_or_insert_with(|| node.inside(|| K::make(ground)).expect("the node's namespace"))
    }

    async fn restart(&mut self) {
        // The old run ends before the next begins, as with a process.
        self.stop();
        self.plane();
    }

    fn shards(&self) -> u32 {
        K::shards()
    }

    fn rejects_udp_beside_old_flows(&self) -> bool {
        K::rejects_udp_beside_old_flows()
    }

    fn maglev_is_ours(&self) -> bool {
        K::maglev_is_ours()
    }

    fn affinity_ends_with_its_timeout(&self) -> bool {
        K::affinity_ends_with_its_timeout()
    }

    fn vip(&mut self, _ports: u16) -> SocketAddr {
        (address(V6, 96, self.number()), 80).into()
    }

    fn published(&mut self) -> SocketAddr {
        (address(V6, 10, 1), 20_000 + self.number()).into()
    }

    async fn serve(&mut self, instance: &str, ports: u16) -> Backend {
        // The first three are the bridge's and the containers' own.
        let number = self.number() + 3;
        let (own, container) = (Self::at(44, number), &self.containers[usize::from(number % 2)]);
        container.addresses("eth0", &[own]).expect("a new address");
        let opened = container.inside(|| Opened::at(own.ip(), ports)).flatten();
        let opened = opened.expect("free ports of an address of its own");
        let port = opened.serve(instance, &mut self.instances).expect("sockets that were just opened");
        backend(instance, own.ip(), port)
    }

    fn client(&self, n: u16) -> IpAddr {
        address(V6, 9, n)
    }

    async fn dial(
        &mut self,
        client: IpAddr,
        to: SocketAddr,
        protocol: Protocol,
        patience: Duration,
    ) -> Dialed<SocketFlow> {
        // A backend may be a client too.
        let instance = (0..=self.handed_out + 3).find(|n| client == address(V6, 44, *n));
        let host = instance.map_or(&self.clients, |n| &self.containers[usize::from(n % 2)]);
        let socket = host.inside(|| talk::client(client, protocol)).flatten();
        let again = (ON_NODE && instance.is_none() && K::leads_sockets()).then_some(to);
        let socket = socket.unwrap_or_else(|e| panic!("{client}: {e}"));
        talk::dial_again(socket, to, protocol, patience, again).await
    }

    async fn say(&mut self, flow: &mut SocketFlow, patience: Duration) -> Said {
        flow.say(patience).await
    }

    async fn half_close(&mut self, flow: &mut SocketFlow, patience: Duration) -> Said {
        flow.half_close(patience).await
    }

    async fn hang_up(&mut self, flow: SocketFlow) {
        drop(flow);
    }
}

impl<K: KernelPlane, const V6: bool, const ON_NODE: bool> Hosted for Kernel<K, V6, ON_NODE> {
    fn node(&self) -> &Host {
        &self.node
    }

    fn clients(&self) -> &Host {
        &self.clients
    }

    fn part_containers(&self) {
        // The half that all instances are in goes before the whole network, which is on the link.
        let whole = Self::at(44, 0);
        let half = lab::net::network(whole.ip(), whole.prefix() + 1);
        for container in &self.containers {
            container.route(half, address(V6, 44, 1)).expect("a new route");
        }
    }

    fn addresses(&self) -> Vec<IpAddr> {
        [10, 11, 44].map(|network| address(V6, network, 1)).into()
    }
}
