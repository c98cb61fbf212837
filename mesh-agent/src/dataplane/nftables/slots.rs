//! How the kernel's expressions pick one of a frontend's slots.

use super::shape::Pick;
use crate::{dataplane::slots, plan::Entry};
use mesh_control::model::Scheduler;

/// Slots, each an index into the entry's backends; empty when none takes new flows. With how one is picked, or `None`
/// for a scheduler that cannot be had so.
pub(super) fn slots(entry: &Entry) -> Option<(Pick, Vec<usize>)> {
    let pick = match entry.frontend.scheduler {
        Scheduler::Rr | Scheduler::Wrr => Pick::Next,
        Scheduler::Random => Pick::Random,
        Scheduler::Maglev => Pick::Hash,
        Scheduler::Lc => return None,
    };
    Some((pick, slots::slots(entry)))
}
