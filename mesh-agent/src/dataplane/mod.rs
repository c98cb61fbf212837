//! Data planes: what moves the packets. All of them hold the same
//! [`Table`](crate::plan::Table), take the same [`Op`](crate::plan::Op)s and pass the one
//! contract suite in `integration/`.
//!
//! To add one: a folder here, an arm in [`AnyDataPlane`], a line in the contract suite.

mod any;
#[cfg(any(feature = "ebpf", feature = "nftables"))]
mod batch;
#[cfg(any(feature = "ebpf", feature = "nftables"))]
mod blocking;
mod counters;
#[cfg(feature = "ebpf")]
pub mod ebpf;
mod explain;
pub mod fake;
#[cfg(feature = "nftables")]
pub mod ipvs;
#[cfg(feature = "nftables")]
mod netfilter;
#[cfg(feature = "nftables")]
pub mod nftables;
mod plane;
#[cfg(any(feature = "ebpf", feature = "nftables"))]
mod slots;
pub mod userspace;

pub use any::AnyDataPlane;
pub use counters::{BackendCounters, Counters, FrontendCounters};
pub use explain::{Candidate, Explanation, Flow};
#[cfg(feature = "nftables")]
pub use netfilter::NetfilterConfig;
pub use plane::{ApplyError, ApplyReport, Capabilities, DataPlane, PlaneError};
