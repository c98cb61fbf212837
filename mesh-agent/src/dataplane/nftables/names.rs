//! What our sets and chains are called, and how rules are told from those of other versions.

use crate::sys::nft::Expr;

/// Frontends: address, protocol, port → chain.
pub(in crate::dataplane) const SERVICES: &str = "services";
/// Slots: frontend, number → address, port.
pub(in crate::dataplane) const SLOTS: &str = "slots";
/// Slots of frontends with affinity: frontend, number → backend's id.
pub(in crate::dataplane) const PICKS: &str = "picks";
/// Backends of frontends with affinity: frontend, backend's id → address, port.
pub(in crate::dataplane) const BACKENDS: &str = "backends";
/// Frontends with affinity → their service's id.
pub(in crate::dataplane) const IDS: &str = "ids";
/// What clients are remembered by: service's id, client → backend's id.
pub(in crate::dataplane) const AFFINITY: &str = "affinity";
/// Who may connect: frontend, source.
pub(in crate::dataplane) const ALLOW: &str = "allow";
/// Frontends with such a list; they count whom they turn away.
pub(in crate::dataplane) const DENIED: &str = "denied";
/// Frontends with a limit; they count whom they turn away.
pub(in crate::dataplane) const LIMITED: &str = "limited";
/// Backends that take no new flows, with no data: only so that they can be read back.
pub(in crate::dataplane) const IDLE: &str = "idle";
/// Backends of this node that may dial themselves: address, the same address.
pub(in crate::dataplane) const HAIRPIN: &str = "hairpin";
/// Backends that would answer past us.
pub(in crate::dataplane) const MASQUERADE: &str = "masquerade";
/// Devices that packets came in by: device, the same device. Filled by packets; looked up by the devices that a packet
/// came in by and leaves by, it tells whether they are one, which no expression compares.
pub(in crate::dataplane) const SAME: &str = "same-device";
/// VIPs in use, which answer ping.
pub(in crate::dataplane) const VIPS: &str = "vips";

/// The mark of a connection that is to be reset; not one of those that the overlay's return path knows.
pub const RESET: u32 = 0x4e52_5354;

/// The chain of frontends without a backend that refuse aloud.
pub(in crate::dataplane) const REJECT: &str = "reject";
/// The chain of those that stay silent.
pub(in crate::dataplane) const DROP: &str = "drop";
/// Changes with what the rules of a chain mean: another version's rules are written anew.
const VERSION: &str = "1";

/// A rule: its expressions and its comment.
pub(in crate::dataplane) type Rule = (Vec<Expr>, String);

/// A comment that people read, and that changes with the rule.
pub(in crate::dataplane) fn comment(text: &str) -> String {
    format!("{text} (mesh-agent {VERSION})")
}

/// The name of the set that counts the flows of backends limited to `most`.
pub(in crate::dataplane) fn limit_set(most: u32) -> String {
    format!("max{most}")
}
