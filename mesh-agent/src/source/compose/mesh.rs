//! The `x-mesh:` block of a service: what Compose has no words for.

use super::{health::health, ports::allow};
use crate::config::yaml::{Field, Map};
use ipnetwork::IpNetwork;
use mesh_control::model::{
    Addresses, Affinity, Endpoint, EndpointMode, Locality, Name, NoBackend, NodeName, Scheduler, ServiceKey,
    ServiceSpec,
};
use std::{collections::BTreeSet, net::IpAddr, time::Duration};

/// Most static endpoints of one service in one file.
const MAX_ENDPOINTS: usize = 4096;
/// Affinity that names no timeout: three hours, as Kubernetes has it.
const AFFINITY: Duration = Duration::from_secs(10_800);

/// What the block says beside the spec's own fields.
#[derive(Default)]
pub(super) struct Mesh<'a> {
    /// Static endpoints of this node, and the field each is about.
    pub(super) endpoints: Vec<(Endpoint, Field<'a>)>,
    /// For every TCP port of the service.
    pub(super) proxy_protocol: bool,
    /// For every published port of the service.
    pub(super) allow: Vec<IpNetwork>,
}

/// Reads the block into `spec`.
pub(super) fn mesh<'a>(
    field: &Field<'a>,
    key: &ServiceKey,
    node: &NodeName,
    spec: &mut ServiceSpec,
) -> Mesh<'a> {
    let mut found = Mesh::default();
    let Some(map) = field.map() else { return found };
    let day = Duration::from_secs(86_400);
    if let Some(s) = map.get("scheduler").and_then(|f| f.word(&Scheduler::ALL.map(|(s, word)| (word, s)))) {
        spec.scheduler = s;
    }
    spec.affinity = map.get("affinity").and_then(|f| affinity(&f));
    let localities = [
        ("any", Locality::Any),
        ("prefer-local", Locality::PreferLocal),
        ("prefer-zone", Locality::PreferZone),
        ("local-only", Locality::LocalOnly),
    ];
    if let Some(l) = map.get("locality").and_then(|f| f.word(&localities)) {
        spec.locality = l;
    }
    let policies = [("reject", NoBackend::Reject), ("drop", NoBackend::Drop), ("hold", NoBackend::Hold)];
    if let Some(n) = map.get("no_backend").and_then(|f| f.word(&policies)) {
        spec.no_backend = n;
    }
    if let Some(d) = map.get("drain").and_then(|f| f.duration(Duration::ZERO..=day)) {
        spec.drain = d;
    }
    spec.health = map.get("health").and_then(|f| health(&f));
    spec.idle_timeout = map.get("idle_timeout").and_then(|f| f.duration(Duration::from_secs(1)..=day));
    spec.max_connections = map.get("max_connections").and_then(|f| f.number(1..=u32::MAX));
    spec.ttl = map.get("ttl").and_then(|f| f.number(0..=86_400));
    spec.negative_ttl = map.get("negative_ttl").and_then(|f| f.number(0..=86_400));
    if let Some(name) = map.get("external_name").and_then(|f| f.text()) {
        // There is nothing to balance, and so no need of a VIP.
        spec.external_name = Some(name.to_owned());
        spec.endpoint_mode = EndpointMode::Dnsrr;
    }
    for item in map.get("aliases").iter().flat_map(Field::one_or_list) {
        spec.aliases.extend(item.parse::<Name>());
    }
    found.proxy_protocol = map.get("proxy_protocol").and_then(|f| f.bool()).unwrap_or(false);
    found.allow = map.get("allow").map(|f| allow(&f)).unwrap_or_default();
    if let Some(field) = map.get("endpoints") {
        found.endpoints = endpoints(&field, key, node);
    }
    map.finish();
    found
}

fn affinity(field: &Field<'_>) -> Option<Affinity> {
    match field.value() {
        v if v.is_text("client_ip") => Some(Affinity { timeout: AFFINITY }),
        v if v.is_text("none") => None,
        crate::config::yaml::Value::Map(_) => {
            let map = field.map()?;
            let range = Duration::from_secs(1)..=Duration::from_secs(7 * 86_400);
            let timeout = map.get("timeout").map_or(Some(AFFINITY), |f| f.duration(range));
            map.finish();
            Some(Affinity { timeout: timeout? })
        }
        _ => {
            field.fail("is no affinity: write client_ip, none, or {timeout: 3h}");
            None
        }
    }
}

fn endpoints<'a>(field: &Field<'a>, key: &ServiceKey, node: &NodeName) -> Vec<(Endpoint, Field<'a>)> {
    let items = field.list();
    if items.len() > MAX_ENDPOINTS {
        field.fail(format!("are {}: at most {MAX_ENDPOINTS} a service and file", items.len()));
        return Vec::new();
    }
    let mut found = Vec::new();
    let mut names: BTreeSet<(Name, Name)> = BTreeSet::new();
    for (i, item) in items.into_iter().enumerate() {
        let Some(map) = item.map() else { continue };
        let read = endpoint(&map, &item, key, i + 1);
        let owner = map.get("node").map_or_else(|| Some(node.clone()), |f| f.parse::<NodeName>());
        map.finish();
        let (Some(endpoint), Some(owner)) = (read, owner) else { continue };
        if !names.insert((owner.clone(), endpoint.instance.clone())) {
            item.fail(format!(
                "the endpoint {} is declared twice on {owner}: give each a name",
                endpoint.instance
            ));
        } else if owner == *node {
            found.push((endpoint, item));
        }
    }
    found
}

fn endpoint(map: &Map<'_>, item: &Field<'_>, key: &ServiceKey, number: usize) -> Option<Endpoint> {
    let name = match map.get("name") {
        Some(field) => field.parse::<Name>(),
        None => Name::new(&format!("{}-{number}", key.name))
            .map_err(|_| item.fail("has no name, and the service's is too long to make one of: give one"))
            .ok(),
    };
    let mut addresses = Addresses::default();
    for field in map.get("address").iter().flat_map(Field::one_or_list) {
        let Some(ip) = field.with(|t| match t.parse::<IpAddr>() {
            Ok(ip) if !ip.is_unspecified() && !ip.is_multicast() && ip != IpAddr::from([255; 4]) => Ok(ip),
            _ => Err("is no IP address of an instance: write one, as 192.0.2.10"),
        }) else {
            continue;
        };
        if addresses.iter().any(|a| a.is_ipv4() == ip.is_ipv4()) {
            field.fail_value(&ip.to_string(), "is a second one of its family: use an endpoint for each");
        }
        addresses.set(ip);
    }
    if map.get("address").is_none() {
        item.fail("has no address: write its IP address, as address: 192.0.2.10");
    }
    let weight = map.get("weight").map_or(Some(Endpoint::DEFAULT_WEIGHT), |f| f.number(0..=u16::MAX));
    let mut endpoint = Endpoint::new(name?, addresses);
    endpoint.weight = weight?;
    for (target, field) in map.get("ports").iter().flat_map(Field::entries) {
        let own = field.number(1..=65_535);
        match (target.parse::<u16>(), own) {
            (Ok(target), Some(own)) if target > 0 => {
                endpoint.ports.insert(target, own);
            }
            (Ok(_), None) => {}
            _ => field.fail("is no target port: write TARGET: OWN, as 80: 8081"),
        }
    }
    (!addresses.is_empty()).then_some(endpoint)
}
