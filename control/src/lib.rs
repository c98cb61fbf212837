//! The control plane of the mesh, deliberately small: the [`model`] every other part speaks, the record store
//! and its merge, claims of virtual IPs and published ports, and gossip.
//!
//! Data flows one way: a source hands [`LocalChange`]s to `ControlHandle::submit`; the store merges them with
//! what peers gossip; every merged state comes out as an immutable [`model::Snapshot`].
#![forbid(unsafe_code)]

mod api;
mod claim;
mod claims;
mod frame;
mod gossip;
mod hash;
mod hlc;
mod key;
mod keyring;
mod member;
mod membership;
pub mod model;
pub mod node;
mod packet;
mod record;
mod session;
mod shell;
mod state_file;
mod store;
mod view;

pub use api::{ControlConfig, ControlError, ControlStats, LocalChange};
pub use hlc::Now;
pub use keyring::{KEY_LEN, KeyError, generate_key};
pub use shell::{Control, ControlHandle};
