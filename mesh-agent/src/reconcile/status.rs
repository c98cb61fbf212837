//! What people and probes see of the reconciler.

use crate::{dataplane::Capabilities, plan::FrontendKey};
use serde::Serialize;
use std::{collections::BTreeMap, time::Duration};

/// The reconciler at one moment.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct ReconcileStatus {
    /// The data plane, as `userspace`.
    pub plane: &'static str,
    /// What it can do here.
    pub capabilities: Capabilities,
    /// The last snapshot revision that was worked through, with or without errors.
    pub applied_revision: u64,
    /// Frontends the plane was made to hold.
    pub frontends: usize,
    /// Backends summed over those frontends.
    pub backends: usize,
    /// The last pass that changed something or looked at everything.
    pub last_sync: Option<LastSync>,
    /// Frontends that are not as they should be, and why; each is retried.
    pub errors: Vec<FrontendError>,
    /// Why the plane cannot be read, while it cannot.
    pub plane_error: Option<String>,
    /// Repairs of differences that nobody ordered, by object and kind, as `backend missing`.
    pub drift: BTreeMap<String, u64>,
    /// The last of them by name, newest last; at most 16.
    pub last_drift: Vec<String>,
    /// Whether removals are allowed: every source has told everything once, or took too long.
    pub synced: bool,
    /// The newest snapshot is applied in full, without errors and with nothing held back.
    pub settled: bool,
}

/// When a pass ran and how long it took.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct LastSync {
    /// Unix time in milliseconds of its end.
    pub at: u64,
    /// From the start of compilation to the plane's answer.
    pub duration: Duration,
    /// Operations it sent.
    pub ops: usize,
}

/// A frontend that is not as it should be.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct FrontendError {
    /// Which.
    pub frontend: FrontendKey,
    /// What the plane said.
    pub error: String,
    /// Attempts so far.
    pub attempts: u32,
}
