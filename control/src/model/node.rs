//! Nodes: what each says of itself, and what the others see of it.

use super::{
    endpoint::Addresses,
    key_id::KeyId,
    name::{Name, NodeName},
};
use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// What a node announces of itself (the value of its `node` record).
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct NodeInfo {
    /// Its addresses on the underlay.
    pub addresses: Addresses,
    /// Its zone label.
    pub zone: Option<Name>,
    /// The agent's version.
    pub version: String,
    /// Whether an operator drains it: its endpoints take no new flow.
    pub draining: bool,
    /// The cluster keys it holds, the one that seals first. The node itself says so, whatever its agent writes here.
    pub keys: Vec<KeyId>,
}

/// A node's liveness as this node sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    /// Answers.
    Alive,
    /// Missed a probe; its endpoints still count.
    Suspect,
    /// Declared dead: its endpoints are hidden until it returns.
    Down,
    /// Said good-bye.
    Left,
}

impl NodeState {
    /// Whether the node's endpoints count.
    #[must_use]
    pub fn is_up(self) -> bool {
        matches!(self, NodeState::Alive | NodeState::Suspect)
    }

    /// The word people read.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            NodeState::Alive => "alive",
            NodeState::Suspect => "suspect",
            NodeState::Down => "down",
            NodeState::Left => "left",
        }
    }
}

/// A node in a snapshot.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NodeView {
    /// Its name.
    pub name: NodeName,
    /// What it announced.
    pub info: NodeInfo,
    /// Where its gossip listens.
    pub gossip: Option<SocketAddr>,
    /// Liveness.
    pub state: NodeState,
    /// The overlay subnets it holds by right, at most one of each family, IPv4 first; never overlapping another
    /// node's. Kept while it is down.
    pub subnets: Vec<IpNetwork>,
}
