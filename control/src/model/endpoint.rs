//! An endpoint: one running instance of a service, as its node announces it.

use super::{
    error::SpecError,
    name::{Name, NodeName},
    port::Family,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// At most one address of each family.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
pub struct Addresses {
    /// The IPv4 address.
    pub v4: Option<Ipv4Addr>,
    /// The IPv6 address.
    pub v6: Option<Ipv6Addr>,
}

impl Addresses {
    /// The address of one family.
    #[must_use]
    pub fn get(&self, family: Family) -> Option<IpAddr> {
        match family {
            Family::V4 => self.v4.map(IpAddr::V4),
            Family::V6 => self.v6.map(IpAddr::V6),
        }
    }

    /// Sets the address of `address`'s own family.
    pub fn set(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(a) => self.v4 = Some(a),
            IpAddr::V6(a) => self.v6 = Some(a),
        }
    }

    /// IPv4 first.
    pub fn iter(&self) -> impl Iterator<Item = IpAddr> + use<> {
        self.v4.map(IpAddr::V4).into_iter().chain(self.v6.map(IpAddr::V6))
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.v4.is_none() && self.v6.is_none()
    }

    /// The one to use where only one fits: IPv4 if there is one.
    #[must_use]
    pub fn first(&self) -> Option<IpAddr> {
        self.iter().next()
    }
}

impl From<IpAddr> for Addresses {
    fn from(address: IpAddr) -> Self {
        let mut a = Addresses::default();
        a.set(address);
        a
    }
}

impl fmt::Display for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<String> = self.iter().map(|a| a.to_string()).collect();
        f.pad(if texts.is_empty() { "-".to_owned() } else { texts.join(",") }.as_str())
    }
}

/// One running instance of a service. Conditions are those of a Kubernetes EndpointSlice.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Endpoint {
    /// The instance's name, unique in its service and node; DNS answers `INSTANCE.SERVICE`.
    pub instance: Name,
    /// Where it is reached; never empty.
    pub addresses: Addresses,
    /// Where this instance differs from the service's targets: target port → its own port.
    pub ports: BTreeMap<u16, u16>,
    /// Share of new flows, relative to the others'; 0 gets none.
    pub weight: u16,
    /// Takes new flows: alive, healthy and not terminating.
    pub ready: bool,
    /// Still answers, if only old flows.
    pub serving: bool,
    /// Is being stopped; set while it drains.
    pub terminating: bool,
    /// Unix time in milliseconds at which old flows are reset; only with `terminating`.
    pub drain_until: Option<u64>,
}

impl Endpoint {
    /// The weight of an endpoint that names none.
    pub const DEFAULT_WEIGHT: u16 = 100;

    /// A ready endpoint with the default weight.
    #[must_use]
    pub fn new(instance: Name, addresses: Addresses) -> Self {
        Endpoint {
            instance,
            addresses,
            ports: BTreeMap::new(),
            weight: Self::DEFAULT_WEIGHT,
            ready: true,
            serving: true,
            terminating: false,
            drain_until: None,
        }
    }

    /// Checks what no type can say. Sources ask it before they announce, and a snapshot holds no endpoint that fails it.
    /// Loopback addresses pass: a mesh may live on one machine.
    ///
    /// # Errors
    /// [`SpecError`] naming the field, the value and the fix.
    pub fn validate(&self) -> Result<(), SpecError> {
        let fail = |field: &str, problem: String| Err(SpecError { field: field.to_owned(), problem });
        if self.addresses.is_empty() {
            return fail("addresses", "it has no address: give it one".into());
        }
        if let Some(address) = self.addresses.iter().find(|a| !is_unicast(*a)) {
            return fail(
                "addresses",
                format!("{address} is no address to connect to: name the instance's own"),
            );
        }
        if self.ports.len() > 1024 {
            return fail("ports", format!("{} ports: at most 1024 an instance", self.ports.len()));
        }
        if self.ports.iter().any(|(target, own)| *target == 0 || *own == 0) {
            return fail("ports", "port 0: name ports from 1 to 65535".into());
        }
        Ok(())
    }

    /// The port on which this instance serves the service's `target` port.
    #[must_use]
    pub fn port_for(&self, target: u16) -> u16 {
        self.ports.get(&target).copied().unwrap_or(target)
    }
}

/// Whether an address can be one host's: not unspecified, multicast or broadcast.
pub(crate) fn is_unicast(address: IpAddr) -> bool {
    !address.is_unspecified() && !address.is_multicast() && address != IpAddr::V4(Ipv4Addr::BROADCAST)
}

/// An endpoint and the node that announced it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EndpointView {
    /// The node.
    pub node: NodeName,
    /// The node's zone.
    pub zone: Option<Name>,
    /// The endpoint as announced.
    pub endpoint: Endpoint,
}
