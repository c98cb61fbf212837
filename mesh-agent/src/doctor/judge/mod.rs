//! Says what the facts mean. Pure.

mod host;
mod kernel;
mod rules;

use super::{facts::Facts, finding::Finding};

/// The overlay's bridge.
pub(super) const BRIDGE: &str = "mesh0";
/// The overlay's VXLAN device.
const DEVICE: &str = "mesh-vx";
/// Its network identifier.
const VNI: u32 = 77;
/// The agent's nf_tables tables.
const TABLE: &str = "mesh-agent";

/// All findings, in the order of `docs/doctor.md`.
#[must_use]
pub fn judge(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    kernel::judge(facts, &mut findings);
    host::judge(facts, &mut findings);
    rules::judge(facts, &mut findings);
    findings
}
