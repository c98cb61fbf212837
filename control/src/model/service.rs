//! A service as it is declared: its ports and its policy.

use super::error::SpecError;
use super::{
    name::Name,
    port::{PortRange, Protocol},
};
use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt, net::IpAddr, str::FromStr, time::Duration};

/// What a source declares of a service. This is the value that gossip carries, so it never holds a command to run.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ServiceSpec {
    /// Whether the service owns a VIP.
    pub endpoint_mode: EndpointMode,
    /// Its ports; no two of one protocol overlap, unless they publish one and the same port at different places.
    pub ports: Vec<ServicePort>,
    /// Further names that DNS answers like the service's own, in its namespace.
    pub aliases: Vec<Name>,
    /// How a frontend of this service picks a backend.
    pub scheduler: Scheduler,
    /// Client-IP affinity, when wanted.
    pub affinity: Option<Affinity>,
    /// Which endpoints a node prefers.
    pub locality: Locality,
    /// What happens to a connection while there is no active backend.
    pub no_backend: NoBackend,
    /// How long old flows may stay on a draining backend before they are reset.
    pub drain: Duration,
    /// The check that the owner of each endpoint runs; absent means ready as declared.
    pub health: Option<HealthCheck>,
    /// Idle time after which a flow is forgotten (UDP) or closed (TCP); absent means the data plane's default.
    pub idle_timeout: Option<Duration>,
    /// Most concurrent flows to one backend; absent means no limit of its own.
    pub max_connections: Option<u32>,
    /// Seconds a DNS answer may be kept; absent means the server's default.
    pub ttl: Option<u32>,
    /// Free labels, shown and never interpreted.
    pub labels: BTreeMap<String, String>,
    // Later releases add fields here, at the end: `value::spec` reads the records of those before.
    /// Seconds that "this name has no such record" may be kept; absent means the server's default.
    pub negative_ttl: Option<u32>,
    /// DNS answers the service's name by this domain name (CNAME); only with [`EndpointMode::Dnsrr`].
    pub external_name: Option<String>,
}

impl ServiceSpec {
    /// The drain time of a service that names none: Docker's stop grace period.
    pub const DEFAULT_DRAIN: Duration = Duration::from_secs(10);

    /// No duration of a declaration is longer, so that deadlines made of it never overflow.
    pub const MAX_DURATION: Duration = Duration::from_secs(30 * 86_400);

    /// Checks what no type can say: ports that clash, an empty range, limits of every list and duration. Sources ask
    /// it before they declare, and the store asks it of what peers declare: a spec in a snapshot passed it.
    ///
    /// # Errors
    /// [`SpecError`] naming the field, the value and the fix.
    pub fn validate(&self) -> Result<(), SpecError> {
        let fail = |field: &str, problem: String| Err(SpecError { field: field.to_owned(), problem });
        if self.ports.len() > 1024 {
            return fail("ports", format!("{} ports: at most 1024 a service; use a range", self.ports.len()));
        }
        if self.aliases.len() > 256 || self.labels.len() > 256 {
            return fail("aliases", "at most 256 aliases and 256 labels a service".into());
        }
        if let Some((key, _)) = self.labels.iter().find(|(k, v)| k.len() > 1024 || v.len() > 16_384) {
            let key: String = key.chars().take(40).collect();
            return fail("labels", format!("`{key}`: at most 1024 bytes a key and 16384 a value"));
        }
        self.validate_times()?;
        for (i, port) in self.ports.iter().enumerate() {
            let field = format!("ports[{i}]");
            if port.target == 0 {
                return fail(&field, "target 0: name a port from 1 to 65535".into());
            }
            if let Some(Publish { address, allow, .. }) = &port.publish {
                if let Some(a) = address.filter(|a| !super::endpoint::is_unicast(*a)) {
                    return fail(&field, format!("{a} is no address of a node: name one, or leave it out"));
                }
                if allow.len() > 1024 {
                    return fail(&field, format!("{} networks in allow: at most 1024", allow.len()));
                }
            }
            if u32::from(port.target) + port.port.count() - 1 > 65_535 {
                return fail(
                    &field,
                    format!("target {} + {} ports runs past 65535", port.target, port.port.count()),
                );
            }
            if let Some(Publish { port: Some(published), .. }) = &port.publish
                && published.count() != port.port.count()
            {
                return fail(
                    &field,
                    format!("published {published} and port {} differ in length", port.port),
                );
            }
            for other in &self.ports[..i] {
                let same = other.protocol == port.protocol;
                if same && other.port.overlaps(port.port) && !other.publishes_again(port) {
                    return fail(&field, format!("port {}/{} is declared twice", port.port, port.protocol));
                }
                let clash = match (&other.publish, &port.publish) {
                    (Some(a), Some(b)) => {
                        same && a.address == b.address
                            && a.port.zip(b.port).is_some_and(|(a, b)| a.overlaps(b))
                    }
                    _ => false,
                };
                if clash {
                    return fail(
                        &field,
                        format!("a published port of {}/{} is declared twice", port.port, port.protocol),
                    );
                }
            }
        }
        if let Some(health) = &self.health {
            health.validate()?;
        }
        self.validate_external_name()
    }

    fn validate_external_name(&self) -> Result<(), SpecError> {
        let Some(name) = &self.external_name else { return Ok(()) };
        let shown: String = name.chars().take(80).collect();
        let fail = |problem: String| Err(SpecError { field: "external_name".to_owned(), problem });
        let label = |l: &str| {
            (1..=63).contains(&l.len()) && l.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
        };
        let text = name.strip_suffix('.').unwrap_or(name);
        if text.len() > 253 || !text.split('.').all(label) || text.parse::<IpAddr>().is_ok() {
            return fail(format!("`{shown}` is no domain name: write one such as db.example.org"));
        }
        if self.endpoint_mode != EndpointMode::Dnsrr {
            return fail(format!(
                "`{shown}` stands for the service, which so needs no VIP: set endpoint_mode dnsrr"
            ));
        }
        Ok(())
    }

    fn validate_times(&self) -> Result<(), SpecError> {
        let fail = |field: &str, problem: String| Err(SpecError { field: field.to_owned(), problem });
        let affinity = self.affinity.map(|a| a.timeout);
        if affinity.is_some_and(|timeout| timeout.is_zero()) {
            return fail("affinity.timeout", "0 s: use at least 1s, or leave affinity out".into());
        }
        if self.idle_timeout.is_some_and(|timeout| timeout.is_zero()) {
            return fail("idle_timeout", "0 s: use at least 1s, or leave it out".into());
        }
        if self.max_connections == Some(0) {
            return fail("max_connections", "0 lets nobody in: use at least 1, or leave it out".into());
        }
        for (field, ttl) in [("ttl", self.ttl), ("negative_ttl", self.negative_ttl)] {
            if let Some(ttl) = ttl.filter(|ttl| *ttl > i32::MAX.unsigned_abs()) {
                return fail(field, format!("{ttl}: at most 2147483647 seconds (RFC 2181 section 8)"));
            }
        }
        let health = self.health.as_ref();
        let times = [
            ("affinity.timeout", affinity),
            ("drain", Some(self.drain)),
            ("idle_timeout", self.idle_timeout),
            ("health.interval", health.map(|h| h.interval)),
            ("health.start_period", health.map(|h| h.start_period)),
        ];
        match times.into_iter().find(|(_, time)| time.is_some_and(|t| t > Self::MAX_DURATION)) {
            Some((field, _)) => fail(field, "longer than 30 days: use less".into()),
            None => Ok(()),
        }
    }
}

/// Whether clients get one virtual address or all endpoints.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EndpointMode {
    /// One VIP per address family, balanced by the data plane.
    #[default]
    Vip,
    /// DNS answers every ready endpoint, rotated; no VIP.
    Dnsrr,
}

/// One port (or one range of ports) of a service.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ServicePort {
    /// Its name, for SRV records.
    pub name: Option<Name>,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The ports clients dial on the VIP.
    pub port: PortRange,
    /// The endpoint's port for `port.first()`; the rest of the range follows one by one.
    pub target: u16,
    /// Where nodes open it to the outside.
    pub publish: Option<Publish>,
    /// Whether backends are told the client's address by a PROXY protocol v2 header (TCP only; userspace plane).
    pub proxy_protocol: bool,
}

impl ServicePort {
    /// Whether `other` is this port once more, published elsewhere. Of the places at most one is the mesh's choice.
    #[must_use]
    pub fn publishes_again(&self, other: &ServicePort) -> bool {
        let (Some(here), Some(there)) = (&self.publish, &other.publish) else { return false };
        let alike = ServicePort { publish: None, name: None, ..self.clone() }
            == ServicePort { publish: None, name: None, ..other.clone() };
        alike
            && (here.port, here.address) != (there.port, there.address)
            && (here.port.is_some() || there.port.is_some())
    }
}

/// A published port: a service port opened on nodes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Publish {
    /// The node's ports; absent means that the mesh claims one out of 30000–32767.
    pub port: Option<PortRange>,
    /// On every node, or only where a backend runs.
    pub mode: PublishMode,
    /// Open it on this local address only; absent means every address the node publishes on.
    pub address: Option<IpAddr>,
    /// Sources that may connect; empty means all.
    pub allow: Vec<IpNetwork>,
}

/// On which nodes a published port is open.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PublishMode {
    /// Every node of the mesh, whether it runs an instance or not.
    #[default]
    Ingress,
    /// Only nodes that run a backend, and only to their own backends.
    Host,
}

/// How a frontend picks a backend for a new flow.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scheduler {
    /// Round robin, one after the other; weights only decide between zero and not zero.
    #[default]
    Rr,
    /// Round robin, each as often as its weight says.
    Wrr,
    /// Least connections in proportion to weight.
    Lc,
    /// Consistent hashing (Eisenbud et al., "Maglev", NSDI 2016, section 3.4), the same table on all nodes.
    Maglev,
    /// Uniformly random in proportion to weight.
    Random,
}

impl Scheduler {
    /// Every scheduler, with the word that config and CLI use.
    pub const ALL: [(Scheduler, &'static str); 5] = [
        (Scheduler::Rr, "rr"),
        (Scheduler::Wrr, "wrr"),
        (Scheduler::Lc, "lc"),
        (Scheduler::Maglev, "maglev"),
        (Scheduler::Random, "random"),
    ];
}

impl fmt::Display for Scheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(Scheduler::ALL.iter().find(|(s, _)| s == self).map_or("?", |(_, word)| word))
    }
}

impl FromStr for Scheduler {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        Scheduler::ALL
            .iter()
            .find(|(_, word)| *word == s)
            .map(|(s, _)| *s)
            .ok_or_else(|| format!("`{s}` is no scheduler: use rr, wrr, lc, maglev or random"))
    }
}

/// Client-IP affinity of a service: flows of one client address go to one backend, whatever the port.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Affinity {
    /// How long after the client's last new flow the choice is remembered.
    pub timeout: Duration,
}

/// Which endpoints a node prefers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Locality {
    /// All alike.
    #[default]
    Any,
    /// Those of this node while there is one, else all.
    PreferLocal,
    /// Those of this node's zone while there is one, else all.
    PreferZone,
    /// Those of this node, never another's.
    LocalOnly,
}

/// What a frontend does with a new flow while it has no active backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NoBackend {
    /// TCP reset, ICMP port unreachable for UDP.
    #[default]
    Reject,
    /// Silence.
    Drop,
    /// Keep the connection waiting until a backend is there, within the data plane's bound.
    Hold,
}

/// A check over the network, run by the node that owns the endpoint.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HealthCheck {
    /// What is asked.
    pub kind: CheckKind,
    /// From the start of one check to the start of the next.
    pub interval: Duration,
    /// After which an unanswered check has failed.
    pub timeout: Duration,
    /// Successes in a row that make a failed endpoint ready.
    pub rise: u32,
    /// Failures in a row that make a ready endpoint not ready.
    pub fall: u32,
    /// Time after the start in which failures do not count.
    pub start_period: Duration,
}

/// What a [`HealthCheck`] asks. `port` is the endpoint's port; absent means the first TCP target.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckKind {
    /// A TCP connection that is accepted.
    Tcp {
        /// Port on the endpoint.
        port: Option<u16>,
    },
    /// An HTTP/1.1 GET answered with a status of 200 to 399.
    Http {
        /// Port on the endpoint.
        port: Option<u16>,
        /// The request's path, beginning with `/`.
        path: String,
        /// The Host header; absent means the endpoint's address.
        host: Option<String>,
    },
}

impl HealthCheck {
    fn validate(&self) -> Result<(), SpecError> {
        let fail =
            |field: &str, problem: String| Err(SpecError { field: format!("health.{field}"), problem });
        if self.interval < Duration::from_millis(100) {
            return fail("interval", format!("{:?} is too short: use at least 100ms", self.interval));
        }
        if self.timeout.is_zero() || self.timeout > Duration::from_secs(300) {
            return fail("timeout", format!("{:?}: use 1ms to 300s", self.timeout));
        }
        if self.rise == 0 || self.fall == 0 {
            return fail("rise", "rise and fall count checks in a row: use at least 1".into());
        }
        // Both are written into a request: nothing in them may end the line.
        let inert = |text: &str| !text.chars().any(|c| c == ' ' || c.is_control());
        if let CheckKind::Http { path, host, .. } = &self.kind {
            if !path.starts_with('/') || !inert(path) || path.len() > 1024 {
                return fail(
                    "path",
                    format!(
                        "`{}` must begin with / and have no blanks, at most 1024 bytes",
                        path.escape_debug()
                    ),
                );
            }
            if let Some(host) = host.as_ref().filter(|h| h.is_empty() || !inert(h) || h.len() > 255) {
                return fail(
                    "host",
                    format!("`{}` must be a host name of 1 to 255 bytes without blanks", host.escape_debug()),
                );
            }
        }
        if let CheckKind::Tcp { port: Some(0) } | CheckKind::Http { port: Some(0), .. } = &self.kind {
            return fail("port", "0: name a port from 1 to 65535, or leave it out".into());
        }
        Ok(())
    }
}
