//! `ports:` in short and long syntax, and `expose:`.

use super::declared::PublishedAt;
use crate::config::yaml::{Field, Value};
use ipnetwork::IpNetwork;
use mesh_control::model::{Name, PortRange, Protocol, Publish, PublishMode, ServicePort};
use std::net::IpAddr;

/// A port and the field that says so.
pub(super) struct Placed<'a> {
    pub(super) port: ServicePort,
    pub(super) field: Field<'a>,
}

impl Placed<'_> {
    /// What it publishes, if that has a number.
    pub(super) fn published(&self) -> Option<PublishedAt> {
        let publish = self.port.publish.as_ref()?;
        Some(PublishedAt {
            key: self.field.path().to_owned(),
            line: self.field.line(),
            protocol: self.port.protocol,
            ports: publish.port?,
            address: publish.address,
        })
    }
}

/// Reads `ports:`.
pub(super) fn ports<'a>(field: &Field<'a>) -> Vec<Placed<'a>> {
    let mut found = Vec::new();
    for item in field.list() {
        let port = match item.value() {
            Value::Map(_) => long(&item),
            _ => item.with(short),
        };
        found.extend(port.map(|port| Placed { port, field: item }));
    }
    found
}

/// Reads `expose:`: ports of the VIP that are not published. One that `ports` already declares adds nothing.
pub(super) fn expose<'a>(field: &Field<'a>, ports: &mut Vec<Placed<'a>>) {
    for item in field.list() {
        let Some(port) = item.with(exposed) else { continue };
        let covered = |p: &Placed<'_>| {
            p.port.protocol == port.protocol
                && p.port.port.first() <= port.port.first()
                && p.port.port.last() >= port.port.last()
        };
        if !ports.iter().any(covered) {
            ports.push(Placed { port, field: item });
        }
    }
}

fn exposed(text: &str) -> Result<ServicePort, String> {
    let (range, protocol) = split_protocol(text)?;
    let range = range
        .parse()
        .map_err(|_| hint(text, "is no port: write PORT or PORT/udp, as 80, 53/udp or 7000-7010"))?;
    Ok(ServicePort { publish: None, ..port(range, protocol) })
}

fn port(target: PortRange, protocol: Protocol) -> ServicePort {
    let publish = Some(no_number());
    ServicePort { name: None, protocol, port: target, target: target.first(), publish, proxy_protocol: false }
}

fn no_number() -> Publish {
    Publish { port: None, mode: PublishMode::Ingress, address: None, allow: Vec::new() }
}

/// Compose replaces variables, the mesh does not; saying so helps more than the rule.
fn hint(text: &str, rule: &str) -> String {
    if text.contains('$') {
        "holds a variable, which is not replaced here: write the number".into()
    } else {
        rule.into()
    }
}

fn split_protocol(text: &str) -> Result<(&str, Protocol), String> {
    match text.split_once('/') {
        None => Ok((text, Protocol::Tcp)),
        Some((ports, protocol)) => {
            let known =
                protocol.parse().map_err(|_| hint(text, "has an unknown protocol: use /tcp or /udp"))?;
            Ok((ports, known))
        }
    }
}

/// `[ADDRESS:][[PUBLISHED]:]TARGET[/PROTOCOL]`, ranges for ports, an IPv6 address in brackets.
fn short(text: &str) -> Result<ServicePort, String> {
    let fail = || {
        hint(
            text,
            "is no port mapping: write [IP:][PUBLISHED:]TARGET[/tcp|udp], as 8080:80, 53:53/udp or \
             127.0.0.1:6000-6010:7000-7010",
        )
    };
    let (mapping, protocol) = split_protocol(text)?;
    let (rest, target) = mapping.rsplit_once(':').map_or((None, mapping), |(r, t)| (Some(r), t));
    let mut found = port(target.parse().map_err(|_| fail())?, protocol);
    let Some(rest) = rest else { return Ok(found) };
    let (address, published) = match rest.rsplit_once(':') {
        // `[::1]` without a port part, as in `[::1]:80`, ends in the bracket.
        _ if rest.ends_with(']') => return Err(fail()),
        None => (None, rest),
        Some((address, published)) => (Some(address), published),
    };
    let mut publish = no_number();
    if let Some(address) = address {
        let bare = address.strip_prefix('[').and_then(|a| a.strip_suffix(']')).unwrap_or(address);
        let ip: IpAddr = bare.parse().map_err(|_| fail())?;
        publish.address = Some(ip).filter(|ip| !ip.is_unspecified());
    }
    if !published.is_empty() {
        publish.port = Some(published.parse().map_err(|_| fail())?);
    }
    found.publish = Some(publish);
    Ok(found)
}

fn long(item: &Field<'_>) -> Option<ServicePort> {
    let mut map = item.map()?;
    map.ignore(&["app_protocol"]);
    let range = |field: Field<'_>| {
        field.with(|t| {
            t.parse::<PortRange>().map_err(|_| hint(t, "is no port: write 80 or 7000-7010, from 1 to 65535"))
        })
    };
    let target_field = map.get("target");
    if target_field.is_none() {
        item.fail("has no target: name the port of the instances, as target: 80");
    }
    let published_field = map.get("published").filter(|f| !f.value().is_text(""));
    let published = published_field.clone().map(range);
    let protocols = [("tcp", Protocol::Tcp), ("udp", Protocol::Udp)];
    let protocol = map.get("protocol").map_or(Some(Protocol::Tcp), |f| f.word(&protocols));
    let modes = [("ingress", PublishMode::Ingress), ("host", PublishMode::Host)];
    let mode = map.get("mode").map_or(Some(PublishMode::Ingress), |f| f.word(&modes));
    let name = map.get("name").and_then(|f| f.parse::<Name>());
    let address = map.get("host_ip").and_then(|f| {
        f.with(|t| t.parse::<IpAddr>().map_err(|_| "is no IP address: write a local one, as 127.0.0.1"))
    });
    let mut proxy_protocol = false;
    let mut allowed = Vec::new();
    if let Some(mesh) = map.get("x-mesh").and_then(|f| f.map()) {
        proxy_protocol = mesh.get("proxy_protocol").and_then(|f| f.bool()).unwrap_or(false);
        allowed = mesh.get("allow").map(|f| allow(&f)).unwrap_or_default();
        mesh.finish();
    }
    map.finish();
    let target = range(target_field?)?;
    let protocol = protocol?;
    if proxy_protocol && protocol == Protocol::Udp {
        item.fail("proxy_protocol is for TCP only: remove it from this port");
    }
    let publish = Publish {
        port: published.flatten(),
        mode: mode?,
        address: address.filter(|a| !a.is_unspecified()),
        allow: allowed,
    };
    Some(ServicePort { name, proxy_protocol, publish: Some(publish), ..port(target, protocol) })
}

/// Sources that may connect: networks or single addresses.
pub(super) fn allow(field: &Field<'_>) -> Vec<IpNetwork> {
    let items = field.one_or_list();
    if items.len() > 1024 {
        field.fail(format!("has {} networks: at most 1024", items.len()));
        return Vec::new();
    }
    let network = |t: &str| t.parse().map_err(|_| "is no network: write ADDRESS/BITS, as 10.0.0.0/8");
    items.iter().filter_map(|f| f.with(network)).collect()
}
