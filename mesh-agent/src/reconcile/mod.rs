//! Keeps a data plane at what the snapshot asks.
//!
//! One task owns the plane. It reads back what the plane holds at start, follows every snapshot by compiling and
//! diffing only what changed, retries the frontends that failed with backoff, and audits the whole from time to
//! time: a difference that nobody ordered is repaired, counted and named. Nothing is removed before every source has
//! told everything once, or a timeout; a restart with unchanged state therefore writes nothing.

mod engine;
mod handle;
mod metrics;
mod retry;
mod status;
mod task;
#[cfg(test)]
mod tests;

pub use handle::{ReconcileGone, ReconcileHandle};
pub use metrics::ReconcileMetrics;
pub use status::{FrontendError, LastSync, ReconcileStatus};
pub use task::{ReconcileConfig, spawn};
