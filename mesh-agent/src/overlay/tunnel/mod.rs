//! The tunnels that packets between nodes are sealed in, when the overlay is encrypted: WireGuard devices with a peer
//! for each other node. VXLAN runs inside, from and to addresses that nobody else has, so that everything above stays as
//! it is without encryption.
//!
//! [`plan`] and [`end`] decide, [`apply`] looks and does. `docs/overlay.md` has the picture.

pub mod address;
pub mod apply;
pub mod end;
pub mod guard;
pub mod plan;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

/// What VXLAN adds inside the tunnels: 50 bytes, and 20 for IPv6 being larger than IPv4.
const VXLAN: u32 = 70;

/// What WireGuard adds to a packet: 32 bytes of its own (paper, section 5.4.6), 8 of UDP, and the outer IP header.
#[must_use]
pub fn overhead(underlay: IpAddr) -> u32 {
    if underlay.is_ipv4() { 60 } else { 80 }
}
