//! Single values: each reads one text; the error is the rule and the fix, shown behind the value.

use super::yaml::Field;
use crate::overlay::leases;
use ipnetwork::IpNetwork;
use mesh_control::model::Name;
use std::{
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};
use tracing_subscriber::EnvFilter;

/// The port of gossip where none is written.
pub(super) const GOSSIP_PORT: u16 = 7946;

/// An address to listen on; port `least` and above.
pub(super) fn listen(text: &str, example: SocketAddr, least: u16) -> Result<SocketAddr, String> {
    match text.parse::<SocketAddr>() {
        Ok(a) if a.port() >= least => Ok(a),
        _ => Err(format!("is no address and port: write IP:PORT, as {example}")),
    }
}

/// A concrete address, with or without a port.
pub(super) fn address(text: &str, port: u16) -> Result<SocketAddr, String> {
    let found = text.parse().or_else(|_| text.parse().map(|ip: IpAddr| SocketAddr::new(ip, port)));
    match found {
        Ok(a) if a.port() > 0 && concrete(a.ip()) => Ok(a),
        _ => Err(format!("is no address that others can dial: write IP:PORT, as 192.0.2.10:{GOSSIP_PORT}")),
    }
}

/// A concrete unicast IP address.
pub(super) fn ip(text: &str) -> Result<IpAddr, &'static str> {
    match text.parse::<IpAddr>() {
        Ok(a) if concrete(a) => Ok(a),
        _ => Err("is no IP address of a host: write one, as 192.0.2.10"),
    }
}

fn concrete(ip: IpAddr) -> bool {
    !ip.is_unspecified() && !ip.is_multicast() && ip != IpAddr::from([255; 4])
}

/// A DNS zone, folded to lower case, without the final dot.
pub(super) fn domain(text: &str) -> Result<String, String> {
    let name = text.strip_suffix('.').unwrap_or(text);
    if name.len() > 128 || name.split('.').any(|label| Name::new(label).is_err()) {
        return Err(
            "is no domain: write labels of letters, digits and -, as cluster or mesh.example.com".into()
        );
    }
    Ok(name.to_ascii_lowercase())
}

/// `host:port` of a node to join; the port may be left out.
pub(super) fn gossip_seed(text: &str) -> Result<String, String> {
    let fail = || Err(format!("is no node to join: write HOST:PORT, as node-a:{GOSSIP_PORT}"));
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok(SocketAddr::new(ip, GOSSIP_PORT).to_string());
    }
    if let Ok(at) = text.parse::<SocketAddr>() {
        return if at.port() > 0 && concrete(at.ip()) { Ok(text.to_owned()) } else { fail() };
    }
    let (host, port) = text.split_once(':').map_or((text, None), |(h, p)| (h, Some(p)));
    let port = match port.map(str::parse::<u16>) {
        None => GOSSIP_PORT,
        Some(Ok(p)) if p > 0 => p,
        Some(_) => return fail(),
    };
    // Four numbers are an address that was refused above, not a name.
    let numeric = host.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    if numeric || host.len() > 253 || host.split('.').any(|label| Name::new(label).is_err()) {
        return fail();
    }
    Ok(format!("{host}:{port}"))
}

/// A path, relative ones to the folder of the configuration file.
pub(super) fn path(text: &str, base: &Path) -> Result<PathBuf, String> {
    if text.is_empty() || text.contains('\0') {
        return Err("is no path: write one, as /var/lib/mesh-agent".into());
    }
    Ok(base.join(text))
}

/// A log level or filter.
pub(super) fn level(text: &str) -> Result<String, String> {
    let fix = "is no log level: use error, warn, info, debug or trace, or a filter as info,mesh_agent=debug";
    // A bare word that is no level would be read as the name of a module and turn every log off.
    let is_level = |word: &str| matches!(word, "error" | "warn" | "info" | "debug" | "trace" | "off");
    if text.split(',').any(|part| !part.contains('=') && !is_level(part.trim())) {
        return Err(fix.to_owned());
    }
    EnvFilter::builder().parse(text).map(|_| text.to_owned()).map_err(|_| fix.to_owned())
}

/// A duration, or `none`.
pub(super) fn optional_duration(field: &Field<'_>, range: RangeInclusive<Duration>) -> Option<Duration> {
    if field.value().is_text("none") { None } else { field.duration(range) }
}

/// `vip_cidr`: at most one network of each family.
pub(super) fn cidrs(field: Option<&Field<'_>>) -> Vec<IpNetwork> {
    let Some(field) = field else {
        return "127.96.0.0/16".parse().into_iter().collect();
    };
    networks(field, "10.96.0.0/16")
}

/// At most one network of each family.
pub(super) fn networks(field: &Field<'_>, example: &str) -> Vec<IpNetwork> {
    let items = field.one_or_list();
    if items.is_empty() {
        field.fail(format!("is empty: write one network a family, as [{example}]"));
    }
    let mut found: Vec<IpNetwork> = Vec::new();
    for item in items {
        let Some(net) = item.with(cidr) else { continue };
        if found.iter().any(|n| n.is_ipv4() == net.is_ipv4()) {
            item.fail_value(
                &net.to_string(),
                "is a second network of its family: keep one IPv4 and one IPv6",
            );
        } else {
            found.push(net);
        }
    }
    found
}

fn cidr(text: &str) -> Result<IpNetwork, String> {
    let net: IpNetwork = match text.parse() {
        Ok(net) if text.contains('/') => net,
        _ => return Err("is no network: write ADDRESS/BITS, as 10.96.0.0/16".into()),
    };
    let bits = if net.is_ipv4() { 8..=29 } else { 16..=120 };
    if !bits.contains(&net.prefix()) {
        return Err(format!(
            "has {} network bits: use {} to {}, so that services find room",
            net.prefix(),
            bits.start(),
            bits.end()
        ));
    }
    if net.ip() != net.network() {
        return Err(format!("has host bits set: write {}/{}", net.network(), net.prefix()));
    }
    if net.network().is_multicast() || net.network().is_unspecified() {
        return Err("is no network of hosts: use a private one, as 10.96.0.0/16".into());
    }
    Ok(net)
}

pub(super) fn link_name(text: &str) -> Result<String, &'static str> {
    let good = leases::is_link_name(text);
    if good {
        Ok(text.to_owned())
    } else {
        Err("is no name of a link: use 1 to 15 letters and digits, as mesh0")
    }
}
