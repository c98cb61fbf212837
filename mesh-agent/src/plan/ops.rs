//! The table of frontends that a data plane holds, and the operations that change it.

use super::{
    backend::{Backend, BackendId},
    frontend::{Frontend, FrontendKey},
};
use imbl::OrdMap;
use serde::Serialize;
use std::sync::Arc;

/// A frontend with its backends, sorted by id without duplicates. Frontends of one service port share the slice.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Policy.
    pub frontend: Arc<Frontend>,
    /// Backends.
    pub backends: Arc<[Backend]>,
}

impl Entry {
    /// The same entry, with the parts that `other` has equal taken from it, so that they are kept once.
    #[must_use]
    pub fn sharing(mut self, other: &Entry) -> Entry {
        if self.frontend == other.frontend {
            self.frontend = Arc::clone(&other.frontend);
        }
        if self.backends == other.backends {
            self.backends = Arc::clone(&other.backends);
        }
        self
    }
}

/// Frontends by key: what a data plane should hold (Desired) or was read to hold (Realized).
pub type Table = OrdMap<FrontendKey, Entry>;

/// One change of a data plane. Each is idempotent: applied twice it changes nothing the second time.
///
/// A batch is ordered so that it never leaves a frontend without backends on the way: frontends are put, backends
/// are put, backends are removed, frontends are removed. One exception comes first of all: frontends to be removed
/// that share an address and a port with one to be created (`80-90` becoming `80-95`), because no plane can hold both.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case", tag = "op")]
pub enum Op {
    /// Create the frontend without backends, or change its policy and keep its backends and flows.
    PutFrontend(Arc<Frontend>),
    /// Add a backend, or change its weight, address or state; flows to it stay unless the state says otherwise.
    PutBackend {
        /// Of which frontend.
        frontend: FrontendKey,
        /// The backend.
        backend: Backend,
    },
    /// Remove a backend; what flows are left to it are reset (TCP) or moved to another at once (UDP).
    RemoveBackend {
        /// Of which frontend.
        frontend: FrontendKey,
        /// Which.
        backend: BackendId,
    },
    /// Remove a frontend with all its backends and flows.
    RemoveFrontend(FrontendKey),
}

impl Op {
    /// The frontend it is about.
    #[must_use]
    pub fn frontend(&self) -> FrontendKey {
        match self {
            Op::PutFrontend(f) => f.key,
            Op::PutBackend { frontend, .. }
            | Op::RemoveBackend { frontend, .. }
            | Op::RemoveFrontend(frontend) => *frontend,
        }
    }
}
