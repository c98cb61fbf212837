//! What the plane has to know.

use super::{hook::Hook, xdp::Xdp};
use ipnetwork::IpNetwork;
use mesh_control::model::{Addresses, NodeName, Snapshot};
use mesh_ebpf::Sizes;
use std::{path::PathBuf, sync::Arc};
use tokio::sync::watch;

/// The plane's name.
pub(super) const NAME: &str = "ebpf";

/// What the plane has to know.
#[derive(Clone, Debug)]
pub struct EbpfConfig {
    /// This node, as backends name it.
    pub node: NodeName,
    /// Its addresses on the underlay: sources of flows whose answers would pass this node by.
    pub addresses: Addresses,
    /// Where VIPs are claimed: what is dialled there and served by nobody is refused. Two of a family at most.
    pub vip_cidrs: Vec<IpNetwork>,
    /// The overlay: from there answers come back through this node, so that backends may see the client's address.
    pub overlay: Vec<IpNetwork>,
    /// The overlay's bridge.
    pub bridge: Option<String>,
    /// The overlay's VXLAN device, by which flows of other nodes come.
    pub tunnel: Option<String>,
    /// Whether answers to outside clients go straight from the backend's node, and not through the one that was dialled.
    pub direct: bool,
    /// How the programs for packets hang at devices.
    pub hook: Hook,
    /// Which devices have a program in their drivers, too.
    pub xdp: Xdp,
    /// The mesh as it changes, for the addresses of its nodes.
    pub snapshots: Option<watch::Receiver<Arc<Snapshot>>>,
    /// A BPF file system; a usual one, or one mounted at `/run/mesh-agent/bpf`, when absent.
    pub bpffs: Option<PathBuf>,
    /// The cgroup (version 2) whose processes' sockets are translated; that of all processes when absent.
    pub cgroup: Option<PathBuf>,
    /// How much the maps hold; what is pinned keeps its size.
    pub sizes: Sizes,
    /// New flows that packets may begin on one CPU within a jiffy; any number for 0.
    pub new_flows: u32,
}
