//! The model: what a service, an endpoint and a node *are*. Types only, no I/O, no clock.

mod endpoint;
mod error;
mod key_id;
mod name;
mod node;
mod port;
mod service;
mod snapshot;

pub(crate) use endpoint::is_unicast;
pub use endpoint::{Addresses, Endpoint, EndpointView};
pub use error::SpecError;
pub use key_id::KeyId;
pub use name::{DEFAULT_NAMESPACE, Name, NameError, NodeName, ServiceKey};
pub use node::{NodeInfo, NodeState, NodeView, Tunnel, TunnelKey};
pub use port::{Family, PortRange, PortRangeError, Protocol};
pub use service::{
    Affinity, CheckKind, EndpointMode, HealthCheck, Locality, NoBackend, Publish, PublishMode, Scheduler,
    ServicePort, ServiceSpec,
};
pub use snapshot::{Changes, Conflict, Origin, PublishedView, ServiceView, Snapshot};
