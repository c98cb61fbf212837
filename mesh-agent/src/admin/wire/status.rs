//! Status, readiness and health.

use super::overlay::OverlayJson;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// `GET /v1/status`.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct StatusJson {
    /// This node.
    pub node: String,
    /// The agent's version.
    pub version: String,
    /// Since the admin API started.
    pub uptime_seconds: f64,
    /// The newest snapshot.
    pub revision: u64,
    /// Whether `/readyz` says yes.
    pub ready: bool,
    /// What `/readyz` misses.
    pub missing: Vec<String>,
    /// Whether this node joined others, or needs none.
    pub joined: bool,
    /// Where DNS listens.
    pub dns: Option<String>,
    /// The data plane.
    pub plane: PlaneJson,
    /// The overlay; absent when there is none.
    pub overlay: Option<OverlayJson>,
    /// The sources.
    pub sources: Vec<SourceJson>,
    /// The control plane.
    pub control: ControlJson,
    /// Services declared.
    pub services: usize,
    /// Endpoints by state: `ready`, `draining`, `not-ready`, `hidden`.
    pub endpoints: BTreeMap<String, usize>,
    /// Services whose declarations differ, and published ports that another service holds.
    pub conflicts: Vec<String>,
    /// Where this node's configuration differs from the keys that the mesh uses.
    pub warnings: Vec<String>,
}

/// The data plane and its reconciler.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct PlaneJson {
    /// As `userspace`.
    pub name: String,
    /// The last revision it was brought to.
    pub revision: Option<u64>,
    /// Why the last reconcile failed as a whole.
    pub error: Option<String>,
    /// Frontends that do not stand as wanted, with reasons.
    pub failed: Vec<String>,
    /// Since the last reconcile or audit that succeeded.
    pub seconds_since_ok: Option<f64>,
    /// Frontends it holds.
    pub frontends: usize,
    /// What it can do.
    pub capabilities: serde_json::Value,
}

/// A source.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct SourceJson {
    /// As `file`.
    pub name: String,
    /// Whether it has told everything once.
    pub synced: bool,
    /// Services it speaks of.
    pub services: usize,
    /// What is wrong with its input.
    pub errors: Vec<String>,
}

/// The control plane in numbers.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct ControlJson {
    /// Other nodes that are up.
    pub members_up: usize,
    /// Other nodes that are down.
    pub members_down: usize,
    /// Live records.
    pub records: usize,
    /// Tombstones.
    pub tombstones: usize,
    /// How long news took to this node in the last minute; absent when there was none.
    pub lag: Option<LagJson>,
    /// Since the last exchange after which a peer and this node held equal states.
    pub in_sync_seconds: Option<f64>,
    /// Why this node keeps silent; it is not ready then.
    pub silenced: Option<String>,
    /// What is wrong with this node's clock.
    pub clock: Vec<String>,
}

/// How old records were when gossip brought them.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct LagJson {
    /// Records of the last minute.
    pub records: usize,
    /// Half of them were at most this old.
    pub median_seconds: f64,
    /// All of them were at most this old.
    pub worst_seconds: f64,
}

/// `GET /readyz`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ReadyJson {
    /// Whether the node may be sent traffic.
    pub ready: bool,
    /// What it waits for.
    pub missing: Vec<String>,
}

/// `GET /healthz`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct HealthzJson {
    /// Whether the path from declaration to data plane works.
    pub healthy: bool,
    /// Why not.
    pub problems: Vec<String>,
    /// What works only in part, as a published port that another program holds; does not make it unhealthy.
    pub degraded: Vec<String>,
}
