//! Tests of the plan, and the little worlds they are about.

mod compile;
mod maglev;
mod properties;

use crate::plan::{
    facts::NodeFacts,
    ops::{Entry, Op},
};
use mesh_control::model::{
    Addresses, Affinity, Endpoint, EndpointView, Locality, Name, PortRange, Protocol, Publish, PublishMode,
    PublishedView, Scheduler, ServiceKey, ServicePort, ServiceSpec, ServiceView,
};
use std::{sync::Arc, time::Duration};

pub(super) fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

pub(super) fn key(text: &str) -> ServiceKey {
    ServiceKey::in_default(text).unwrap()
}

pub(super) fn range(text: &str) -> PortRange {
    text.parse().unwrap()
}

/// Node `n1` in zone `z1`, where every plan of these tests is made.
pub(super) fn n1() -> NodeFacts {
    NodeFacts { name: name("n1"), zone: Some(name("z1")) }
}

pub(super) fn port(ports: &str, target: u16) -> ServicePort {
    ServicePort {
        name: None,
        protocol: Protocol::Tcp,
        port: range(ports),
        target,
        publish: None,
        proxy_protocol: false,
    }
}

/// An endpoint `INSTANCE` on `NODE` with addresses, in zone `z1` for n1 and n2 and `z2` for others.
pub(super) fn endpoint(instance: &str, node: &str, addresses: &[&str]) -> EndpointView {
    let mut all = Addresses::default();
    addresses.iter().for_each(|a| all.set(a.parse().unwrap()));
    let zone = if ["n1", "n2"].contains(&node) { "z1" } else { "z2" };
    EndpointView { node: name(node), zone: Some(name(zone)), endpoint: Endpoint::new(name(instance), all) }
}

/// A service `web` with VIP 10.96.0.7.
pub(super) fn service(ports: Vec<ServicePort>, endpoints: Vec<EndpointView>) -> ServiceView {
    let published = ports.iter().enumerate().filter_map(|(index, p)| {
        let publish = p.publish.as_ref()?;
        let (port, mode) = (publish.port, publish.mode);
        Some(PublishedView { index, protocol: p.protocol, port, mode, conflict: None })
    });
    let published = published.collect();
    ServiceView {
        key: key("web"),
        spec: Arc::new(ServiceSpec {
            ports,
            scheduler: Scheduler::Wrr,
            affinity: Some(Affinity { timeout: Duration::from_secs(30) }),
            locality: Locality::Any,
            ..ServiceSpec::default()
        }),
        origins: Vec::new(),
        conflict: None,
        vips: Addresses { v4: Some([10, 96, 0, 7].into()), v6: None },
        published,
        endpoints: endpoints.into(),
        hidden_endpoints: 0,
    }
}

pub(super) fn published(mut port: ServicePort, ports: &str, mode: PublishMode) -> ServicePort {
    port.publish = Some(Publish { port: Some(range(ports)), mode, address: None, allow: Vec::new() });
    port
}

/// `FRONTEND <- INSTANCE=ADDRESS:PORT STATE WEIGHT, …`, one a line: what the table tests compare.
pub(super) fn show(entries: &[Entry]) -> Vec<String> {
    let line = |e: &Entry| {
        let backends: Vec<String> = e
            .backends
            .iter()
            .map(|b| format!("{}={} {} {}", b.id, b.socket(0), b.state.as_str(), b.weight))
            .collect();
        format!("{} <- {}", e.frontend.key, backends.join(", ")).trim_end().to_owned()
    };
    entries.iter().map(line).collect()
}

/// The word for an operation and what it is about.
pub(super) fn told(op: &Op) -> String {
    match op {
        Op::PutFrontend(f) => format!("put {}", f.key),
        Op::PutBackend { frontend, backend } => format!("put {} {frontend}", backend.id),
        Op::RemoveBackend { frontend, backend } => format!("remove {backend} {frontend}"),
        Op::RemoveFrontend(key) => format!("remove {key}"),
    }
}
