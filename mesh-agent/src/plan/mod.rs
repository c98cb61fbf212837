//! The plan: what a data plane should hold, computed from a snapshot. Pure: no tokio, no clock, no I/O.

mod backend;
mod frontend;
mod ops;

pub use backend::{Backend, BackendId, BackendState};
pub use frontend::{Frontend, FrontendKey, Listen};
pub use ops::{Entry, Op, Table};
