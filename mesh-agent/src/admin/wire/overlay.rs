//! The overlay and what is attached to it.

use crate::overlay::{Attachment, OverlayStatus};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// `POST /v1/attachments`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttachBody {
    /// The namespace's file, as the agent sees it.
    pub netns: String,
    /// What its link is called there; `eth0` when absent.
    #[serde(default)]
    pub name: Option<String>,
    /// An address of the node's subnet; the next free one when absent.
    #[serde(default)]
    pub address: Option<IpAddr>,
}

/// `GET /v1/attachments`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct AttachmentsJson {
    /// The namespaces on this node's bridge.
    pub attachments: Vec<AttachmentJson>,
}

/// A namespace on the bridge.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct AttachmentJson {
    /// Where the namespace was found.
    pub netns: String,
    /// The link in it.
    pub name: String,
    /// The link's other end, on the bridge.
    pub port: String,
    /// Its addresses.
    pub addresses: Vec<String>,
    /// The gateway of each.
    pub gateways: Vec<String>,
    /// The link's MTU, bytes.
    pub mtu: u32,
}

impl From<&Attachment> for AttachmentJson {
    fn from(a: &Attachment) -> AttachmentJson {
        let texts = |list: &[IpAddr]| list.iter().map(ToString::to_string).collect();
        AttachmentJson {
            netns: a.lease.netns.display().to_string(),
            name: a.lease.name.clone(),
            port: a.port.clone(),
            addresses: texts(&a.lease.addresses),
            gateways: texts(&a.gateways),
            mtu: a.mtu,
        }
    }
}

/// How the overlay stands.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct OverlayJson {
    /// Whether it stands, if perhaps only in part.
    pub up: bool,
    /// The bridge's addresses with the length of this node's subnets.
    pub gateways: Vec<String>,
    /// Largest packet of a container, bytes.
    pub mtu: u32,
    /// Nodes that it leads to.
    pub peers: usize,
    /// This node's WireGuard keys, the older first while one is changed; none without encryption.
    pub keys: Vec<String>,
    /// Steps that repaired what somebody else had changed.
    pub repairs: u64,
    /// Why nothing could be done, and what stands only in part.
    pub problems: Vec<String>,
}

impl From<&OverlayStatus> for OverlayJson {
    fn from(status: &OverlayStatus) -> OverlayJson {
        let plan = status.plan.as_deref();
        OverlayJson {
            up: plan.is_some(),
            gateways: plan.into_iter().flat_map(|p| &p.gateways).map(ToString::to_string).collect(),
            mtu: plan.map_or(0, |p| p.bridge.mtu),
            peers: plan.map_or(0, |p| p.peers.len()),
            keys: status.tunnels.iter().flatten().map(|tunnel| tunnel.key.to_string()).collect(),
            repairs: status.repairs,
            problems: status.troubles().map(str::to_owned).collect(),
        }
    }
}
