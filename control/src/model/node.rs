//! Nodes: what each says of itself, and what the others see of it.

use super::{
    endpoint::Addresses,
    key_id::KeyId,
    name::{Name, NodeName},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};
use std::{fmt, net::SocketAddr};

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
    /// Where its encrypted overlay listens, the older key first while one is changed for another; empty of a node whose
    /// overlay is not encrypted.
    pub tunnels: Vec<Tunnel>,
    /// Whether it takes packets for its endpoints as clients sent them to another node, and answers those clients itself.
    pub direct: bool,
}

/// One end of the tunnels between nodes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Tunnel {
    /// By which packets are known to be from the node and sealed so that only it can open them.
    pub key: TunnelKey,
    /// UDP port on the node's addresses.
    pub port: u16,
}

/// The public key of WireGuard (Curve25519, RFC 7748).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TunnelKey(pub [u8; 32]);

/// As `wg show` prints it.
impl fmt::Display for TunnelKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64_STANDARD.encode(self.0))
    }
}

impl fmt::Debug for TunnelKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
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
