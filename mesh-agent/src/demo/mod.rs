//! `mesh-agent demo`: a mesh of several nodes on one machine.

pub mod echo;
pub mod layout;
mod proxy_header;
pub mod whoami;
