//! A frontend: address, ports and protocol that clients dial, and the policy behind them.

use ipnetwork::IpNetwork;
use mesh_control::model::{Affinity, Family, NoBackend, PortRange, Protocol, Scheduler, ServiceKey};
use serde::Serialize;
use std::{fmt, net::IpAddr, time::Duration};

/// Where a frontend is dialled.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "lowercase", tag = "kind", content = "value")]
pub enum Listen {
    /// A service's virtual IP.
    Vip(IpAddr),
    /// A published port on one local address.
    Address(IpAddr),
    /// A published port on every local address of a family.
    AnyLocal(Family),
}

impl Listen {
    /// Its address family.
    #[must_use]
    pub fn family(&self) -> Family {
        match self {
            Listen::Vip(a) | Listen::Address(a) => Family::of(a),
            Listen::AnyLocal(f) => *f,
        }
    }

    /// Whether it is a published port rather than a VIP port.
    #[must_use]
    pub fn is_published(&self) -> bool {
        !matches!(self, Listen::Vip(_))
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Listen::Vip(IpAddr::V6(a)) | Listen::Address(IpAddr::V6(a)) => write!(f, "[{a}]"),
            Listen::Vip(a) | Listen::Address(a) => write!(f, "{a}"),
            Listen::AnyLocal(Family::V4) => f.write_str("0.0.0.0"),
            Listen::AnyLocal(Family::V6) => f.write_str("[::]"),
        }
    }
}

/// What tells one frontend from another. Displayed `10.96.0.7:80/tcp`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize)]
pub struct FrontendKey {
    /// Address.
    pub listen: Listen,
    /// Ports.
    pub ports: PortRange,
    /// TCP or UDP.
    pub protocol: Protocol,
}

impl fmt::Display for FrontendKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}/{}", self.listen, self.ports, self.protocol)
    }
}

/// A frontend and its policy; its backends stand beside it in an [`super::Entry`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Frontend {
    /// Address, ports, protocol.
    pub key: FrontendKey,
    /// Whose frontend it is. Affinity is kept per service, not per frontend.
    pub service: ServiceKey,
    /// How a new flow picks a backend.
    pub scheduler: Scheduler,
    /// Client-IP affinity, when wanted.
    pub affinity: Option<Affinity>,
    /// What happens to a new flow while no backend is active.
    pub no_backend: NoBackend,
    /// Whether backends get a PROXY protocol v2 header.
    pub proxy_protocol: bool,
    /// Idle time of a flow; absent means the data plane's default.
    pub idle_timeout: Option<Duration>,
    /// Most concurrent flows to one backend.
    pub max_connections: Option<u32>,
    /// Sources that may connect; empty means all.
    pub allow: Vec<IpNetwork>,
}

#[cfg(test)]
impl Frontend {
    /// One of the service `web` that asks for nothing.
    pub(crate) fn plain(key: FrontendKey) -> Frontend {
        Frontend {
            key,
            service: ServiceKey::in_default("web").unwrap(),
            scheduler: Scheduler::Rr,
            affinity: None,
            no_backend: NoBackend::Reject,
            proxy_protocol: false,
            idle_timeout: None,
            max_connections: None,
            allow: Vec::new(),
        }
    }
}
