//! The addresses inside the tunnels: unique local ones (RFC 4193) that everybody derives, so nothing has to be told.

use mesh_control::model::{NodeName, TunnelKey};
use ring::digest::{Context, SHA256};
use std::net::Ipv6Addr;

/// The network of them all (`meshw` after the byte of unique local addresses). Half of it is of nodes, half of keys.
pub const NETWORK: (Ipv6Addr, u8) = (Ipv6Addr::new(0xfd6d, 0x6573, 0x6877, 0, 0, 0, 0, 0), 48);

/// What is sent to a node: it stays when the node's key changes.
#[must_use]
pub fn of_node(node: &NodeName) -> Ipv6Addr {
    derived(0, b"mesh-agent node ", node.as_str().as_bytes())
}

/// What is sent from an end of the tunnels. WireGuard takes from a peer only what its addresses allow, and an address
/// is one peer's alone: so each key has its own.
#[must_use]
pub fn of_key(key: &TunnelKey) -> Ipv6Addr {
    derived(1, b"mesh-agent key ", &key.0)
}

/// The network, the half, then 64 bits of SHA-256.
fn derived(half: u16, purpose: &[u8], of: &[u8]) -> Ipv6Addr {
    let mut context = Context::new(&SHA256);
    context.update(purpose);
    context.update(of);
    let digest = context.finish();
    let bits = digest.as_ref().iter().take(8).fold(0, |bits, byte| bits << 8 | u128::from(*byte));
    Ipv6Addr::from_bits(NETWORK.0.to_bits() | u128::from(half) << 64 | bits)
}
