//! What a plan depends on besides the snapshot.

use mesh_control::model::{Family, Name, NodeName};
use std::net::IpAddr;

/// Who this node is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeFacts {
    /// Its name, as endpoints carry it.
    pub name: NodeName,
    /// Its zone, for `prefer-zone`.
    pub zone: Option<Name>,
}

/// This node's own choices.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Policy {
    /// Local addresses on which published ports are open; absent means every local address of [`Policy::families`].
    pub publish: Option<Vec<IpAddr>>,
    /// Address families this node serves; frontends of others are not programmed.
    pub families: Vec<Family>,
}

impl Default for Policy {
    fn default() -> Self {
        Policy { publish: None, families: vec![Family::V4, Family::V6] }
    }
}
