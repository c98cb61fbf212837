//! The control plane of the mesh, deliberately small: the [`model`] every other part speaks, the record store
//! and its merge, claims of virtual IPs and published ports, and gossip.
//!
//! Data flows one way: a source hands [`LocalChange`]s to `ControlHandle::submit`; the store merges them with
//! what peers gossip; every merged state comes out as an immutable [`model::Snapshot`].
#![forbid(unsafe_code)]

mod api;
pub mod model;

pub use api::{ControlConfig, ControlStats, LocalChange};
