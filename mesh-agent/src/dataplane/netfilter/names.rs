//! What our chains are called, and how rules are told from those of other versions.

use crate::sys::nft::Expr;

/// The mark of a connection that is to be reset; not one of those that the overlay's return path knows.
pub const RESET: u32 = 0x4e52_5354;

/// The chain of frontends without a backend that refuse aloud.
pub(in crate::dataplane) const REJECT: &str = "reject";
/// The chain of those that stay silent.
pub(in crate::dataplane) const DROP: &str = "drop";
/// Changes with what rules and sets mean: what another version laid is laid anew.
const VERSION: &str = "3";

/// A rule: its expressions and its comment.
pub(in crate::dataplane) type Rule = (Vec<Expr>, String);

/// A comment that people read, and that changes with the rule.
pub(in crate::dataplane) fn comment(text: &str) -> String {
    format!("{text} (mesh-agent {VERSION})")
}
