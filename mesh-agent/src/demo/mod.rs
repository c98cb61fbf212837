//! `mesh-agent demo`: a mesh of several nodes on one machine.

pub mod agents;
pub mod echo;
pub mod instances;
pub mod layout;
mod proxy_header;
pub mod whoami;
