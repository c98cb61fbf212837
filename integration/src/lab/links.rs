//! A host's links, addresses and routes.

use super::{host::Host, net};
use ipnetwork::IpNetwork;
use mesh_agent::sys::link::add_bridge;
use std::{io, net::IpAddr};

impl Host {
    /// Adds a bridge with these addresses.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn bridge(&self, name: &str, addresses: &[IpNetwork]) -> io::Result<()> {
        add_bridge(self.netns(), name)?;
        self.addresses(name, addresses)
    }

    /// Lays a cable from a port of this host's bridge to `link` of `other`; packets pass when this returns.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn cable(&self, bridge: &str, port: &str, other: &Host, link: &str) -> io::Result<()> {
        net::cable(self, bridge, port, other, link)
    }

    /// Lets frames leave by the bridge port that they came from. A container needs it to reach itself through its node
    /// when bridged packets meet the packet filter (`bridge-nf-call-iptables`).
    ///
    /// # Errors
    /// What the kernel says.
    pub fn hairpin(&self, port: &str) -> io::Result<()> {
        net::hairpin(self, port)
    }

    /// Gives a link more addresses.
    ///
    /// # Errors
    /// The address and what the kernel says.
    pub fn addresses(&self, link: &str, addresses: &[IpNetwork]) -> io::Result<()> {
        net::add_addresses(self, link, addresses)
    }

    /// Sends what is for `to` to the neighbour `via`.
    ///
    /// # Errors
    /// The route and what the kernel says.
    pub fn route(&self, to: IpNetwork, via: IpAddr) -> io::Result<()> {
        net::add_route(self, to, net::To::Neighbour(via))
    }

    /// Takes every address of `network` for its own, unless a more exact route says otherwise.
    ///
    /// # Errors
    /// The route and what the kernel says.
    pub fn owns(&self, network: IpNetwork) -> io::Result<()> {
        net::add_route(self, network, net::To::Itself)
    }

    /// Whether it has a link of that name.
    #[must_use]
    pub fn has_link(&self, name: &str) -> bool {
        self.inside(|| net::index(name)).is_ok_and(|found| found.is_ok())
    }
}
