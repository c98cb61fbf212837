//! What clients send, and the short answers to it. Unknown keys are refused, so that a typo is no silent default.

use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, net::IpAddr};

/// `POST /v1/services/{name}/publish`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PublishBody {
    /// The nodes' ports, as `8080` or `6000-6010`; absent lets the mesh choose one.
    pub published: Option<String>,
    /// The service's port; needed only when it has several.
    pub target: Option<u16>,
    /// `tcp` (default) or `udp`.
    pub protocol: Option<String>,
    /// `ingress` (default) or `host`.
    pub mode: Option<String>,
}

/// `POST /v1/services/{name}/endpoints`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddEndpoint {
    /// Its name, unique in the service on this node.
    pub instance: String,
    /// Where it is reached, at most one of each family.
    pub addresses: Vec<IpAddr>,
    /// Where it differs from the service's targets: target → own port.
    #[serde(default)]
    pub ports: BTreeMap<u16, u16>,
    /// Share of new flows; 100 when absent.
    #[serde(default)]
    pub weight: Option<u16>,
}

/// `POST …/endpoints/{instance}/drain`; the body may be absent.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DrainBody {
    /// When old flows are reset; absent takes the service's drain time.
    pub deadline_seconds: Option<f64>,
}

/// `POST /v1/nodes/{node}/drain`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeDrain {
    /// Drain it, or take that back.
    pub draining: bool,
}

/// The answer to `PUT /v1/services`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Applied {
    /// The services of the text.
    pub services: Vec<String>,
    /// Whether nothing was written.
    pub dry_run: bool,
}

/// The answer to a write that has nothing else to say.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Done {
    /// What was done, in words.
    pub done: String,
}
