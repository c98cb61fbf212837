//! The API source: what is declared and announced through the admin API of this node.
//!
//! Declarations belong to the cluster: they live in the control plane's store alone, so that a restart of this node
//! never undoes what was edited elsewhere meanwhile. Endpoints belong to this node and are kept in `api.json`.

mod service;
mod store;
#[cfg(test)]
mod tests;

pub use service::{ApiError, ApiSource};
pub use store::StoreError;
