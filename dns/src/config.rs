//! What the server is told at its start, and why it may refuse to.

use crate::{address::UpstreamAddress, scope::Scope, zone::ZoneError};
use ipnetwork::IpNetwork;
use std::{borrow::Cow, collections::BTreeMap, io, net::SocketAddr, path::PathBuf, time::Duration};

/// How to start a [`crate::DnsServer`].
#[derive(Clone, Debug)]
pub struct DnsConfig {
    /// Where to listen, UDP and TCP on each. Specific addresses only: from a wildcard a reply could leave by another
    /// address than the one asked. Port 0 takes a free port, the same for both protocols.
    pub listen: Vec<SocketAddr>,
    /// What the clients of each of these addresses see, in the same order; those of further addresses see all.
    pub scopes: Vec<Scope>,
    /// The zone, as `cluster`.
    pub domain: String,
    /// Seconds an answer may be kept where the service's `ttl` says nothing.
    pub ttl: u32,
    /// Seconds a negative answer may be kept.
    pub negative_ttl: u32,
    /// Who answers all other names.
    pub upstreams: Upstreams,
    /// Who answers the names in these domains instead, the longest domain first; nobody means REFUSED.
    pub domains: BTreeMap<String, Vec<UpstreamAddress>>,
    /// PEM certificates of the authorities that encrypted upstreams are trusted by; without, those of the host.
    pub upstream_ca: Option<PathBuf>,
    /// Networks (the VIP ranges) whose reverse names, those of whole octets or nibbles included, are answered here
    /// also where no address is in use, so that they never reach an upstream.
    pub local_reverse: Vec<IpNetwork>,
    /// The domain below which names are answered as Kubernetes writes them too, as `cluster.local`.
    pub kubernetes: Option<String>,
    /// One query in so many of each UDP worker and TCP connection is logged (`mesh_dns::query`, level info); none for 0.
    pub query_log: u64,
    /// Bounds on memory and time.
    pub limits: Limits,
}

impl Default for DnsConfig {
    /// Zone `cluster`, TTLs of 5 s, upstreams of `/etc/resolv.conf`, and nowhere to listen yet.
    fn default() -> Self {
        DnsConfig {
            listen: Vec::new(),
            scopes: Vec::new(),
            domain: "cluster".to_owned(),
            ttl: 5,
            negative_ttl: 5,
            upstreams: Upstreams::ResolvConf(PathBuf::from("/etc/resolv.conf")),
            domains: BTreeMap::new(),
            upstream_ca: None,
            local_reverse: Vec::new(),
            kubernetes: None,
            query_log: 0,
            limits: Limits::default(),
        }
    }
}

/// Where names that are not ours are asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Upstreams {
    /// Nowhere: such names are REFUSED.
    None,
    /// These servers, in this order.
    List(Vec<UpstreamAddress>),
    /// The `nameserver` lines of this file (resolv.conf(5)), followed as it changes; where it names systemd-resolved's
    /// stub, the servers behind that. A missing file or one without such a line is as `None` at the start, and changes
    /// nothing later. `options` are not looked at.
    ResolvConf(PathBuf),
}

/// Bounds. The defaults suit one node with some hundred containers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Threads for UDP, each with a socket of its own for each address; 0 for as many as there are cores, at most 8.
    pub udp_workers: usize,
    /// Whether replies of one length to one client may leave as one datagram that the kernel cuts up (UDP_SEGMENT in
    /// udp(7)). Where it cannot, they leave one by one.
    pub udp_gso: bool,
    /// TCP connections open at once, over all addresses; more are closed as they come.
    pub tcp_connections: usize,
    /// Of those, connections of one client; more are closed as they come. 0 for no such bound.
    pub client_connections: usize,
    /// How long a TCP connection may take for its next whole query, and for reading one answer.
    pub tcp_idle: Duration,
    /// Queries being forwarded at once; more are REFUSED.
    pub forwards: usize,
    /// Of those, queries of one client (an address, or an IPv6 /64); more are REFUSED. 0 for no such bound.
    pub client_forwards: usize,
    /// Queries a second that one client may ask, over all addresses and both transports; more are REFUSED. 0 for no
    /// bound.
    pub client_queries: u32,
    /// Queries that a client may ask at once after a pause, if there is such a bound; 0 for those of one second.
    pub client_burst: u32,
    /// How long one upstream may take before the next is tried.
    pub forward_try: Duration,
    /// How long all tries of one query may take; then SERVFAIL.
    pub forward_total: Duration,
    /// Replies of upstreams kept, about; 0 keeps none.
    pub cache_entries: usize,
    /// Memory that they take, in bytes, about.
    pub cache_bytes: usize,
    /// How long an expired reply may still be given when no upstream answers (RFC 8767).
    pub cache_stale: Duration,
    /// How long a client waits for the upstreams when there is such a reply.
    pub stale_after: Duration,
    /// How long the last known state is answered when no more snapshots come; then our names are SERVFAIL. `None` for
    /// ever.
    pub last_known: Option<Duration>,
    /// How long a failed upstream is skipped; doubled with every failure in a row, up to ten times as long.
    pub upstream_holdoff: Duration,
}

impl Limits {
    /// UDP workers of each address.
    pub(crate) fn workers(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(8);
        if self.udp_workers == 0 { cores() } else { self.udp_workers }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            udp_workers: 0,
            udp_gso: true,
            tcp_connections: 256,
            client_connections: 128,
            tcp_idle: Duration::from_secs(10),
            forwards: 512,
            client_forwards: 256,
            client_queries: 0,
            client_burst: 0,
            forward_try: Duration::from_secs(1),
            // Below the 5 s after which the libc resolvers ask again.
            forward_total: Duration::from_secs(4),
            cache_entries: 10_000,
            cache_bytes: 8 << 20,
            cache_stale: Duration::from_secs(3600),
            // RFC 8767 section 5.
            stale_after: Duration::from_millis(1800),
            last_known: Some(Duration::from_secs(24 * 3600)),
            upstream_holdoff: Duration::from_secs(3),
        }
    }
}

/// Why the server did not start; nothing keeps listening then.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    /// The domain is none.
    #[error(transparent)]
    Domain(#[from] ZoneError),
    /// The domain for Kubernetes' names is none.
    #[error("kubernetes.{0}")]
    Kubernetes(ZoneError),
    /// The domain for Kubernetes' names is the mesh's.
    #[error("kubernetes.domain: `{0}` is the mesh's own domain: use another, as cluster.local")]
    SameDomain(String),
    /// A scope without a namespace.
    #[error("listen: {0} shows no namespace: name at least one, or leave namespaces out to show all")]
    EmptyScope(SocketAddr),
    /// A scope whose default namespace cannot be seen.
    #[error(
        "listen: {address}: default_namespace `{namespace}` is not among its namespaces: add it there, or use one of them"
    )]
    HiddenDefault {
        /// The address as configured.
        address: SocketAddr,
        /// The namespace.
        namespace: String,
    },
    /// Nothing to listen on.
    #[error("listen: no address given: name at least one, as 127.0.0.1:53")]
    NowhereToListen,
    /// A wildcard address.
    #[error(
        "listen: `{0}` is a wildcard: name the addresses one by one, so that replies leave from the one asked"
    )]
    Wildcard(SocketAddr),
    /// The same address twice.
    #[error("listen: {0} stands there twice: leave one out")]
    Twice(SocketAddr),
    /// The address cannot be had.
    #[error("listen: cannot use {address} for {protocol} (port {}): {source}: {fix}", address.port())]
    Bind {
        /// The address as configured.
        address: SocketAddr,
        /// `UDP` or `TCP`.
        protocol: &'static str,
        /// What the kernel said.
        source: io::Error,
        /// What probably helps.
        fix: Cow<'static, str>,
    },
    /// No thread for the workers.
    #[error("cannot start a thread for DNS over UDP: {0}: allow more processes (ulimit -u, pids.max)")]
    Thread(#[source] io::Error),
    /// An upstream is this server.
    #[error(
        "upstreams: {0} is an address this server listens on, queries would go round in circles: leave it out"
    )]
    Loop(SocketAddr),
    /// An upstream that cannot be asked.
    #[error("upstreams: `{address}` {rule}")]
    Upstream {
        /// The address as configured.
        address: SocketAddr,
        /// What is wrong with it, and the fix.
        rule: &'static str,
    },
    /// A domain with upstreams of its own that is none.
    #[error(
        "domains: `{domain}` is no domain: write one, as corp.example; upstreams for all names belong to upstreams"
    )]
    UpstreamDomain {
        /// As configured.
        domain: String,
    },
    /// Encrypted upstreams cannot be trusted.
    #[error("upstream_ca: {0}")]
    Trust(String),
    /// A limit that leaves nothing working.
    #[error("limits: {field} is 0: use at least 1")]
    Limit {
        /// The field's name.
        field: &'static str,
    },
    /// The metrics are registered already.
    #[error("metrics: {0}: use one registry for each server")]
    Metrics(#[from] prometheus::Error),
}

impl DnsError {
    /// `owner` says who holds the address, when that is known.
    pub(crate) fn bind(
        address: SocketAddr,
        protocol: &'static str,
        source: io::Error,
        owner: Option<String>,
    ) -> Self {
        let fix = match source.kind() {
            io::ErrorKind::AddrInUse => {
                let holder =
                    owner.unwrap_or_else(|| "another process (often systemd-resolved or dnsmasq)".to_owned());
                let fix = format!("{holder} holds it: stop that, or listen on another address or port");
                return DnsError::Bind { address, protocol, source, fix: fix.into() };
            }
            io::ErrorKind::PermissionDenied => {
                "ports below 1024 need root or CAP_NET_BIND_SERVICE: grant it, or use a higher port"
            }
            io::ErrorKind::AddrNotAvailable => {
                "no interface of this host has the address: add it, or use another"
            }
            _ => "use another address or port",
        };
        DnsError::Bind { address, protocol, source, fix: fix.into() }
    }
}
