//! The links of the overlay.

use crate::overlay::{Encryption, OverlayConfig};
use std::time::Duration;

/// The links of the overlay.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OverlayLinks {
    /// Name of the bridge that containers are attached to.
    pub bridge: String,
    /// Name of the VXLAN device.
    pub device: String,
    /// VXLAN network identifier, the same on every node.
    pub vni: u32,
    /// UDP port of VXLAN, the same on every node.
    pub port: u16,
    /// How often the kernel is compared with what it should hold.
    pub audit_interval: Duration,
    /// UDP port on which nodes measure the paths between them, the same on every node.
    pub probe_port: u16,
    /// How often they do.
    pub probe_interval: Duration,
    /// Whether, and how, packets between nodes are sealed; the same on every node.
    pub encryption: Option<Encryption>,
}

impl Default for OverlayLinks {
    fn default() -> Self {
        OverlayLinks {
            bridge: OverlayConfig::BRIDGE.to_owned(),
            device: OverlayConfig::DEVICE.to_owned(),
            vni: OverlayConfig::VNI,
            port: OverlayConfig::PORT,
            audit_interval: OverlayConfig::AUDIT,
            probe_port: OverlayConfig::PROBE_PORT,
            probe_interval: OverlayConfig::PROBE,
            encryption: None,
        }
    }
}
