//! `mesh-agent demo`: a mesh of several nodes on one machine.
//!
//! Each node is the real agent in a process of its own, on its own loopback addresses; the instances of the demo's
//! services run in this process.

pub mod agents;
mod ask;
pub mod echo;
mod error;
pub mod instances;
pub mod kernel;
pub mod layout;
pub mod partition;
pub mod print;
mod proxy_header;
mod ready;
mod supervise;
mod tale;
pub mod whoami;

pub use error::DemoError;
pub use supervise::run;
