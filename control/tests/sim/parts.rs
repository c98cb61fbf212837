//! What stories are made of: services, declarations, endpoints.

use mesh_control::{
    LocalChange,
    model::{Endpoint, Name, Origin, Protocol, Publish, PublishMode, ServiceKey, ServicePort, ServiceSpec},
};
use std::{net::IpAddr, sync::Arc};

pub(crate) fn service(i: usize) -> ServiceKey {
    ServiceKey::in_default(&format!("s{i}")).expect("good")
}

/// A service with one published port: this one, or one of the mesh's choice.
pub(crate) fn spec(fixed: Option<u16>) -> ServiceSpec {
    let publish = Publish {
        port: fixed.map(|p| p.to_string().parse().expect("good")),
        mode: PublishMode::Ingress,
        address: None,
        allow: vec![],
    };
    let port = ServicePort {
        name: None,
        protocol: Protocol::Tcp,
        port: "80".parse().expect("good"),
        target: 80,
        publish: Some(publish),
        proxy_protocol: false,
    };
    ServiceSpec { ports: vec![port], ..ServiceSpec::default() }
}

pub(crate) fn put(origin: Origin, key: ServiceKey, fixed: Option<u16>) -> LocalChange {
    LocalChange::PutService { origin, key, spec: Arc::new(spec(fixed)) }
}

/// A service without published ports.
pub(crate) fn put_plain(origin: Origin, key: ServiceKey) -> LocalChange {
    LocalChange::PutService { origin, key, spec: Arc::new(ServiceSpec::default()) }
}

pub(crate) fn delete(origin: Origin, key: ServiceKey) -> LocalChange {
    LocalChange::DeleteService { origin, key }
}

/// The one endpoint that node `i` has of a service.
pub(crate) fn announce(i: usize, key: ServiceKey, weight: u16) -> LocalChange {
    let [high, low] = u16::try_from(i).expect("few nodes").to_be_bytes();
    let address = IpAddr::from([10, 1, high, low]);
    let mut endpoint = Endpoint::new(Name::new(&format!("i{i}")).expect("good"), address.into());
    endpoint.weight = weight;
    LocalChange::PutEndpoints { key, endpoints: vec![endpoint] }
}
