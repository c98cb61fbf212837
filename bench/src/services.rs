//! The services that every contender gets: one TCP port on a VIP, ten endpoints, nothing else. And what our plane is
//! told of them.

use mesh_agent::plan::{Backend, BackendId, BackendState, Frontend, FrontendKey, Listen, Op};
use mesh_control::model::{Family, Name, NoBackend, PortRange, Protocol, Scheduler, ServiceKey};
use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

/// Endpoints of a service.
pub(crate) const ENDPOINTS: u32 = 10;
/// The port of VIPs.
pub(crate) const PORT: u16 = 80;
/// The port of endpoints.
pub(crate) const TARGET: u16 = 8080;
/// Where all VIPs are.
pub(crate) const VIPS: &str = "10.96.0.0/12";
/// Where all endpoints are.
pub(crate) const BACKENDS: &str = "10.128.0.0/9";
/// Generations of endpoints: each has addresses of its own.
pub(crate) const GENERATIONS: u32 = 4;

/// The VIP of a service.
pub(crate) fn vip(service: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 96, 1, 0).to_bits() + service)
}

/// The address of an endpoint.
pub(crate) fn endpoint(service: u32, endpoint: u32, generation: u32) -> Ipv4Addr {
    let base = Ipv4Addr::new(10, 128 + u8::try_from(generation % GENERATIONS * 16).unwrap_or(0), 1, 0);
    Ipv4Addr::from_bits(base.to_bits() + service * ENDPOINTS + endpoint)
}

fn name(text: &str) -> Name {
    Name::new(text).expect("the bench makes good names")
}

/// The node that the plane under test is.
pub(crate) fn node() -> Name {
    name("bench")
}

fn key(listen: Listen, port: u16) -> FrontendKey {
    let ports = PortRange::single(port).expect("the bench takes good ports");
    FrontendKey { listen, ports, protocol: Protocol::Tcp }
}

/// A frontend, all as a service has it that says nothing of it.
pub(crate) fn frontend(service: &str, listen: Listen, port: u16) -> Frontend {
    Frontend {
        key: key(listen, port),
        service: ServiceKey::in_default(service).expect("the bench makes good names"),
        scheduler: Scheduler::default(),
        affinity: None,
        no_backend: NoBackend::default(),
        proxy_protocol: false,
        idle_timeout: None,
        max_connections: None,
        allow: Vec::new(),
    }
}

/// A backend on another node, as most are.
pub(crate) fn backend(instance: &str, on: &str, address: Ipv4Addr) -> Backend {
    Backend {
        id: BackendId { instance: name(instance), node: name(on) },
        address: IpAddr::V4(address),
        port: TARGET,
        weight: 1,
        state: BackendState::Active,
    }
}

/// One endpoint of a service at its address of a generation: new, or moved there.
pub(crate) fn put(service: u32, e: u32, generation: u32) -> Op {
    let frontend = key(Listen::Vip(vip(service).into()), PORT);
    let backend = backend(&format!("s{service}-{e}"), &format!("n{e}"), endpoint(service, e, generation));
    Op::PutBackend { frontend, backend }
}

/// That endpoint stops being ready; its TCP flows stay.
pub(crate) fn unready(service: u32, e: u32) -> Op {
    match put(service, e, 0) {
        Op::PutBackend { frontend, backend } => {
            Op::PutBackend { frontend, backend: Backend { state: BackendState::Down, ..backend } }
        }
        other => other,
    }
}

/// All of it, as the reconciler hands it over at start.
pub(crate) fn all(services: u32, generation: u32) -> Vec<Op> {
    let put_frontend = |i| {
        let listen = Listen::Vip(vip(i).into());
        Op::PutFrontend(Arc::new(frontend(&format!("s{i}"), listen, PORT)))
    };
    let backends = (0..services).flat_map(|i| (0..ENDPOINTS).map(move |e| put(i, e, generation)));
    (0..services).map(put_frontend).chain(backends).collect()
}

/// A port published on every local address.
pub(crate) fn published(port: u16, container: Ipv4Addr, target: u16) -> Vec<Op> {
    let listen = Listen::AnyLocal(Family::V4);
    let frontend = frontend("ingress", listen, port);
    let key = frontend.key;
    let own = Backend { port: target, ..backend("ingress-0", node().as_str(), container) };
    vec![Op::PutFrontend(Arc::new(frontend)), Op::PutBackend { frontend: key, backend: own }]
}
