//! Hosts as network namespaces: an underlay, nodes on it, containers behind the nodes, a client outside.
//!
//! ```text
//!   client 192.0.2.200…209          node-1 192.0.2.1                    node-2 192.0.2.2
//!   2001:db8::c8…d1                 2001:db8::1                         2001:db8::2
//!      │ eth0                          │ eth0     lab0 ─┬─ container       │ eth0     lab0 ─── container
//!      └───────── hub (a bridge) ──────┴────────────────┼──────────────────┘
//!                                                       └─ container
//! ```
//!
//! Nothing has a name that another test could use, and all of it goes when the last [`Host`], process and socket has
//! gone, however the test ends.

mod capture;
mod host;
mod hosts;
mod links;
pub(crate) mod net;
mod process;

pub use capture::Capture;
pub use host::Host;
pub use hosts::Hosts;
pub use process::Process;

use ipnetwork::IpNetwork;
use mesh_agent::sys::ethtool::{set_gro, set_tx_checksum};
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// The bridge of the containers on a node, where the lab itself attaches them.
const BRIDGE: &str = "lab0";
/// The link to the underlay.
const UPLINK: &str = "eth0";
/// The last part of the client's first address, and how many it has.
const CLIENT: (u8, u8) = (200, 10);

/// Whether network namespaces can be made here. Says so when not, and fails when `CI` is set.
///
/// # Panics
/// Without the privileges when `CI` is set.
#[must_use]
pub fn possible() -> bool {
    let Err(error) = Host::new("probe") else { return true };
    assert!(std::env::var_os("CI").is_none(), "CI skips nothing: cannot make a network namespace: {error}");
    eprintln!("SKIPPED: cannot make a network namespace (root can): {error}");
    false
}

/// Whether this kernel has IPVS. Says so when not; the test machine's guests have it, and fail without.
///
/// # Panics
/// Without it when `MESH_VM` is set.
#[must_use]
pub fn has_ipvs() -> bool {
    let Err(error) = mesh_agent::sys::ipvs::Ipvs::open() else { return true };
    assert!(std::env::var_os("MESH_VM").is_none(), "a guest skips nothing: {error}");
    eprintln!("SKIPPED: {error}: `make test-vm` boots kernels that have it");
    false
}

/// This kernel's release, as `uname -r` says it.
fn release() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()
}

/// Whether this kernel has tcx, by which the eBPF programs hang at devices.
#[must_use]
pub fn has_tcx() -> bool {
    mesh_ebpf::place::has_tcx(&release())
}

/// Whether this kernel runs the eBPF programs: Linux 6.1. Says so when it is too old to.
#[must_use]
pub fn runs_ebpf() -> bool {
    let Some(why) = mesh_ebpf::place::too_old(&release()) else { return true };
    eprintln!("SKIPPED: {why}: `make test-vm` boots one that runs them");
    false
}

/// The IPv4 and the IPv6 address on the underlay of the host with this last part, with their prefixes.
fn underlay(last: u8) -> [IpNetwork; 2] {
    let v6 = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(last));
    [net::network(Ipv4Addr::new(192, 0, 2, last), 24), net::network(v6, 64)]
}

/// The hosts of one test.
#[derive(Debug)]
pub struct Lab {
    /// All of them; told of when the test fails.
    pub hosts: Hosts,
    hub: Host,
    nodes: Vec<Host>,
    /// Outside of the mesh.
    pub client: Host,
    containers: usize,
}

impl Lab {
    /// An underlay with `nodes` nodes, which forward, and a client.
    ///
    /// # Errors
    /// What the kernel says, with the host it says it of.
    pub fn of(nodes: u8) -> io::Result<Lab> {
        let mut hosts = Hosts::default();
        let hub = hosts.add("hub")?;
        hub.bridge("br0", &[])?;
        let mut on_hub = |name: &str, addresses: &[IpNetwork]| {
            let host = hosts.add(name)?;
            hub.cable("br0", &port(name), &host, UPLINK)?;
            host.addresses(UPLINK, addresses)?;
            io::Result::Ok(host)
        };
        let mut all = Vec::new();
        for i in 1..=nodes {
            let node = on_hub(&format!("node-{i}"), &underlay(i))?;
            node.forwards()?;
            all.push(node);
        }
        let addresses: Vec<IpNetwork> = (0..CLIENT.1).flat_map(|i| underlay(CLIENT.0 + i)).collect();
        let client = on_hub("client", &addresses)?;
        Ok(Lab { hosts, hub, nodes: all, client, containers: 0 })
    }

    /// The bridge of the underlay: all that goes between hosts passes it.
    #[must_use]
    pub fn hub(&self) -> &Host {
        &self.hub
    }

    /// How many nodes it has.
    #[must_use]
    pub fn nodes(&self) -> u8 {
        u8::try_from(self.nodes.len()).unwrap_or(u8::MAX)
    }

    /// The `i`-th node, from 1.
    #[must_use]
    pub fn node(&self, i: u8) -> &Host {
        &self.nodes[usize::from(i) - 1]
    }

    /// The addresses of the `i`-th node on the underlay, IPv4 and IPv6.
    #[must_use]
    pub fn address(&self, i: u8) -> [IpAddr; 2] {
        underlay(i).map(|a| a.ip())
    }

    /// The `i`-th IPv4 and IPv6 address of the client, from 0 to 9.
    #[must_use]
    pub fn client_address(&self, i: u8) -> [IpAddr; 2] {
        underlay(CLIENT.0 + i).map(|a| a.ip())
    }

    /// Pulls the cable of node `i` out of the underlay, or puts it in.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn plug(&self, i: u8, plugged: bool) -> io::Result<()> {
        self.hub.set_up(&port(&self.node(i).name), plugged)
    }

    /// Makes cables fit for programs at XDP: the hub's ends take their frames, and hosts leave no checksum to others.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn native(&self) -> io::Result<()> {
        for host in self.nodes.iter().chain([&self.client]) {
            self.hub.inside(|| set_gro(&port(&host.name), true)).flatten()?;
            host.inside(|| set_tx_checksum(UPLINK, false)).flatten()?;
        }
        Ok(())
    }

    /// A container on node `i`, on a bridge of the lab's own, with these addresses; its way out is the first address
    /// of each of their networks, which the node has.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn container(&mut self, i: u8, addresses: &[IpNetwork]) -> io::Result<Host> {
        let node = self.node(i).clone();
        self.containers += 1;
        let name = format!("{}-c{}", node.name, self.containers);
        let container = self.hosts.add(&name)?;
        if !node.has_link(BRIDGE) {
            let gateways: Vec<IpNetwork> = addresses.iter().map(|a| first(*a)).collect();
            node.bridge(BRIDGE, &gateways)?;
        }
        node.cable(BRIDGE, &port(&name), &container, UPLINK)?;
        node.hairpin(&port(&name))?;
        container.addresses(UPLINK, addresses)?;
        for address in addresses {
            container.route(everything(address.is_ipv6()), first(*address).ip())?;
        }
        Ok(container)
    }
}

/// The hub's or bridge's end of a cable: the last 15 bytes of its host's name, which is what a link's name holds.
fn port(name: &str) -> String {
    name.get(name.len().saturating_sub(15)..).unwrap_or(name).to_owned()
}

/// The first address of a network, with its prefix.
fn first(network: IpNetwork) -> IpNetwork {
    match network.network() {
        IpAddr::V4(a) => net::network(Ipv4Addr::from_bits(a.to_bits() + 1), network.prefix()),
        IpAddr::V6(a) => net::network(Ipv6Addr::from_bits(a.to_bits() + 1), network.prefix()),
    }
}

/// The network of all addresses of a family.
pub(crate) fn everything(v6: bool) -> IpNetwork {
    if v6 { net::network(Ipv6Addr::UNSPECIFIED, 0) } else { net::network(Ipv4Addr::UNSPECIFIED, 0) }
}
