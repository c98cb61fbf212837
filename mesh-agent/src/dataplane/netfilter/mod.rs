//! What the planes on nf_tables and the kernel's table of flows have in common: how keys lie, notes on elements, the sets
//! and chains that the tables of each of them have, and what becomes of flows when a backend goes.

pub(super) mod apply;
pub(super) mod base;
mod config;
pub(super) mod deadline;
pub(super) mod elements;
pub(super) mod explain;
pub(super) mod flows;
pub(super) mod layout;
pub(super) mod names;
pub(super) mod note;
pub(super) mod places;
pub(super) mod sets;

pub use config::NetfilterConfig;
