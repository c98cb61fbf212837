//! What the admin API needs of the agent: one small trait in plain model types.
//!
//! The daemon implements it over its handles; the tests implement it in memory.

use crate::{
    dataplane::{Capabilities, Counters, Explanation, Flow},
    events::EventLog,
    overlay::{AttachError, AttachRequest, Attachment, OverlayStatus},
    plan::Op,
};
use mesh_control::{
    ClusterKey, ControlStats, KeyChange, KeyView, PeerStats,
    model::{Endpoint, Name, NodeName, PortRange, Protocol, PublishMode, ServiceKey, Snapshot},
};
use mesh_dns::Lookup;
use std::{future::Future, net::SocketAddr, path::PathBuf, pin::Pin, sync::Arc, time::Duration};

/// An answer that may take a message to another task.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What the admin API asks of the agent. Every method answers from memory or by one message to one task; none waits
/// for peers.
pub trait Operations: Send + Sync + 'static {
    /// The newest merged state.
    fn snapshot(&self) -> Arc<Snapshot>;
    /// Counts of the control plane.
    fn control_stats(&self) -> ControlStats;
    /// What is measured of the other nodes, by name.
    fn peers(&self) -> Vec<PeerStats>;
    /// What happened on this node.
    fn events(&self) -> EventLog;
    /// Whether this node joined others, or needs none (no seeds).
    fn joined(&self) -> bool;
    /// How the data plane and its reconciler stand.
    fn plane(&self) -> PlaneStatus;
    /// How each source stands.
    fn sources(&self) -> Vec<SourceStatus>;
    /// What the health checks of this node's endpoints say.
    fn health(&self) -> Vec<HealthResult>;
    /// Whether DNS is switched on.
    fn dns_wanted(&self) -> bool;
    /// Where DNS listens; absent while it does not.
    fn dns_address(&self) -> Option<SocketAddr>;
    /// Connections and bytes of this node's data plane.
    fn counters(&self) -> Answer<'_, Result<Counters, OperationError>>;
    /// Where a new flow would go from this node.
    fn explain(&self, flow: Flow) -> Answer<'_, Result<Explanation, OperationError>>;
    /// The operations that would bring the data plane to the newest state; empty when it is there.
    fn plan(&self) -> Answer<'_, Result<Vec<Op>, OperationError>>;
    /// The steps that would bring the overlay to what it should be, for people; empty when it is, or there is none.
    fn overlay_plan(&self) -> Answer<'_, Result<Vec<String>, OperationError>>;
    /// How the overlay stands; absent when there is none.
    fn overlay(&self) -> Option<Arc<OverlayStatus>>;
    /// Begins to change this node's key of the encrypted overlay, without loss.
    fn renew_key(&self) -> Answer<'_, Result<(), OperationError>>;
    /// The namespaces on the overlay's bridge.
    fn attachments(&self) -> Answer<'_, Result<Vec<Attachment>, OperationError>>;
    /// Puts a namespace on the bridge; one that is there stays as it is.
    fn attach(&self, request: AttachRequest) -> Answer<'_, Result<Attachment, OperationError>>;
    /// Takes the link `name` of a namespace off the bridge; whether it was on it.
    fn detach(&self, netns: PathBuf, name: String) -> Answer<'_, Result<bool, OperationError>>;
    /// Declares the services of a Compose-shaped text (YAML or JSON), all or none; with `dry_run` only checks it.
    /// The errors name line, key, value and fix, one each.
    fn apply_compose(&self, text: String, dry_run: bool) -> Answer<'_, Result<Vec<ServiceKey>, Vec<String>>>;
    /// Withdraws the declaration that the API made.
    fn remove_service(&self, key: ServiceKey) -> Answer<'_, Result<(), OperationError>>;
    /// Opens a port of the service on nodes.
    fn publish(&self, key: ServiceKey, request: PublishRequest) -> Answer<'_, Result<(), OperationError>>;
    /// Closes a published port.
    fn unpublish(&self, key: ServiceKey, request: UnpublishRequest)
    -> Answer<'_, Result<(), OperationError>>;
    /// Announces an endpoint as this node's; one of the same name made by the API is replaced.
    fn add_endpoint(&self, key: ServiceKey, endpoint: Endpoint) -> Answer<'_, Result<(), OperationError>>;
    /// Withdraws an endpoint that the API made on this node.
    fn remove_endpoint(&self, key: ServiceKey, instance: Name) -> Answer<'_, Result<(), OperationError>>;
    /// Drains one of this node's endpoints, whatever source it comes from, or takes that back.
    fn drain_endpoint(
        &self,
        key: ServiceKey,
        instance: Name,
        drain: Drain,
    ) -> Answer<'_, Result<(), OperationError>>;
    /// Drains this node or takes that back.
    fn drain_node(&self, draining: bool) -> Answer<'_, Result<(), OperationError>>;
    /// Deletes what a node wrote that is down for good.
    fn forget_node(&self, node: NodeName) -> Answer<'_, Result<(), OperationError>>;
    /// The cluster's keys as this node sees them.
    fn keys(&self) -> Vec<KeyView>;
    /// Changes the cluster's keys.
    fn change_key(&self, change: KeyChange) -> Answer<'_, Result<(), OperationError>>;
    /// The key that seals, itself, for a join token.
    fn expose_sealing_key(&self) -> ClusterKey;
    /// Asks this node's DNS server, as a client would; the type is a word such as `AAAA`, in upper case.
    fn dns_query(&self, asked: Lookup) -> Answer<'_, Result<DnsAnswer, OperationError>>;
}

/// Why the agent did not do what the API asked.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OperationError {
    /// What was named is not there.
    #[error("{0}")]
    NotFound(String),
    /// A value is wrong.
    #[error("{field}: {problem}")]
    Invalid {
        /// Which field of the request.
        field: String,
        /// The value, the rule and the fix.
        problem: String,
    },
    /// Right in itself, yet it clashes with what is there.
    #[error("{problem}")]
    Conflict {
        /// With what.
        problem: String,
        /// What to do.
        fix: String,
    },
    /// A part of the agent is not there (yet).
    #[error("{0}")]
    Unavailable(String),
}

impl From<AttachError> for OperationError {
    fn from(error: AttachError) -> OperationError {
        match error {
            AttachError::Invalid { field, problem } => {
                OperationError::Invalid { field: field.to_owned(), problem }
            }
            AttachError::Taken(problem) => {
                let fix = "`mesh-agent attachments` shows who has which".to_owned();
                OperationError::Conflict { problem, fix }
            }
            AttachError::Unavailable(problem) => OperationError::Unavailable(problem),
            AttachError::Kernel(error) => OperationError::Unavailable(error.to_string()),
        }
    }
}

/// How the data plane and its reconciler stand.
#[derive(Clone, PartialEq, Debug)]
pub struct PlaneStatus {
    /// Its name, as `userspace`.
    pub name: String,
    /// The last snapshot revision it was brought to; absent until the first time.
    pub revision: Option<u64>,
    /// Why the last reconcile failed as a whole; absent when it did not.
    pub error: Option<String>,
    /// Single frontends that do not stand as wanted, each with its reason, as a port that another program holds.
    pub failed: Vec<String>,
    /// Time since the last reconcile or audit that succeeded.
    pub since_ok: Option<Duration>,
    /// After how long without one the data plane counts as stale.
    pub stale_after: Duration,
    /// Frontends it holds.
    pub frontends: usize,
    /// What it can do.
    pub capabilities: Option<Capabilities>,
}

/// How one source stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SourceStatus {
    /// Its name, as `file` or `api`.
    pub name: String,
    /// Whether it has told everything once.
    pub synced: bool,
    /// Services it speaks of.
    pub services: usize,
    /// What is wrong with its input now, as a refused file with its reason.
    pub errors: Vec<String>,
}

/// What the health check of one endpoint says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HealthResult {
    /// Service.
    pub service: ServiceKey,
    /// Instance.
    pub instance: Name,
    /// Whether it takes flows; absent before the first verdict.
    pub healthy: Option<bool>,
    /// The last result in words, as `connection refused`.
    pub detail: String,
}

/// A port to publish.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PublishRequest {
    /// The ports to open on nodes; absent means one out of the dynamic range.
    pub published: Option<PortRange>,
    /// The service's port, by the port clients dial or by the endpoint's port; absent when it has only one.
    pub target: Option<u16>,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// On which nodes.
    pub mode: PublishMode,
}

/// A published port to close.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UnpublishRequest {
    /// The first of the ports that are open on nodes.
    pub published: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
}

/// To drain or not to drain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Drain {
    /// Take no new flow; reset old ones after this long, or after the service's own drain time.
    Start(Option<Duration>),
    /// Take new flows again.
    Undo,
}

/// What DNS answers.
#[derive(Clone, PartialEq, Debug)]
pub struct DnsAnswer {
    /// `NOERROR`, `NXDOMAIN`, …
    pub rcode: String,
    /// Whether this node's own zone answers, or a server it forwards to.
    pub authoritative: bool,
    /// The answer section.
    pub records: Vec<DnsRecord>,
    /// Where it comes from, when that was asked.
    pub explanation: Option<mesh_dns::Explanation>,
}

/// One record of a [`DnsAnswer`], in the presentation format of RFC 1035 section 5.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DnsRecord {
    /// Owner.
    pub name: String,
    /// Type, as `A`.
    pub record_type: String,
    /// Time to live, seconds.
    pub ttl: u32,
    /// Data.
    pub data: String,
}
