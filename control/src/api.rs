//! What the agent sees of the control plane.

use crate::keyring::{ClusterKey, KeyError};
use crate::model::{Endpoint, KeyId, NodeInfo, NodeName, Origin, PortRange, ServiceKey, ServiceSpec};
use crate::subnets::OverlayNetwork;
use ipnetwork::IpNetwork;
use std::{fmt, net::SocketAddr, path::PathBuf, sync::Arc};

/// One change that this node's sources ask for. A change that changes no content writes nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LocalChange {
    /// Declare a service, or change the declaration. `Origin::Node` must be this node.
    PutService {
        /// Whose declaration.
        origin: Origin,
        /// Which service.
        key: ServiceKey,
        /// The declaration.
        spec: Arc<ServiceSpec>,
    },
    /// Withdraw a declaration; the service goes with its last one.
    DeleteService {
        /// Whose declaration.
        origin: Origin,
        /// Which service.
        key: ServiceKey,
    },
    /// Announce all endpoints that this node has of a service; an empty list withdraws them.
    PutEndpoints {
        /// Which service; it need not be declared (yet).
        key: ServiceKey,
        /// All of this node's endpoints of it.
        endpoints: Vec<Endpoint>,
    },
    /// Change what this node says of itself.
    SetNode(NodeInfo),
    /// Change the cluster's keys.
    Key(KeyChange),
}

/// One step of a key rotation; every node follows within a second or two.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum KeyChange {
    /// Every node opens what is sealed with this key; at most 8 at once.
    Add(ClusterKey),
    /// Every node seals with this key. Refused while a node that is up lacks it, unless forced.
    Use {
        /// Which key.
        id: KeyId,
        /// Whatever the others hold.
        force: bool,
    },
    /// No node opens what is sealed with this key, also where a configuration lists it. Refused for the key in use;
    /// refused unless forced while a node seals with it, or is down and could not come back.
    Remove {
        /// Which key.
        id: KeyId,
        /// Whatever the others use.
        force: bool,
    },
}

/// A cluster key as one node sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyView {
    /// Its name.
    pub id: KeyId,
    /// Whether it seals what this node sends.
    pub in_use: bool,
    /// Whether this node's configuration lists it.
    pub in_config: bool,
    /// Whether it was removed and only the configuration still lists it.
    pub removed: bool,
    /// The nodes that are up and say that they hold it.
    pub held_by: Vec<NodeName>,
    /// Those of them that seal with it.
    pub seals_for: Vec<NodeName>,
}

/// How to start the control plane of one node.
#[derive(Clone)]
pub struct ControlConfig {
    /// This node's name, unique in the mesh.
    pub node: NodeName,
    /// What it says of itself.
    pub info: NodeInfo,
    /// Where gossip listens, UDP and TCP.
    pub bind: SocketAddr,
    /// What the others are told to dial; `bind` unless that is a wildcard.
    pub advertise: SocketAddr,
    /// `host:port` of nodes to join, resolved anew and retried for ever.
    pub seeds: Vec<String>,
    /// Cluster keys, base64 of 32 bytes each; the first seals, all open.
    pub keys: Vec<String>,
    /// Where VIPs are claimed, at most one network per family.
    pub vip_cidrs: Vec<IpNetwork>,
    /// Where this node claims an overlay subnet, at most one network per family; empty for no overlay.
    pub overlay: Vec<OverlayNetwork>,
    /// Where published ports without a number are claimed; Swarm uses 30000–32767.
    pub dynamic_ports: PortRange,
    /// Where state is kept over a restart; absent keeps none.
    pub data_dir: Option<PathBuf>,
}

/// Without the keys: this may end up in a log.
impl fmt::Debug for ControlConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ControlConfig")
            .field("node", &self.node)
            .field("info", &self.info)
            .field("bind", &self.bind)
            .field("advertise", &self.advertise)
            .field("seeds", &self.seeds)
            .field("keys", &self.keys.len())
            .field("vip_cidrs", &self.vip_cidrs)
            .field("overlay", &self.overlay)
            .field("dynamic_ports", &self.dynamic_ports)
            .field("data_dir", &self.data_dir)
            .finish()
    }
}

/// Counts for `status` and metrics.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ControlStats {
    /// Other nodes that are up.
    pub members_up: usize,
    /// Other nodes that are known and down.
    pub members_down: usize,
    /// Live records in the store.
    pub records: usize,
    /// Tombstones in the store.
    pub tombstones: usize,
    /// Datagrams and their bytes sent.
    pub udp_sent: (u64, u64),
    /// Datagrams and their bytes received.
    pub udp_received: (u64, u64),
    /// Packets refused, by reason: unknown key, replayed, malformed, too large.
    pub refused: Vec<(&'static str, u64)>,
    /// Anti-entropy exchanges run, and those that failed.
    pub syncs: (u64, u64),
    /// How long news takes to this node; absent when there was none in the last minute.
    pub lag: Option<Lag>,
    /// Milliseconds since the last exchange after which a peer and this node held equal states.
    pub in_sync: Option<u64>,
    /// Why this node keeps silent: another had its name or address first.
    pub silenced: Option<String>,
}

/// From this many milliseconds on, this node's own clock is called off: drain deadlines are moments of the wall clock.
/// Of another node that is said only from 60 s on, where versions are held back: one late datagram makes one node look
/// behind, and it says so itself before.
pub const CLOCK_OFF: u64 = 5_000;

/// What this node measured of another.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerStats {
    /// The node.
    pub node: NodeName,
    /// Time of the last TCP handshake with it, in microseconds.
    pub rtt: Option<u32>,
    /// Its wall clock less this node's, in milliseconds, as last heard.
    pub clock_offset: Option<i64>,
    /// Milliseconds since it was last heard.
    pub heard: Option<u64>,
    /// What is wrong with it, for people: another node has its name or address, its clock is off.
    pub trouble: Option<String>,
}

/// How long news takes to this node: the age at arrival of records that gossip brought, over the last minute.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Lag {
    /// Records counted.
    pub records: usize,
    /// Half of them were at most this old, in milliseconds.
    pub median: u64,
    /// All of them were at most this old.
    pub worst: u64,
}

/// What can go wrong in the control plane, each with the value at fault and the fix.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The gossip address cannot be used.
    #[error(
        "cannot listen for gossip on {address} ({protocol}): {source}; choose a free address of this host in `cluster.bind`"
    )]
    Bind {
        /// The address.
        address: SocketAddr,
        /// `udp` or `tcp`.
        protocol: &'static str,
        /// What the system says.
        source: std::io::Error,
    },
    /// A field of [`ControlConfig`] is wrong.
    #[error("{field}: {problem}")]
    Config {
        /// The field.
        field: &'static str,
        /// The value, the rule and the fix.
        problem: String,
    },
    /// The keyring is wrong.
    #[error("keys: {0}")]
    Key(#[from] KeyError),
    /// A change is refused; nothing was written.
    #[error("{field}: {problem}")]
    Change {
        /// The field.
        field: String,
        /// The value, the rule and the fix.
        problem: String,
    },
    /// A change of the cluster's keys is refused; nothing was written.
    #[error("{problem}; {fix}")]
    KeyChange {
        /// What stands against it.
        problem: String,
        /// What to do.
        fix: String,
    },
    /// A node is not forgotten; nothing was written.
    #[error("{problem}; {fix}")]
    Forget {
        /// What stands against it.
        problem: String,
        /// What to do.
        fix: String,
    },
    /// The kept state cannot be used.
    #[error("{path}: {problem}", path = path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        problem: String,
    },
    /// The control plane was shut down.
    #[error("the control plane is shut down")]
    Stopped,
}
