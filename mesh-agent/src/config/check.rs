//! What no single value can say: addresses that clash.

use super::{ebpf::ReturnChoice, ipvs::ForwardChoice, types::Config, yaml::Field};
use std::net::{IpAddr, SocketAddr};

/// An address that the agent will listen on.
#[derive(Debug)]
pub(super) struct Bound {
    key: String,
    /// 0 when it is a default.
    line: u32,
    at: SocketAddr,
}

impl Bound {
    /// `field` is absent for a default.
    pub(super) fn new(key: &str, field: Option<&Field<'_>>, at: SocketAddr) -> Self {
        Bound { key: key.to_owned(), line: field.map_or(0, Field::line), at }
    }
}

/// Whether two addresses cannot both be listened on; `[::]` takes IPv4 along on Linux unless told otherwise.
fn overlap(a: IpAddr, b: IpAddr) -> bool {
    let covers = |wide: IpAddr, other: IpAddr| wide.is_unspecified() && (wide.is_ipv6() || other.is_ipv4());
    a == b || covers(a, b) || covers(b, a)
}

/// Reports every clash.
pub(super) fn check(
    config: &Config,
    root: &Field<'_>,
    vip: Option<&Field<'_>>,
    overlay: Option<&Field<'_>>,
    bounds: &[Bound],
) {
    if config.ebpf.answers == ReturnChoice::Direct {
        let why = match (config.overlay.is_empty(), config.publish.everywhere()) {
            (true, _) => Some("direct goes through the overlay: set overlay, or use ingress"),
            (_, false) => Some(
                "direct is for ports that every node publishes on all its addresses: leave publish empty, or use ingress",
            ),
            _ => None,
        };
        if let Some(why) = why {
            root.fail_on(root.line(), "ebpf.return", why.to_owned());
        }
    }
    if config.ipvs.forward == ForwardChoice::Direct && config.overlay.is_empty() {
        let why = "direct goes through the overlay: set overlay, or use nat";
        root.fail_on(root.line(), "ipvs.forward", why.to_owned());
    }
    for (i, bound) in bounds.iter().enumerate().filter(|(_, b)| b.at.port() != 0) {
        for other in &bounds[..i] {
            if other.at.port() == bound.at.port() && overlap(other.at.ip(), bound.at.ip()) {
                // Point at what was written rather than at a default.
                let (here, there) = if bound.line == 0 { (other, bound) } else { (bound, other) };
                let default = if there.line == 0 { ", its default" } else { "" };
                root.fail_on(
                    here.line,
                    &here.key,
                    format!(
                        "\"{}\" clashes with {} ({}{default}): use another port",
                        here.at, there.key, there.at
                    ),
                );
            }
        }
        let published = &config.publish;
        // Which addresses links have is only known later.
        let meets = published.addresses.is_empty()
            || !published.interfaces.is_empty()
            || published.addresses.iter().any(|a| overlap(*a, bound.at.ip()));
        if config.dynamic_ports.contains(bound.at.port()) && meets {
            root.fail_on(
                bound.line,
                &bound.key,
                format!(
                    "\"{}\" lies in dynamic_ports {}, which published ports are taken from: use another port",
                    bound.at, config.dynamic_ports
                ),
            );
        }
    }
    let at = |field: Option<&Field<'_>>| field.map_or(0, Field::line);
    for network in &config.overlay {
        if let Err(problem) = network.check(&config.vip_cidr) {
            root.fail_on(at(overlay), "overlay", problem);
        }
    }
    let vips = config.vip_cidr.iter().map(|net| ("vip_cidr", at(vip), net, "a VIP"));
    let subnets = config.overlay.iter().map(|o| ("overlay.cidr", at(overlay), &o.network, "an endpoint"));
    for (range, line, net, taker) in vips.chain(subnets) {
        let own = config.node.addresses.iter().map(|a| ("node.address".to_owned(), a));
        let bound = bounds.iter().map(|b| (b.key.clone(), b.at.ip()));
        for (key, ip) in own.chain(bound) {
            if net.contains(ip) {
                root.fail_on(
                    line,
                    range,
                    format!(
                        "\"{net}\" contains {key} {ip}, which {taker} could take: use a network of its own"
                    ),
                );
            }
        }
    }
}
