//! Facts of the host that defaults come from.

use std::net::{IpAddr, UdpSocket};

/// What defaults need to know of the host.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct HostFacts {
    /// The host's name, first label.
    pub hostname: Option<String>,
    /// The address that packets to the outside leave from.
    pub address: Option<IpAddr>,
}

impl HostFacts {
    /// Asks the host. Sends no packet.
    #[must_use]
    pub fn gather() -> Self {
        let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
        let hostname = hostname.and_then(|h| h.trim().split('.').next().map(str::to_owned));
        // Connecting a datagram socket only looks the route up; the address is of TEST-NET-1 (RFC 5737).
        let address = UdpSocket::bind("0.0.0.0:0")
            .and_then(|s| s.connect("192.0.2.1:9").and_then(|()| s.local_addr()))
            .map(|a| a.ip())
            .ok()
            .filter(|a| !a.is_unspecified());
        HostFacts { hostname, address }
    }
}
