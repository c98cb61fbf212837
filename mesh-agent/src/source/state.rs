//! What the rest of the agent may see of the source side.

use super::{
    instance::Health,
    local::{ExecCheck, SourceId},
};
use imbl::OrdMap;
use mesh_control::model::{Endpoint, ServiceKey, ServiceSpec};
use std::sync::Arc;

/// A service as this node's sources have it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LocalView {
    /// This node's own declaration, or the one that it made for the cluster.
    pub spec: Option<Arc<ServiceSpec>>,
    /// The check by command.
    pub exec_check: Option<Arc<ExecCheck>>,
    /// This node's endpoints as announced, and what is known of their health.
    pub endpoints: Vec<(Endpoint, Health)>,
}

/// Every service that a source of this node speaks of. Cloning costs O(1).
pub type LocalState = OrdMap<ServiceKey, Arc<LocalView>>;

/// How a source does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SourceStatus {
    /// Which.
    pub id: SourceId,
    /// Whether it has told everything once.
    pub synced: bool,
    /// How many services it speaks of.
    pub services: usize,
    /// What is wrong with its input now; what came before goes on.
    pub errors: Vec<String>,
    /// Unix time in milliseconds of its last statement that changed anything.
    pub last_change: Option<u64>,
}
