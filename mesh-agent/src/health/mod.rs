//! Health checks of the endpoints this node owns: TCP, HTTP, and commands that this node's own files ask for.
//!
//! One task a checked endpoint asks the question, the pure [`State`] counts, and a change goes to the
//! [`crate::source::StateWriter`], which tells the mesh. Tasks start and stop with the endpoints.

mod check;
mod plan;
mod probe;
mod results;
mod runner;
mod state;
#[cfg(test)]
mod tests;

pub use results::{CheckResult, CheckState};
pub use runner::HealthHandle;
pub use state::{Rules, State};
