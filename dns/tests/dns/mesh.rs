//! A snapshot written as text: see `data/mesh.txt`.

use mesh_control::model::{
    Addresses, Endpoint, EndpointMode, EndpointView, Locality, Name, NodeName, PortRange, ServiceKey,
    ServicePort, ServiceSpec, ServiceView, Snapshot,
};
use std::sync::Arc;

/// The mesh of `data/mesh.txt`, seen from node `n1`.
pub(crate) fn example() -> Snapshot {
    read(include_str!("data/mesh.txt"))
}

/// A snapshot from its text.
pub(crate) fn read(text: &str) -> Snapshot {
    let mut snapshot = Snapshot::empty(name("n1"));
    change(&mut snapshot, text);
    snapshot
}

/// Applies further lines to a snapshot; `remove SERVICE` takes one away.
pub(crate) fn change(snapshot: &mut Snapshot, text: &str) {
    for line in text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let key: ServiceKey = words[1].parse().unwrap();
        match words[0] {
            "remove" => snapshot.set_service(key, None),
            "service" => snapshot.set_service(key.clone(), Some(Arc::new(service(key, &words[2..])))),
            "endpoint" => {
                let mut view = snapshot.services.get(&key).expect("declared").as_ref().clone();
                let mut endpoints = view.endpoints.to_vec();
                endpoints.push(endpoint(&words[2..]));
                endpoints.sort_by_key(|e| (e.endpoint.instance.clone(), e.node.clone()));
                view.endpoints = endpoints.into();
                snapshot.set_service(key, Some(Arc::new(view)));
            }
            other => panic!("{other}?"),
        }
    }
}

fn service(key: ServiceKey, words: &[&str]) -> ServiceView {
    let mut spec = ServiceSpec::default();
    let mut vips = Addresses::default();
    for (word, value) in words.iter().map(|w| w.split_once('=').expect("key=value")) {
        match word {
            "vip" => vips = addresses(value),
            "mode" if value == "dnsrr" => spec.endpoint_mode = EndpointMode::Dnsrr,
            "locality" if value == "local-only" => spec.locality = Locality::LocalOnly,
            "locality" if value == "prefer-local" => spec.locality = Locality::PreferLocal,
            "negative-ttl" => spec.negative_ttl = Some(value.parse().unwrap()),
            "external" => {
                spec.external_name = Some(value.to_owned());
                spec.endpoint_mode = EndpointMode::Dnsrr;
                assert_eq!(spec.validate(), Ok(()));
            }
            "ttl" => spec.ttl = Some(value.parse().unwrap()),
            "alias" => spec.aliases = value.split(',').map(name).collect(),
            "ports" => spec.ports = value.split(',').map(port).collect(),
            _ => panic!("{word}={value}?"),
        }
    }
    ServiceView {
        key,
        spec: Arc::new(spec),
        origins: Vec::new(),
        conflict: None,
        vips,
        published: Vec::new(),
        endpoints: Arc::from([]),
        hidden_endpoints: 0,
    }
}

/// `[NAME:]PORTS/PROTOCOL>TARGET`
fn port(text: &str) -> ServicePort {
    let (front, target) = text.split_once('>').unwrap();
    let (front, protocol) = front.split_once('/').unwrap();
    let (label, ports) = front.split_once(':').map_or((None, front), |(n, p)| (Some(name(n)), p));
    ServicePort {
        name: label,
        protocol: protocol.parse().unwrap(),
        port: ports.parse::<PortRange>().unwrap(),
        target: target.parse().unwrap(),
        publish: None,
        proxy_protocol: false,
    }
}

fn endpoint(words: &[&str]) -> EndpointView {
    let mut endpoint = Endpoint::new(name(words[0]), addresses(words[2]));
    for word in &words[3..] {
        match word.split_once('=') {
            None => endpoint.ready = *word == "ready",
            Some(("weight", weight)) => endpoint.weight = weight.parse().unwrap(),
            Some(("port", pair)) => {
                let (target, own) = pair.split_once('>').unwrap();
                endpoint.ports.insert(target.parse().unwrap(), own.parse().unwrap());
            }
            Some(other) => panic!("{other:?}?"),
        }
    }
    EndpointView { node: name(words[1]), zone: None, endpoint }
}

fn addresses(text: &str) -> Addresses {
    let mut all = Addresses::default();
    text.split(',').for_each(|a| all.set(a.parse().unwrap()));
    all
}

fn name(text: &str) -> NodeName {
    Name::new(text).unwrap()
}
