//! What the overlay is started with.

use ipnetwork::IpNetwork;
use mesh_control::model::{Addresses, Family};
use std::{net::IpAddr, time::Duration};

/// Of this node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OverlayConfig {
    /// Where nodes claim their subnets, at most one network a family.
    pub networks: Vec<IpNetwork>,
    /// Where VIPs are claimed.
    pub vip_cidrs: Vec<IpNetwork>,
    /// This node's addresses on the underlay.
    pub underlay: Addresses,
    /// VXLAN network identifier, the same on every node.
    pub vni: u32,
    /// UDP port of VXLAN, the same on every node.
    pub port: u16,
    /// Name of the bridge that containers are attached to.
    pub bridge: String,
    /// Name of the VXLAN device.
    pub device: String,
    /// How often what the kernel holds is compared with what it should hold, were nothing to happen.
    pub audit_interval: Duration,
    /// UDP port on which nodes measure the paths between them, the same on every node.
    pub probe_port: u16,
    /// How often each path is measured, in a mesh of up to 32 others.
    pub probe_interval: Duration,
    /// Whether, and how, packets between nodes are sealed; the same on every node.
    pub encryption: Option<Encryption>,
    /// Whether this node's data plane is IPVS, which knows no zones of conntrack.
    pub ipvs: bool,
}

/// How WireGuard seals what goes between nodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Encryption {
    /// UDP port; the next one is used in turn with it when keys change.
    pub port: u16,
    /// How old a key gets before the node takes a new one.
    pub key_lifetime: Duration,
    /// How long a key from which nothing is sent any more is still announced, and for how long after that it is good.
    pub hold: Duration,
}

impl Default for Encryption {
    fn default() -> Self {
        let day = Duration::from_secs(24 * 3600);
        Encryption { port: 7948, key_lifetime: 30 * day, hold: Duration::from_secs(30) }
    }
}

impl OverlayConfig {
    /// The network identifier unless told otherwise: Docker Swarm counts from 4096, flannel takes 1, Cilium 2, and two
    /// devices of one identifier cannot stand on one port.
    pub const VNI: u32 = 77;
    /// IANA's port of VXLAN (RFC 7348 section 8).
    pub const PORT: u16 = 4789;
    /// The bridge unless told otherwise.
    pub const BRIDGE: &'static str = "mesh0";
    /// The VXLAN device unless told otherwise.
    pub const DEVICE: &'static str = "mesh-vx";
    /// The audit unless told otherwise.
    pub const AUDIT: Duration = Duration::from_secs(30);

    /// The port of probes unless told otherwise.
    pub const PROBE_PORT: u16 = 7947;
    /// Between two probes unless told otherwise.
    pub const PROBE: Duration = Duration::from_secs(60);

    /// Of no network: only the names of the links count, for taking them away.
    #[must_use]
    pub fn of_links(bridge: &str, device: &str) -> OverlayConfig {
        OverlayConfig {
            networks: Vec::new(),
            vip_cidrs: Vec::new(),
            underlay: Addresses::default(),
            vni: Self::VNI,
            port: Self::PORT,
            bridge: bridge.to_owned(),
            device: device.to_owned(),
            audit_interval: Self::AUDIT,
            probe_port: Self::PROBE_PORT,
            probe_interval: Self::PROBE,
            encryption: None,
            ipvs: false,
        }
    }

    /// Whether nodes claim subnets in a family.
    #[must_use]
    pub fn has(&self, family: Family) -> bool {
        self.networks.iter().any(|network| Family::of(&network.ip()) == family)
    }

    /// The address that this node's packets between nodes leave from and that the others send to: IPv4 where it has
    /// one, else IPv6. Absent when it has none that others reach.
    #[must_use]
    pub fn local(&self) -> Option<IpAddr> {
        self.underlay.first().filter(|address| !address.is_loopback() && !address.is_unspecified())
    }
}
