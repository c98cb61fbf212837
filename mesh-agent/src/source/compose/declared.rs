//! What a document yields, and for whom it is read.

use crate::source::local::LocalService;
use mesh_control::model::{NodeName, Origin, PortRange, Protocol};
use std::{net::IpAddr, sync::Arc};

/// Who reads the document.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// This node; static endpoints of other nodes are left to them.
    pub node: &'a NodeName,
    /// Whom the declarations belong to. Health checks by command are read only for `Origin::Node`.
    pub origin: &'a Origin,
}

/// A service and where it was declared.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Declared {
    /// The service.
    pub service: LocalService,
    /// The file.
    pub file: Arc<str>,
    /// The line of its name.
    pub line: u32,
    /// The published ports that have numbers.
    pub published: Vec<PublishedAt>,
}

/// A published port and where it was declared.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PublishedAt {
    /// The key, as `services.web.ports[0]`.
    pub key: String,
    /// Its line.
    pub line: u32,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The ports.
    pub ports: PortRange,
    /// The one address, if it is not every one.
    pub address: Option<IpAddr>,
}
