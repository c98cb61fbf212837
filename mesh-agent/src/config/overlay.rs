//! `overlay:` where nodes claim subnets, and the links that carry packets between them.

use super::{
    links::OverlayLinks,
    values::{link_name, networks},
    yaml::{Field, Map},
};
use crate::overlay::{Encryption, tunnel::end::NAMES};
use ipnetwork::IpNetwork;
use mesh_control::{OverlayNetwork, model::Family};
use std::time::Duration;

/// Reads the section.
pub(super) fn overlay(map: Map<'_>) -> (Vec<OverlayNetwork>, OverlayLinks) {
    let found = (claims(&map), links(&map));
    map.finish();
    found
}

fn links(map: &Map<'_>) -> OverlayLinks {
    let mut found = OverlayLinks::default();
    let name = |key| map.get(key).and_then(|field| field.with(link_name));
    found.bridge = name("bridge").unwrap_or(found.bridge);
    found.device = name("device").unwrap_or(found.device);
    if found.bridge == found.device {
        map.field().fail(format!("names both bridge and device {}: give them two names", found.bridge));
    }
    let vni = map.get("vni").and_then(|field| field.number(1..=0x00ff_ffff));
    found.vni = vni.unwrap_or(found.vni);
    found.port = map.get("port").and_then(|field| field.number(1..=u16::MAX)).unwrap_or(found.port);
    let port = map.get("probe_port").and_then(|field| field.number(1..=u16::MAX));
    found.probe_port = port.unwrap_or(found.probe_port);
    let interval = |key| {
        let range = Duration::from_secs(1)..=Duration::from_secs(3600);
        map.get(key).and_then(|field| field.duration(range))
    };
    found.audit_interval = interval("audit_interval").unwrap_or(found.audit_interval);
    found.probe_interval = interval("probe_interval").unwrap_or(found.probe_interval);
    found.encryption = encryption(map, &found);
    found
}

/// `encryption:` and what goes with it.
fn encryption(map: &Map<'_>, links: &OverlayLinks) -> Option<Encryption> {
    let wanted = map.get("encryption").and_then(|field| field.word(&[("none", false), ("wireguard", true)]));
    let mut found = Encryption::default();
    if let Some(field) = map.get("encryption_port")
        && let Some(port) = field.number(1..=u16::MAX - 1)
    {
        found.port = port;
    }
    let hour = Duration::from_secs(3600);
    let lifetime = map.get("key_lifetime").and_then(|field| field.duration(hour..=8784 * hour));
    found.key_lifetime = lifetime.unwrap_or(found.key_lifetime);
    let wanted = wanted.unwrap_or(false);
    let taken = [found.port, found.port + 1].iter().any(|port| [links.port, links.probe_port].contains(port));
    if wanted && taken {
        map.field().fail(format!(
            "encryption_port {} or the next is also port or probe_port: give each its own",
            found.port
        ));
    }
    if wanted && NAMES.iter().any(|name| [&links.bridge, &links.device].contains(&&(*name).to_owned())) {
        map.field().fail(format!(
            "names bridge or device as encryption does its own ({}): choose another",
            NAMES.join(", ")
        ));
    }
    wanted.then_some(found)
}

/// Networks, and how large each node's subnet of them is.
fn claims(map: &Map<'_>) -> Vec<OverlayNetwork> {
    let cidr = map.get("cidr");
    let found = cidr.as_ref().map(|field| networks(field, "10.128.0.0/14")).unwrap_or_default();
    if cidr.is_none() {
        map.field().fail("has no cidr: write one network a family, as [10.128.0.0/14], or leave overlay out");
    }
    let mut prefixes: Vec<(Family, u8)> = Vec::new();
    for item in map.get("node_prefix").iter().flat_map(Field::one_or_list) {
        let Some(bits) = item.number(1..=OverlayNetwork::longest_prefix(Family::V6)) else { continue };
        let v4 = bits <= OverlayNetwork::longest_prefix(Family::V4);
        let family = if v4 { Family::V4 } else { Family::V6 };
        if !v4 && bits < OverlayNetwork::default_prefix(Family::V6) {
            item.fail_value(
                &bits.to_string(),
                "is no length of a node's subnet: use up to 28 for IPv4, 64 to 112 for IPv6",
            );
        } else if prefixes.iter().any(|(f, _)| *f == family) {
            item.fail_value(
                &bits.to_string(),
                "is a second one of its family: give one for IPv4 and one for IPv6",
            );
        } else if !found.is_empty() && !found.iter().any(|n| Family::of(&n.ip()) == family) {
            item.fail_value(
                &bits.to_string(),
                "is for a family that overlay.cidr has no network of: leave it out",
            );
        }
        prefixes.push((family, bits));
    }
    let with_prefix = |network: IpNetwork| {
        let family = Family::of(&network.ip());
        let given = prefixes.iter().find(|(f, _)| *f == family).map(|(_, bits)| *bits);
        let node_prefix = given.unwrap_or_else(|| OverlayNetwork::default_prefix(family));
        OverlayNetwork { network, node_prefix }
    };
    found.into_iter().map(with_prefix).collect()
}
