//! The overlay as metrics.

use super::{
    family::{Family, count, number},
    state::Operations,
};

/// None without an overlay.
pub(super) fn overlay(operations: &dyn Operations) -> Vec<Family> {
    let Some(status) = operations.overlay() else { return Vec::new() };
    let plan = status.plan.as_deref();
    let mtu = plan.map_or(0, |plan| plan.bridge.mtu);
    let help = "Steps that repaired what somebody else had changed of the overlay.";
    vec![
        Family::gauge("mesh_overlay_up", "1 while the overlay stands, if perhaps only in part.", &[])
            .with(&[], f64::from(u8::from(plan.is_some()))),
        Family::gauge("mesh_overlay_peers", "Nodes that the overlay leads to.", &[])
            .with(&[], count(plan.map_or(0, |plan| plan.peers.len()))),
        Family::gauge("mesh_overlay_mtu_bytes", "Largest packet of a container.", &[])
            .with(&[], f64::from(mtu)),
        Family::gauge("mesh_overlay_problems", "What is wrong with the overlay, by where.", &["where"])
            .with(&["kernel"], count(status.error.iter().chain(&status.problems).count()))
            .with(&["path"], count(status.paths.len())),
        Family::counter("mesh_overlay_repairs_total", help, &[]).with(&[], number(status.repairs)),
    ]
}
