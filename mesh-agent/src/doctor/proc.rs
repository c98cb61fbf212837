//! Tables below `/proc/net` (proc(5)): pure.

use ipnetwork::IpNetwork;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// `/proc/net/route`: each route of the main table with its link, without default routes.
pub(super) fn routes4(text: &str) -> Vec<(IpNetwork, String)> {
    let read = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let link = fields.next()?.to_owned();
        let destination = word(fields.next()?)?;
        let mask = word(fields.nth(5)?)?;
        let network = IpNetwork::with_netmask(destination.into(), mask.into()).ok()?;
        (network.prefix() > 0).then_some((network, link))
    };
    text.lines().filter_map(read).collect()
}

/// Eight digits whose octets in memory are the address.
fn word(text: &str) -> Option<Ipv4Addr> {
    u32::from_str_radix(text, 16).ok().map(|word| Ipv4Addr::from(word.to_ne_bytes()))
}

/// `/proc/net/ipv6_route`: each route with its link, without default routes, link-local ones and multicast.
pub(super) fn routes6(text: &str) -> Vec<(IpNetwork, String)> {
    let read = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let [destination, prefix, .., link] = fields[..] else { return None };
        let address = Ipv6Addr::from(u128::from_str_radix(destination, 16).ok()?);
        let prefix = u8::from_str_radix(prefix, 16).ok()?;
        let near = address.is_multicast() || address.is_unicast_link_local() || address.is_loopback();
        let network = IpNetwork::new(IpAddr::V6(address), prefix).ok()?;
        (prefix > 0 && !near).then(|| (network, link.to_owned()))
    };
    text.lines().filter_map(read).collect()
}

/// Whether `/proc/mounts` has a cgroup2.
pub(super) fn has_cgroup2(mounts: &str) -> bool {
    mounts.lines().any(|line| line.split(' ').nth(2) == Some("cgroup2"))
}
