//! The seam between the agent and what moves the packets.

use super::{
    counters::Counters,
    explain::{Explanation, Flow},
};
use crate::plan::{Op, Table};
use mesh_control::model::{Protocol, Scheduler};
use serde::Serialize;

/// What a data plane can do; the contract suite asks it which scenarios apply, `status` shows it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Capabilities {
    /// Schedulers it honours exactly; others are refused with a reason.
    pub schedulers: Vec<Scheduler>,
    /// Protocols.
    pub protocols: Vec<Protocol>,
    /// Whether backends can be told the client's address by PROXY protocol v2.
    pub proxy_protocol: bool,
    /// Whether the client's own address reaches the backend in the packets.
    pub keeps_client_address: bool,
    /// Whether established flows outlive the agent's process.
    pub survives_restart: bool,
    /// Whether `NoBackend::Hold` is honoured; otherwise it acts as `Reject`.
    pub hold: bool,
}

/// Why one operation did not take effect.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The frontend is not there, so the operation has no place.
    #[error("frontend {0} is not there")]
    NoSuchFrontend(crate::plan::FrontendKey),
    /// The plane cannot do what the frontend asks.
    #[error("{frontend}: {reason}")]
    Unsupported {
        /// Which frontend.
        frontend: crate::plan::FrontendKey,
        /// What, and what to use instead.
        reason: String,
    },
    /// The system refused.
    #[error("{frontend}: {action}: {source}")]
    System {
        /// Which frontend.
        frontend: crate::plan::FrontendKey,
        /// What was tried, as "bind".
        action: &'static str,
        /// The system's answer.
        source: std::io::Error,
    },
}

/// The outcome of a batch. Operations that failed do not stop the others.
#[derive(Debug, Default)]
pub struct ApplyReport {
    /// How many took effect, those that found nothing to change included.
    pub applied: usize,
    /// Index into the batch and reason of each that did not.
    pub failed: Vec<(usize, ApplyError)>,
}

/// Why a data plane could not be read or torn down.
#[derive(Debug, thiserror::Error)]
#[error("data plane {plane}: {action}: {source}")]
pub struct PlaneError {
    /// Which plane, as `userspace`.
    pub plane: &'static str,
    /// What was tried.
    pub action: &'static str,
    /// The system's answer.
    pub source: std::io::Error,
}

/// What moves the packets.
///
/// Semantics are the same on every plane. Affinity: the client's IP address, per service, forgotten `timeout` after
/// its last new flow; it yields when its backend takes no new flows. Backend states: see
/// [`crate::plan::BackendState`]. A frontend with no backend that takes new flows acts by its `NoBackend`.
#[expect(async_fn_in_trait, reason = "used through AnyDataPlane, never as a trait object")]
pub trait DataPlane {
    /// Its name in config, metrics and messages.
    fn name(&self) -> &'static str;

    /// What it can do on this host.
    fn capabilities(&self) -> Capabilities;

    /// Reads back what it holds; for kernel planes from the kernel, not from memory.
    ///
    /// # Errors
    /// [`PlaneError`] when it cannot be read.
    async fn observe(&mut self) -> Result<Table, PlaneError>;

    /// Applies a batch in order. Idempotent: the same batch again changes nothing.
    async fn apply(&mut self, ops: &[Op]) -> ApplyReport;

    /// Connections and bytes so far; they never go down while the process lives, gauges aside.
    fn counters(&self) -> Counters;

    /// Where a new flow would go and why, without sending a packet or changing anything.
    fn explain(&self, flow: &Flow) -> Explanation;

    /// Takes no new connection from now on, because the agent stops; open flows go on. UDP has no connections, so new
    /// and old flows go on alike. There is no way back but [`DataPlane::teardown`].
    async fn refuse_new(&mut self);

    /// Removes everything it made.
    ///
    /// # Errors
    /// [`PlaneError`] when something is left.
    async fn teardown(&mut self) -> Result<(), PlaneError>;
}
