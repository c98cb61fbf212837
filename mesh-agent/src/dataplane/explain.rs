//! Asking a data plane where a flow would go.

use crate::plan::{BackendId, FrontendKey};
use mesh_control::model::{Protocol, ServiceKey};
use serde::Serialize;
use std::net::{IpAddr, SocketAddr};

/// A flow to ask about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flow {
    /// The client's address, when known: affinity and hashing depend on it.
    pub client: Option<IpAddr>,
    /// What it dials.
    pub destination: SocketAddr,
    /// TCP or UDP.
    pub protocol: Protocol,
}

/// Where a new flow would go.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Explanation {
    /// The frontend that matches; absent when none does.
    pub frontend: Option<FrontendKey>,
    /// Its service.
    pub service: Option<ServiceKey>,
    /// Every backend, with its chance or the reason why it has none.
    pub candidates: Vec<Candidate>,
    /// The backend that affinity remembers for this client.
    pub affinity: Option<BackendId>,
    /// Exactly which objects say so: a listening socket, a map element, a virtual server.
    pub objects: Vec<String>,
}

/// One backend in an [`Explanation`].
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Candidate {
    /// Backend.
    pub backend: BackendId,
    /// Where it is reached.
    pub address: SocketAddr,
    /// Chance of being picked for the next flow, 0 to 1.
    pub probability: f64,
    /// Why it is not picked: `draining`, `down`, `weight 0`, `at its connection limit`.
    pub excluded: Option<String>,
}
