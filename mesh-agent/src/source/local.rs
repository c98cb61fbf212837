//! What a source says.

use mesh_control::model::{Addresses, Endpoint, Name, Origin, ServiceKey, ServiceSpec};
use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

/// Which source a statement belongs to, as `file` or `api`. Displayed in `status` and logs.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct SourceId(pub Arc<str>);

impl fmt::Display for SourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// What one source says of one service on this node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LocalService {
    /// The service.
    pub key: ServiceKey,
    /// The declaration and whom it belongs to; absent when the source only adds endpoints to a service.
    pub declaration: Option<(Origin, Arc<ServiceSpec>)>,
    /// The instances of this node, as the source knows them (before health checks).
    /// Shared: a source, the writer and a relist hold the same list.
    pub endpoints: Arc<[Endpoint]>,
    /// A command that checks an endpoint. Only a file of this node can bring one, so it is kept out of
    /// [`ServiceSpec`], which gossip carries.
    pub exec_check: Option<ExecCheck>,
}

/// A health check by command: exit status 0 is healthy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExecCheck {
    /// Program and arguments; no shell unless the file says `CMD-SHELL`.
    pub command: Vec<String>,
    /// From the start of one check to the start of the next.
    pub interval: Duration,
    /// After which the command is killed and has failed.
    pub timeout: Duration,
    /// Successes in a row that make it ready.
    pub rise: u32,
    /// Failures in a row that make it not ready.
    pub fall: u32,
    /// Time after the start in which failures do not count.
    pub start_period: Duration,
}

/// What a check asks: an instance with another address or port is another process.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Process {
    /// The instance.
    pub instance: Name,
    /// Where it answers.
    pub addresses: Addresses,
    /// As in [`Endpoint`]: a service's target port to the instance's own.
    pub ports: BTreeMap<u16, u16>,
}

impl Process {
    /// Whether an endpoint is this very process.
    #[must_use]
    pub fn is(&self, endpoint: &Endpoint) -> bool {
        self.instance == endpoint.instance
            && self.addresses == endpoint.addresses
            && self.ports == endpoint.ports
    }
}

impl From<&Endpoint> for Process {
    fn from(e: &Endpoint) -> Self {
        Process { instance: e.instance.clone(), addresses: e.addresses, ports: e.ports.clone() }
    }
}

/// What the health checks say of an endpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Takes new flows.
    Healthy,
    /// Does not.
    Unhealthy,
}
