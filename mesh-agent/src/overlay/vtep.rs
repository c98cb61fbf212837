//! The link-layer addresses of nodes, which everybody derives from their names: nothing has to be told.

use crate::sys::rtnl::Mac;
use mesh_control::model::NodeName;
use ring::digest::{Context, SHA256};

/// The address of a node's VXLAN device.
#[must_use]
pub fn vtep(node: &NodeName) -> Mac {
    derived(b"mesh-agent vtep ", node)
}

/// The address of a node's bridge.
#[must_use]
pub fn bridge(node: &NodeName) -> Mac {
    derived(b"mesh-agent bridge ", node)
}

/// Locally administered and unicast (IEEE 802 section 8.4: 02), then 40 bits of SHA-256.
fn derived(purpose: &[u8], node: &NodeName) -> Mac {
    let mut context = Context::new(&SHA256);
    context.update(purpose);
    context.update(node.as_str().as_bytes());
    let digest = context.finish();
    let mut mac = [2; 6];
    for (byte, hashed) in mac.iter_mut().skip(1).zip(digest.as_ref()) {
        *byte = *hashed;
    }
    Mac(mac)
}
