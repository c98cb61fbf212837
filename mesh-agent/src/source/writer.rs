//! The one way from sources into the control plane.

/// Merges what the sources say and hands it to the control plane.
#[derive(Debug)]
pub struct StateWriter {}
