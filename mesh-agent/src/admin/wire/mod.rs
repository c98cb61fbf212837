//! The API's JSON, one type a shape; the CLI reads what the server writes. `docs/api.md` is about these.
//!
//! Ports are texts (`80`, `6000-6010`), durations are seconds, moments are Unix time in milliseconds.

mod event;
mod keys;
mod overlay;
mod query;
mod request;
mod service;
mod status;
mod words;

pub use event::{EventJson, EventsJson, StreamLine};
pub use keys::{AddKey, CreateToken, KeyAdded, KeyJson, KeysJson, TokenJson, UseKey};
pub use overlay::{AttachBody, AttachmentJson, AttachmentsJson, OverlayJson};
pub use query::{
    CandidateJson, DnsJson, DnsRecordJson, ExplainJson, NodeJson, NodesJson, OperationJson, PlanJson,
};
pub use request::{AddEndpoint, Applied, Done, DrainBody, NodeDrain, PublishBody};
pub use service::{
    ConnectionsJson, EndpointJson, EndpointsJson, HealthJson, PortJson, PublishedJson, ServiceDetail,
    ServiceJson, ServicesJson,
};
pub use status::{ControlJson, HealthzJson, LagJson, PlaneJson, ReadyJson, SourceJson, StatusJson};

pub(crate) use keys::key_warnings;
pub(crate) use service::{checks, endpoint_counts, flows};
pub(crate) use words::origin_text;

use serde::{Deserialize, Serialize};

/// Every error of the API.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What is wrong.
    pub error: String,
    /// The field or parameter that is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// What to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
    /// All problems, when there are several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub details: Vec<String>,
}
