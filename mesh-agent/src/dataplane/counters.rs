//! What a data plane counts.

use crate::plan::{BackendId, FrontendKey};
use mesh_control::model::{Protocol, ServiceKey};
use serde::Serialize;

/// All counters of a data plane at one moment.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Counters {
    /// Per service, protocol and backend, summed over the service's frontends.
    pub backends: Vec<BackendCounters>,
    /// Per frontend: flows that reached no backend.
    pub frontends: Vec<FrontendCounters>,
    /// Packets that the plane dropped, by reason; of planes that tell none, nothing.
    pub drops: Vec<(&'static str, u64)>,
}

/// What one backend of a service got.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct BackendCounters {
    /// Service.
    pub service: ServiceKey,
    /// Backend.
    pub backend: BackendId,
    /// `active`, `draining`, `down`, or `removed` while old flows are left.
    pub state: &'static str,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Flows open now.
    pub active: u64,
    /// Flows that reached the backend.
    pub established: u64,
    /// Flows that the backend refused or did not answer.
    pub failed: u64,
    /// Flows that were reset by us: drain deadline or removal.
    pub reset: u64,
    /// Bytes from client to backend.
    pub bytes_in: u64,
    /// Bytes from backend to client.
    pub bytes_out: u64,
}

/// What a frontend turned away.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct FrontendCounters {
    /// Service.
    pub service: ServiceKey,
    /// Frontend.
    pub frontend: FrontendKey,
    /// New flows that found no backend.
    pub no_backend: u64,
    /// New flows refused by the source allow-list.
    pub denied: u64,
    /// New flows refused by a connection or session limit.
    pub limited: u64,
}
