//! What the configuration says, checked and with defaults filled in.

use super::{ebpf::EbpfConfig, ipvs::IpvsConfig, links::OverlayLinks, values};
use ipnetwork::IpNetwork;
use mesh_control::OverlayNetwork;
use mesh_control::model::{Addresses, Name, PortRange};
use mesh_dns::{Limits, Scope, UpstreamAddress};
use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

/// A text that must not reach a log: its `Debug` does not show it and it has no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps `text`.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Secret(text.into())
    }

    /// The text itself.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// One node's configuration. `docs/config.md` shows every key with its default.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// `node:`
    pub node: NodeConfig,
    /// `cluster:`
    pub cluster: ClusterConfig,
    /// `domain:` the DNS zone, in lower case without the final dot.
    pub domain: String,
    /// `vip_cidr:` where VIPs are claimed, at most one network a family; the same on every node.
    pub vip_cidr: Vec<IpNetwork>,
    /// `overlay:` where nodes claim their subnets, at most one network a family; empty for no overlay.
    pub overlay: Vec<OverlayNetwork>,
    /// `overlay:` the links that carry its packets.
    pub overlay_links: OverlayLinks,
    /// `dynamic_ports:` where published ports without a number are claimed; the same on every node.
    pub dynamic_ports: PortRange,
    /// `data_plane:`
    pub data_plane: PlaneChoice,
    /// `ebpf:`
    pub ebpf: EbpfConfig,
    /// `ipvs:`
    pub ipvs: IpvsConfig,
    /// `userspace:`
    pub userspace: UserspaceConfig,
    /// `publish:`
    pub publish: PublishConfig,
    /// `dns:`
    pub dns: DnsConfig,
    /// `admin:`
    pub admin: AdminConfig,
    /// `metrics:`
    pub metrics: MetricsConfig,
    /// `sources:`
    pub sources: SourcesConfig,
    /// `log:`
    pub log: LogConfig,
    /// What is taken but better changed, each with its place and the fix; to be shown once.
    pub warnings: Vec<String>,
}

/// This node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeConfig {
    /// Its name, unique in the mesh; the host's name unless given.
    pub name: Name,
    /// Its addresses on the underlay, never empty; what others dial.
    pub addresses: Addresses,
    /// Its zone label.
    pub zone: Option<Name>,
}

/// Gossip.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClusterConfig {
    /// Where gossip listens, UDP and TCP.
    pub bind: SocketAddr,
    /// What the others are told to dial; never a wildcard.
    pub advertise: SocketAddr,
    /// `host:port` of nodes to join.
    pub join: Vec<String>,
    /// Cluster keys, base64 of 32 bytes each, at least one; the first seals, all open.
    pub keys: Vec<Secret>,
    /// Where state is kept over a restart; absent keeps none.
    pub data_dir: Option<PathBuf>,
}

/// Which data plane moves the packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PlaneChoice {
    /// The best that this build and host have.
    Auto,
    /// Programs of our own in the kernel; needs root and Linux 6.1.
    Ebpf,
    /// nf_tables of the kernel; needs root.
    Nftables,
    /// The kernel's virtual server; needs root.
    Ipvs,
    /// The userspace proxy; needs no privileges.
    Userspace,
}

/// The userspace data plane.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UserspaceConfig {
    /// Worker threads; absent means one a core.
    pub workers: Option<usize>,
    /// Most concurrent flows, TCP and UDP together.
    pub max_flows: usize,
    /// Idle time after which a UDP flow is forgotten, where the service names none.
    pub udp_idle_timeout: Duration,
    /// Idle time after which a TCP connection is closed, where the service names none; absent means never.
    pub tcp_idle_timeout: Option<Duration>,
    /// Time to connect to one backend before the next is tried.
    pub connect_timeout: Duration,
}

/// Published ports.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PublishConfig {
    /// Local addresses that published ports are opened on.
    pub addresses: Vec<IpAddr>,
    /// Links on whose addresses they are opened, too, whichever these are at the time.
    pub interfaces: Vec<String>,
}

impl PublishConfig {
    /// Whether published ports are opened on every local address.
    #[must_use]
    pub fn everywhere(&self) -> bool {
        self.addresses.is_empty() && self.interfaces.is_empty()
    }
}

/// The DNS server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DnsConfig {
    /// Whether it runs.
    pub enabled: bool,
    /// Where it listens, UDP and TCP; not empty while enabled.
    pub listen: Vec<SocketAddr>,
    /// What the clients of each of these addresses see.
    pub scopes: Vec<Scope>,
    /// Where names outside the mesh are asked.
    pub upstreams: Upstreams,
    /// Who answers the names in these domains instead, the longest domain first; nobody means refused.
    pub domains: BTreeMap<String, Vec<UpstreamAddress>>,
    /// A PEM file of the authorities that encrypted upstreams are trusted by; without, those of the host.
    pub upstream_ca: Option<PathBuf>,
    /// Seconds that an answer may be kept, where the service names none.
    pub ttl: u32,
    /// The same of an answer that there is nothing.
    pub negative_ttl: u32,
    /// The domain of names as Kubernetes writes them.
    pub kubernetes: Option<String>,
    /// What it may take of the host, and one client of it.
    pub limits: Limits,
    /// One query in so many is logged; none for 0.
    pub query_log: u64,
}

/// Where names outside the mesh are asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Upstreams {
    /// The nameservers of the host's `/etc/resolv.conf`.
    System,
    /// These; none means that other names are refused.
    List(Vec<UpstreamAddress>),
}

/// The admin API.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AdminConfig {
    /// Its unix socket.
    pub socket: Option<PathBuf>,
    /// Its TCP address; beyond loopback only with `token` or a client CA in `tls`.
    pub listen: Option<SocketAddr>,
    /// The bearer token that TCP clients must show, read from `token_file`.
    pub token: Option<Secret>,
    /// TLS on the TCP address.
    pub tls: Option<TlsConfig>,
}

/// Files of PEM for TLS; they exist and can be read at the time of the check.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TlsConfig {
    /// Certificate chain.
    pub cert: PathBuf,
    /// Private key.
    pub key: PathBuf,
    /// CA that client certificates must come from (mTLS).
    pub client_ca: Option<PathBuf>,
}

/// Prometheus metrics and the probes `/livez`, `/readyz`, `/healthz`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MetricsConfig {
    /// Their own TCP address; absent serves them on the admin API only.
    pub listen: Option<SocketAddr>,
}

/// Where services come from.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SourcesConfig {
    /// `sources.files:`
    pub files: Option<FilesConfig>,
}

/// Compose-shaped files.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FilesConfig {
    /// A folder of `*.yaml` and `*.yml`, or one file.
    pub path: PathBuf,
    /// How often the folder is looked at beside the kernel's notifications.
    pub poll: Duration,
}

/// Logs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogConfig {
    /// Shape of a line.
    pub format: LogFormat,
    /// `error`, `warn`, `info`, `debug`, `trace`, or a filter as `info,mesh_agent::health=debug`.
    pub level: String,
}

/// Shape of a log line.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum LogFormat {
    /// `key=value` pairs.
    #[default]
    Logfmt,
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

impl Config {
    /// The port of gossip, where none is given.
    pub const GOSSIP_PORT: u16 = values::GOSSIP_PORT;
    /// Where `/metrics` is served, where nothing is given.
    pub const METRICS_PORT: u16 = 9480;
    /// The admin API's unix socket, where nothing is given.
    pub const ADMIN_SOCKET: &str = "/run/mesh-agent/admin.sock";
}
