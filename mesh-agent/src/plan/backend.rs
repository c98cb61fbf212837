//! A backend: an endpoint as a data plane sees it behind one frontend.

use mesh_control::model::{Name, NodeName};
use serde::Serialize;
use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

/// Which instance on which node; the same on every node of the mesh. Displayed `web-1@node-a`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize)]
pub struct BackendId {
    /// The instance.
    pub instance: Name,
    /// The node that announces it.
    pub node: NodeName,
}

impl fmt::Display for BackendId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.instance, self.node)
    }
}

/// Whether a backend takes flows.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize)]
#[serde(rename_all = "lowercase", tag = "state")]
pub enum BackendState {
    /// Takes new flows.
    Active,
    /// No new flow; old ones stay until `deadline`, then they are reset on both sides.
    Draining {
        /// Unix time in milliseconds; absent means until it is removed.
        deadline: Option<u64>,
    },
    /// Takes none: not ready, or its node is drained. Old TCP flows stay, UDP flows move at once.
    Down,
}

impl BackendState {
    /// The state without its data, as metrics and tables show it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            BackendState::Active => "active",
            BackendState::Draining { .. } => "draining",
            BackendState::Down => "down",
        }
    }
}

/// A backend behind one frontend.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize)]
pub struct Backend {
    /// Instance and node.
    pub id: BackendId,
    /// Where it is reached.
    pub address: IpAddr,
    /// Its port for the frontend's first port; a range continues one by one.
    pub port: u16,
    /// Share of new flows; 0 takes none.
    pub weight: u16,
    /// Whether it takes flows.
    pub state: BackendState,
}

impl Backend {
    /// Its socket address for the port that lies `offset` above the frontend's first port.
    #[must_use]
    pub fn socket(&self, offset: u16) -> SocketAddr {
        SocketAddr::new(self.address, self.port.saturating_add(offset))
    }

    /// Whether a new flow may go to it.
    #[must_use]
    pub fn takes_new_flows(&self) -> bool {
        self.state == BackendState::Active && self.weight > 0
    }
}
