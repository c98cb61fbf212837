//! Kernel parameters, the conntrack table, ports, links, VXLAN devices, routes.

use super::{BRIDGE, DEVICE, VNI};
use crate::{
    doctor::{
        facts::{Facts, Held, Need, VXLAN_PORT},
        finding::{Finding, Level},
    },
    sys::conntrack::Usage,
};
use ipnetwork::IpNetwork;
use mesh_control::model::PortRange;

pub(super) fn judge(facts: &Facts, findings: &mut Vec<Finding>) {
    forwarding(facts, findings);
    parameters(facts, findings);
    findings.push(conntrack(facts));
    findings.push(dynamic_ports(facts));
    ports(facts, findings);
    publish(facts, findings);
    vxlan(facts, findings);
    routes(facts, findings);
}

fn set(key: &str, value: &str) -> String {
    format!("sysctl -w {key}=\"{value}\"")
}

/// The agent switches it on with its overlay; what matters is who forwards without one.
fn forwarding(facts: &Facts, findings: &mut Vec<Finding>) {
    let families = [
        ("net.ipv4.ip_forward", IpNetwork::is_ipv4 as fn(&IpNetwork) -> bool),
        ("net.ipv6.conf.all.forwarding", IpNetwork::is_ipv6),
    ];
    for (key, family) in families {
        let on = facts.sysctls.get(key).is_some_and(|value| value != "0");
        let networks = facts.wanted.overlay.iter().chain(&facts.wanted.vips);
        let used = networks.filter(|network| !network.ip().is_loopback()).any(family);
        if used && !on && facts.wanted.kernel_plane != Need::No {
            let found = format!("{key} is off: packets to containers and to other nodes are not forwarded");
            findings.push(Finding::with_fix("forwarding", Level::Warn, found, set(key, "1")));
        } else if on || used {
            findings.push(Finding::ok("forwarding", format!("{key} is {}", if on { "on" } else { "off" })));
        }
    }
}

fn parameters(facts: &Facts, findings: &mut Vec<Finding>) {
    let value = |key: &str| facts.sysctls.get(key).map(String::as_str);
    let all = value("net.ipv4.conf.all.rp_filter").unwrap_or("0");
    let device = value("net.ipv4.conf.mesh-vx.rp_filter");
    // The greater of the two counts (ip-sysctl.rst): 1 is strict, 2 is loose.
    findings.push(if device.is_some_and(|device| device.max(all) == "1") {
        let found = format!("packets of clients that other nodes send over {DEVICE} are dropped as spoofed");
        Finding::with_fix("rp_filter", Level::Fail, found, set("net.ipv4.conf.mesh-vx.rp_filter", "2"))
    } else {
        Finding::ok("rp_filter", format!("{all} for all links; the agent sets that of its own"))
    });
    if let Some(on) = value("net.bridge.bridge-nf-call-iptables") {
        let what = if on == "1" {
            "bridged packets pass the FORWARD rules too"
        } else {
            "bridged packets pass no rules"
        };
        findings.push(Finding::ok("bridge-nf-call-iptables", format!("{on}: {what}; both work")));
    }
    let loose_key = "net.netfilter.nf_conntrack_tcp_loose";
    let (loose, liberal) = (value(loose_key), value("net.netfilter.nf_conntrack_tcp_be_liberal"));
    if loose == Some("0") {
        let found = "a TCP connection that conntrack forgot, as one idle for long, is not picked up again";
        findings.push(Finding::with_fix("tcp-tracking", Level::Warn, found, set(loose_key, "1")));
    } else if let (Some(loose), Some(liberal)) = (loose, liberal) {
        let outside = if liberal == "0" { "invalid" } else { "taken as they are" };
        let found = format!("loose {loose}, liberal {liberal}: segments outside of the window are {outside}");
        findings.push(Finding::ok("tcp-tracking", found));
    }
}

fn conntrack(facts: &Facts) -> Finding {
    let check = "conntrack";
    let Usage { entries, max } = match &facts.conntrack {
        Ok(usage) => *usage,
        Err(why) => {
            let level = facts.wanted.kernel_plane.missing().min(Level::Warn);
            let found = format!("tracked connections cannot be read: {why}");
            return Finding::with_fix(
                check,
                level,
                found,
                "modprobe nf_conntrack_netlink; sudo mesh-agent doctor",
            );
        }
    };
    let found = format!("{entries} of {max} connections");
    let percent = |of: u64| max > 0 && u64::from(entries) * 100 >= u64::from(max) * of;
    let level = match (percent(95), percent(75)) {
        (true, _) => Level::Fail,
        (_, true) => Level::Warn,
        _ => return Finding::ok(check, found),
    };
    let more = set("net.netfilter.nf_conntrack_max", &max.saturating_mul(2).to_string());
    Finding::with_fix(check, level, format!("{found}: a full table drops new ones"), more)
}

/// A connection that this host opens may get a port out of the range that published ports are taken from.
fn dynamic_ports(facts: &Facts) -> Finding {
    let check = "dynamic-ports";
    let Some(wanted) = facts.wanted.dynamic_ports else {
        return Finding::ok(check, "not looked at without a configuration");
    };
    let range = |text: &str| {
        let (first, last) = text.split_once([' ', '-']).unwrap_or((text, text));
        PortRange::new(first.parse().ok()?, last.parse().ok()?).ok()
    };
    let own = facts.sysctls.get("net.ipv4.ip_local_port_range").and_then(|text| range(text));
    let reserved =
        facts.sysctls.get("net.ipv4.ip_local_reserved_ports").map(String::as_str).unwrap_or_default();
    let is_reserved = |port| reserved.split(',').filter_map(range).any(|r| r.contains(port));
    match own {
        Some(own) if (wanted.first()..=wanted.last()).any(|p| own.contains(p) && !is_reserved(p)) => {
            let found = format!("{wanted} overlaps {own}, where this host's own connections take ports");
            let all = if reserved.is_empty() { wanted.to_string() } else { format!("{reserved},{wanted}") };
            Finding::with_fix(check, Level::Warn, found, set("net.ipv4.ip_local_reserved_ports", &all))
        }
        _ => Finding::ok(check, format!("{wanted} is apart from the ports of this host's own connections")),
    }
}

fn ports(facts: &Facts, findings: &mut Vec<Finding>) {
    // The agent's own, by the first 15 characters of its name.
    let foreign = |held: &&Held| !(facts.agent && held.by.starts_with("`mesh-agent"));
    let held: Vec<&Held> = facts.held.iter().filter(foreign).collect();
    for Held { wanted, by } in &held {
        let found = format!("{} {} ({}) is held by {by}", wanted.protocol, wanted.at, wanted.what);
        let pid = by.rsplit_once("(pid ").map(|(_, pid)| pid.trim_end_matches(')')).unwrap_or_default();
        let fix = match (wanted.what.as_str(), wanted.at.port()) {
            (_, 53) if by.contains("systemd-resolve") => {
                "set DNSStubListener=no in /etc/systemd/resolved.conf && systemctl restart systemd-resolved, \
                 or set dns.listen to another address"
                    .to_owned()
            }
            (what, _) if what.starts_with("published") => {
                format!("publish another port, or stop it: kill {pid}")
            }
            (what, _) => format!("set {what} to another address or port, or stop it: kill {pid}"),
        };
        findings.push(Finding::with_fix("ports", Level::Fail, found, fix));
    }
    if held.is_empty() {
        let own = if facts.agent { "free, or the running agent's" } else { "free" };
        findings.push(Finding::ok("ports", format!("{} sockets: {own}", facts.wanted.listening.len())));
    }
}

/// A link may come later, as one of a VPN does: the agent waits for it.
fn publish(facts: &Facts, findings: &mut Vec<Finding>) {
    let wanted = &facts.wanted.interfaces;
    if wanted.is_empty() {
        return;
    }
    let links = match &facts.links {
        Ok(links) => links,
        Err(why) => {
            let found = format!("links cannot be read: {why}");
            findings.push(Finding::with_fix("publish", Level::Warn, found, "sudo mesh-agent doctor"));
            return;
        }
    };
    let before = findings.len();
    for name in wanted {
        let (what, until, fix) = match links.get(name) {
            Some(1..) => continue,
            Some(0) => ("has no address", "does", format!("ip address add ADDRESS/PREFIX dev {name}")),
            None => {
                let there: Vec<&str> = links.keys().map(String::as_str).collect();
                ("is not here", "is", format!("bring it up, or name one of {}", there.join(", ")))
            }
        };
        let found = format!("publish.interfaces: {name} {what}: no port is published there until it {until}");
        findings.push(Finding::with_fix("publish", Level::Warn, found, fix));
    }
    if findings.len() == before {
        findings.push(Finding::ok("publish", format!("on the addresses of {}", wanted.join(", "))));
    }
}

fn vxlan(facts: &Facts, findings: &mut Vec<Finding>) {
    for device in facts.vxlans.iter().filter(|d| d.name != DEVICE && d.port == VXLAN_PORT) {
        let name = &device.name;
        // One that takes every identifier, or this one, gets our packets.
        if device.vni.is_none_or(|vni| vni == VNI) {
            let level = if facts.wanted.overlay.is_empty() { Level::Warn } else { Level::Fail };
            let found = format!("{name} takes identifier {VNI} on UDP port {VXLAN_PORT}");
            findings.push(Finding::with_fix(
                "vxlan",
                level,
                found,
                format!("ip link del {name}, or set overlay.vni"),
            ));
        } else {
            let found = format!("{name} shares UDP port {VXLAN_PORT} with another identifier, which works");
            findings.push(Finding::ok("vxlan", found));
        }
    }
}

fn routes(facts: &Facts, findings: &mut Vec<Finding>) {
    let networks = [("overlay.cidr", &facts.wanted.overlay), ("vip_cidr", &facts.wanted.vips)];
    let networks = networks.into_iter().flat_map(|(key, all)| all.iter().map(move |network| (key, network)));
    let before = findings.len();
    for (key, network) in networks.clone() {
        let foreign =
            facts.routes.iter().filter(|(_, link)| link != BRIDGE && link != DEVICE && link != "lo");
        for (route, link) in foreign.filter(|(route, _)| overlap(route, network)) {
            let found = format!("{key} {network} overlaps the route {route} on {link}");
            let fix = format!("choose another {key}, or: ip route del {route} dev {link}");
            findings.push(Finding::with_fix("routes", Level::Fail, found, fix));
        }
    }
    if findings.len() == before {
        let count = networks.count();
        findings
            .push(Finding::ok("routes", format!("none overlaps the {count} networks of the configuration")));
    }
}

/// Of two prefixes one holds the other or they have nothing in common.
fn overlap(a: &IpNetwork, b: &IpNetwork) -> bool {
    a.contains(b.network()) || b.contains(a.network())
}
