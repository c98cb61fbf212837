//! What happened on this node, for people who ask afterwards or watch: `mesh-agent events`, `GET /v1/events`.
//!
//! [`diff()`] and [`troubles()`] compare two states and say what changed, [`Ring`] keeps the last of it, [`EventLog`] is the
//! handle that readers wait on, and [`spawn`] watches the running agent. The first three are pure.

mod change;
mod diff;
#[cfg(test)]
mod diff_tests;
mod endpoints;
mod event;
mod log;
mod ring;
mod task;
mod trouble;

pub use diff::diff;
pub use event::{Event, Kind, News};
pub use log::{EventLog, Follower, PassedOver};
pub use ring::{Page, Ring, Since};
pub use task::spawn;
pub use trouble::{ClockWatch, Observed, Troubles, own_clock, troubles};
