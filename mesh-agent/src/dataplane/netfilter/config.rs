//! What a plane on nf_tables has to be told.

use ipnetwork::IpNetwork;
use mesh_control::model::NodeName;

/// What the nftables and the IPVS plane have to know.
#[derive(Clone, Debug)]
pub struct NetfilterConfig {
    /// This node, as backends name it.
    pub node: NodeName,
    /// Where VIPs are claimed: what is dialled there and served by nobody is refused.
    pub vip_cidrs: Vec<IpNetwork>,
    /// The overlay: from there answers come back through this node, so that backends may see the client's address.
    pub overlay: Vec<IpNetwork>,
    /// The overlay's bridge: between its ports packets pass this host, so that no source address need change.
    pub bridge: Option<String>,
}
