//! What was looked at.

use super::finding::Level;
use crate::{
    config::{Config, HookChoice, PlaneChoice, XdpChoice},
    sys::{conntrack::Usage, ruleset::Ruleset, vxlan::Vxlan},
};
use ipnetwork::IpNetwork;
use mesh_control::model::{PortRange, Protocol};
use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
};

/// The UDP port of VXLAN (RFC 7348 section 8).
pub(super) const VXLAN_PORT: u16 = 4789;

/// How much something is needed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Need {
    /// The configuration does without.
    No,
    /// It is used where it is there.
    Preferred,
    /// The configuration asks for it.
    Required,
}

impl Need {
    /// How bad it is when it is not there.
    #[must_use]
    pub fn missing(self) -> Level {
        match self {
            Need::No => Level::Ok,
            Need::Preferred => Level::Warn,
            Need::Required => Level::Fail,
        }
    }
}

/// A socket that the agent opens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listening {
    /// The configuration's key, or the service that publishes it.
    pub what: String,
    /// Where.
    pub at: SocketAddr,
    /// `TCP` or `UDP`.
    pub protocol: &'static str,
}

/// What the configuration asks of the host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wanted {
    /// A data plane in the kernel.
    pub kernel_plane: Need,
    /// Whether that is IPVS.
    pub ipvs: bool,
    /// The eBPF plane.
    pub ebpf: Need,
    /// How its programs are to hang at devices.
    pub hook: HookChoice,
    /// Whether it is to have a program in drivers.
    pub xdp: XdpChoice,
    /// Where it pins, if that is said.
    pub bpffs: Option<PathBuf>,
    /// Networks of the overlay.
    pub overlay: Vec<IpNetwork>,
    /// Whether it is encrypted.
    pub encrypted: bool,
    /// Networks of VIPs.
    pub vips: Vec<IpNetwork>,
    /// Where published ports without a number are taken from; unknown without a configuration.
    pub dynamic_ports: Option<PortRange>,
    /// Sockets.
    pub listening: Vec<Listening>,
    /// Links on whose addresses ports are published.
    pub interfaces: Vec<String>,
    /// Where the agent keeps its state.
    pub data_dir: Option<PathBuf>,
}

impl Wanted {
    /// What a configuration asks for, with the published ports of its service files.
    #[must_use]
    pub fn of(config: &Config) -> Wanted {
        let both = |what: &str, at: SocketAddr| {
            ["TCP", "UDP"].map(|protocol| Listening { what: what.to_owned(), at, protocol })
        };
        let mut listening = both("cluster.bind", config.cluster.bind).to_vec();
        if config.dns.enabled {
            listening.extend(config.dns.listen.iter().flat_map(|at| both("dns.listen", *at)));
        }
        let tcp = [("admin.listen", config.admin.listen), ("metrics.listen", config.metrics.listen)];
        listening.extend(
            tcp.into_iter().filter_map(|(what, at)| {
                at.map(|at| Listening { what: what.to_owned(), at, protocol: "TCP" })
            }),
        );
        if !config.overlay.is_empty() {
            let at = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), VXLAN_PORT);
            listening.push(Listening { what: "overlay.port".to_owned(), at, protocol: "UDP" });
            if let Some(encryption) = &config.overlay_links.encryption {
                let at = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), encryption.port);
                listening.push(Listening { what: "overlay.encryption_port".to_owned(), at, protocol: "UDP" });
            }
        }
        listening.extend(published(config));
        Wanted {
            kernel_plane: match config.data_plane {
                PlaneChoice::Auto => Need::Preferred,
                // IPVS has tables of nf_tables beside it.
                PlaneChoice::Nftables | PlaneChoice::Ipvs => Need::Required,
                PlaneChoice::Ebpf => Need::Preferred,
                PlaneChoice::Userspace => Need::No,
            },
            ipvs: config.data_plane == PlaneChoice::Ipvs,
            ebpf: match config.data_plane {
                PlaneChoice::Ebpf => Need::Required,
                _ => Need::No,
            },
            hook: config.ebpf.hook,
            xdp: config.ebpf.xdp,
            bpffs: config.ebpf.bpffs.clone(),
            overlay: config.overlay.iter().map(|overlay| overlay.network).collect(),
            encrypted: config.overlay_links.encryption.is_some(),
            vips: config.vip_cidr.clone(),
            dynamic_ports: Some(config.dynamic_ports),
            listening,
            interfaces: config.publish.interfaces.clone(),
            data_dir: config.cluster.data_dir.clone(),
        }
    }

    /// What an agent without a configuration of its own would ask for.
    #[must_use]
    pub fn unconfigured() -> Wanted {
        let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let at = |what: &str, port, protocol| Listening {
            what: what.to_owned(),
            at: SocketAddr::new(any, port),
            protocol,
        };
        Wanted {
            kernel_plane: Need::Preferred,
            ipvs: false,
            ebpf: Need::No,
            hook: HookChoice::Auto,
            xdp: XdpChoice::Off,
            bpffs: None,
            overlay: Vec::new(),
            encrypted: false,
            vips: Vec::new(),
            dynamic_ports: None,
            listening: vec![
                at("cluster.bind", Config::GOSSIP_PORT, "TCP"),
                at("cluster.bind", Config::GOSSIP_PORT, "UDP"),
                at("dns.listen", 53, "TCP"),
                at("dns.listen", 53, "UDP"),
                at("metrics.listen", Config::METRICS_PORT, "TCP"),
            ],
            interfaces: Vec::new(),
            data_dir: None,
        }
    }
}

/// At most this many published ports are looked at.
const MOST_PUBLISHED: usize = 512;

/// Published ports of the service files; files that cannot be read are `config check`'s matter.
fn published(config: &Config) -> Vec<Listening> {
    let Some(files) = &config.sources.files else { return Vec::new() };
    let services = crate::source::file::declared(&files.path, &config.node.name).unwrap_or_default();
    let mut all = Vec::new();
    for service in &services {
        let Some((_, spec)) = &service.declaration else { continue };
        for port in &spec.ports {
            let Some(publish) = &port.publish else { continue };
            let Some(ports) = publish.port else { continue };
            let protocol = match port.protocol {
                Protocol::Tcp => "TCP",
                Protocol::Udp => "UDP",
            };
            let given = publish.address.or(config.publish.addresses.first().copied());
            let address = given.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
            all.extend((ports.first()..=ports.last()).map(|port| Listening {
                what: format!("published by {}", service.key),
                at: SocketAddr::new(address, port),
                protocol,
            }));
        }
    }
    all.truncate(MOST_PUBLISHED);
    all
}

/// A socket that somebody has where the agent wants one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Held {
    /// What the agent wants.
    pub wanted: Listening,
    /// Who has it, as `` `dnsmasq` (pid 7) ``.
    pub by: String,
}

/// A feature of the kernel that was tried.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Probed {
    /// Its name.
    pub name: &'static str,
    /// The module that has it, where it is one.
    pub module: Option<&'static str>,
    /// Whether only the overlay needs it.
    pub overlay: bool,
    /// Why it is not there.
    pub missing: Option<String>,
}

/// What eBPF needs.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Bpf {
    /// The system call.
    pub syscall: bool,
    /// Types of the kernel (`/sys/kernel/btf/vmlinux`).
    pub btf: bool,
    /// A mounted cgroup2.
    pub cgroup2: bool,
}

/// The clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Clock {
    /// Seconds since 1970.
    pub unix: u64,
    /// Whether something keeps it right; absent when unknown.
    pub synchronised: Option<bool>,
    /// When an agent last wrote its state, in seconds since 1970.
    pub last_written: Option<u64>,
}

/// What a host is like.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Facts {
    /// What the configuration asks for.
    pub wanted: Wanted,
    /// Whether an agent answers here.
    pub agent: bool,
    /// The kernel's release, as `6.12.5-amd64`.
    pub kernel: String,
    /// Features that were tried in a namespace of their own, or why none could be.
    pub probes: Result<Vec<Probed>, String>,
    /// Kernel parameters by name, as `net.ipv4.ip_forward`; those that exist.
    pub sysctls: BTreeMap<&'static str, String>,
    /// The table of tracked connections, or why it cannot be read.
    pub conntrack: Result<Usage, String>,
    /// Sockets in the way.
    pub held: Vec<Held>,
    /// Links by name, with how many addresses each has that are not link-local, or why they cannot be read.
    pub links: Result<BTreeMap<String, usize>, String>,
    /// Rules of everybody, or why they cannot be read.
    pub ruleset: Result<Ruleset, String>,
    /// Tables of the old iptables, which nf_tables does not show.
    pub legacy_tables: Vec<String>,
    /// VXLAN devices.
    pub vxlans: Vec<Vxlan>,
    /// Routes of the main table with their links, without default routes and multicast.
    pub routes: Vec<(IpNetwork, String)>,
    /// For the eBPF data plane.
    pub bpf: Bpf,
    /// Devices whose drivers have its program.
    pub drivers: Vec<String>,
    /// Whether IPVS is loaded or built in.
    pub ipvs: bool,
    /// The clock.
    pub clock: Clock,
}
