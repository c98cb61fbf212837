//! Who is where, and what is served.

use std::net::IpAddr;

/// Where the backends of ports are; each port is served with TCP and UDP on the VIPs.
pub(crate) mod port {
    /// In a container of this node.
    pub(crate) const CONTAINER: u16 = 80;
    /// In one of another node.
    pub(crate) const REMOTE: u16 = 81;
    /// A program of this host.
    pub(crate) const HERE: u16 = 82;
    /// Outside.
    pub(crate) const OUTSIDE: u16 = 83;
    /// Nowhere, refused.
    pub(crate) const NOBODY: u16 = 84;
    /// Nowhere, silently.
    pub(crate) const SILENT: u16 = 85;
    /// As [`CONTAINER`], for clients of 198.51.100.0/24 or 2001:db8:51::/48.
    pub(crate) const ALLOWED: u16 = 86;
    /// As [`CONTAINER`], one flow.
    pub(crate) const LIMITED: u16 = 87;
    /// As [`CONTAINER`], by the client's address.
    pub(crate) const HASHED: u16 = 88;
    /// As [`CONTAINER`], the second port of a range.
    pub(crate) const SECOND: u16 = 89;
    /// A container on the network of the NIC.
    pub(crate) const BESIDE: u16 = 90;
    /// Where there is no route to.
    pub(crate) const LOST: u16 = 91;
    /// As [`CONTAINER`], on every local address.
    pub(crate) const PUBLISHED: u16 = 8080;
    /// As [`REMOTE`], on every local address.
    pub(crate) const PUBLISHED_REMOTE: u16 = 8081;
    /// As [`HERE`], on every local address.
    pub(crate) const PUBLISHED_HERE: u16 = 8082;
    /// What backends listen on.
    pub(crate) const BACKEND: u16 = 9999;
}

/// Addresses in both families.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) vip: IpAddr,
    pub(crate) node: IpAddr,
    pub(crate) gateway: IpAddr,
    pub(crate) client: IpAddr,
    pub(crate) container: IpAddr,
    pub(crate) other: IpAddr,
    pub(crate) remote: IpAddr,
    pub(crate) outside: IpAddr,
    pub(crate) beside: IpAddr,
    pub(crate) peer: IpAddr,
    pub(crate) router: IpAddr,
    pub(crate) lost: IpAddr,
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

impl Plan {
    pub(crate) fn both() -> [Plan; 2] {
        [
            Plan {
                vip: ip("10.96.0.1"),
                node: ip("192.0.2.1"),
                gateway: ip("10.128.7.1"),
                client: ip("198.51.100.9"),
                container: ip("10.128.7.2"),
                other: ip("10.128.7.3"),
                remote: ip("10.128.9.5"),
                outside: ip("203.0.113.7"),
                beside: ip("192.0.2.77"),
                peer: ip("192.0.2.2"),
                router: ip("192.0.2.254"),
                lost: ip("240.1.2.3"),
            },
            Plan {
                vip: ip("fd00:96::1"),
                node: ip("2001:db8::1"),
                gateway: ip("fd00:7::1"),
                client: ip("2001:db8:51::9"),
                container: ip("fd00:7::2"),
                other: ip("fd00:7::3"),
                remote: ip("fd00:9::5"),
                outside: ip("2001:db8:203::7"),
                beside: ip("2001:db8::77"),
                peer: ip("2001:db8::2"),
                router: ip("2001:db8::fe"),
                lost: ip("fc00:dead::1"),
            },
        ]
    }
}
