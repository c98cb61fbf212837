//! What differs between two declarations or two announcements, in words. Pure.

use mesh_control::model::{NodeInfo, ServicePort, ServiceSpec};

/// The parts of a declaration that differ; values where they are short.
pub(super) fn spec(old: &ServiceSpec, new: &ServiceSpec) -> String {
    let ports = |s: &ServiceSpec| s.ports.iter().map(port).collect::<Vec<_>>().join(" ");
    let mut words = Vec::new();
    if old.ports != new.ports {
        let (from, to) = (ports(old), ports(new));
        // What is published where may differ in more than the numbers.
        words.push(if from == to { "ports".to_owned() } else { format!("ports {from} -> {to}") });
    }
    let mut told = |name: &str, from: String, to: String| {
        if from != to {
            words.push(format!("{name} {from} -> {to}"));
        }
    };
    told("scheduler", old.scheduler.to_string(), new.scheduler.to_string());
    told("drain", format!("{:?}", old.drain), format!("{:?}", new.drain));
    let others = [
        ("endpoint mode", old.endpoint_mode != new.endpoint_mode),
        ("locality", old.locality != new.locality),
        ("no-backend policy", old.no_backend != new.no_backend),
        ("affinity", old.affinity != new.affinity),
        ("health check", old.health != new.health),
        ("idle timeout", old.idle_timeout != new.idle_timeout),
        ("connection limit", old.max_connections != new.max_connections),
        ("ttl", old.ttl != new.ttl),
        ("negative ttl", old.negative_ttl != new.negative_ttl),
        ("external name", old.external_name != new.external_name),
        ("aliases", old.aliases != new.aliases),
        ("labels", old.labels != new.labels),
    ];
    words.extend(others.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name.to_owned()));
    words.join(", ")
}

/// `80/tcp`, or `80/tcp published 8080`.
pub(super) fn port(p: &ServicePort) -> String {
    match p.publish.as_ref().map(|publish| publish.port) {
        None => format!("{}/{}", p.port, p.protocol),
        Some(Some(published)) => format!("{}/{} published {published}", p.port, p.protocol),
        Some(None) => format!("{}/{} published", p.port, p.protocol),
    }
}

/// What a node says otherwise of itself, its drain aside.
pub(super) fn info(old: &NodeInfo, new: &NodeInfo) -> String {
    let zone = |i: &NodeInfo| i.zone.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string);
    let keys = |i: &NodeInfo| {
        let keys: Vec<String> = i.tunnels.iter().map(|tunnel| tunnel.key.to_string()).collect();
        if keys.is_empty() { "none".to_owned() } else { keys.join(" ") }
    };
    let parts = [
        ("addresses", old.addresses.to_string(), new.addresses.to_string()),
        ("zone", zone(old), zone(new)),
        ("version", old.version.clone(), new.version.clone()),
        ("overlay keys", keys(old), keys(new)),
    ];
    let differs = parts.into_iter().filter(|(_, from, to)| from != to);
    differs.map(|(name, from, to)| format!("{name} {from} -> {to}")).collect::<Vec<_>>().join(", ")
}
