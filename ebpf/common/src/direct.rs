//! Direct return: packets that one node hands on to the backend's node as they came, which answers the client itself.
//!
//! ```text
//! client ─▶ ingress node: chooses; from then on only looks up where to ─ VXLAN, as it came ─▶ backend's node
//!    ▲                                                                                      translates
//!    └───────────── answers, from the address that was dialled ─────────────────────────────────┘
//! ```
//!
//! Addresses and ports are those of the client's packet, so the choice is in the link-layer source that the packet has
//! within the overlay. Nobody looks at that one else: where packets go back it is to the client.

/// How such a link-layer source begins: locally administered and unicast (IEEE 802 section 8.4), as no node's own does.
pub const LINK: [u8; 2] = [0x06, 0x6d];

/// Mark, and mask of it, of packets on their way into the overlay's device that get such a source there. The rest of the
/// mark is the backend's index in `backends`.
pub const MARK: [u32; 2] = [0x4b00_0000, 0xff00_0000];

/// What a backend is called to its own node, among those of the frontend that was dialled; never 0. `id` is
/// [`crate::Backend::id`].
#[must_use]
#[inline(always)]
pub const fn token(id: u64) -> u32 {
    #[expect(clippy::cast_possible_truncation, reason = "both halves are in it")]
    let mixed = (id ^ id >> 32) as u32;
    mixed | 1
}

/// Bits of values in `nodes4` and `nodes6`.
pub mod node {
    /// A node's address on the underlay.
    pub const UNDERLAY: u8 = 0x1;
    /// The address on the overlay, the next hop there, of a node that takes packets so.
    pub const DIRECT: u8 = 0x2;
}
