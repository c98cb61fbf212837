//! The plan: what a data plane should hold, computed from a snapshot. Pure: no tokio, no clock, no I/O.
//!
//! [`compile()`] turns a snapshot into [`Desired`], [`Desired::update`] follows changes at a cost that does not depend
//! on how many services there are, and [`diff()`] says what to do to a data plane that holds something else.

mod backend;
mod compile;
mod desired;
mod diff;
mod facts;
mod frontend;
pub mod maglev;
mod ops;
#[cfg(test)]
mod tests;

pub use backend::{Backend, BackendId, BackendState};
pub use compile::compile_service;
pub use desired::{Desired, compile};
pub use diff::{apply_ops, diff, diff_keys};
pub use facts::{NodeFacts, Policy};
pub use frontend::{Frontend, FrontendKey, Listen};
pub use ops::{Entry, Op, Table};
