//! The namespaces and links of the split mesh: one hub with a bridge, one namespace for each node.

use crate::{
    demo::{error::DemoError, layout::Layout},
    sys::{
        link::{add_address, add_bridge, connect, set_up},
        netns::Netns,
    },
};
use std::{io, sync::Arc};

const BRIDGE: &str = "hub";
const LINK: &str = "eth0";

/// Namespaces and links; they go with it, and with the processes in them.
#[derive(Debug)]
pub struct Network {
    hub: Netns,
    /// Of each node of the layout.
    pub nodes: Vec<Arc<Netns>>,
}

impl Network {
    /// Makes a namespace for each node of `layout`, with its addresses, and links them all.
    ///
    /// # Errors
    /// [`DemoError::Privileges`] without `CAP_SYS_ADMIN`; else what the kernel says.
    pub fn build(layout: &Layout) -> Result<Network, DemoError> {
        let hub = Netns::new().map_err(DemoError::namespaces("cannot make a network namespace"))?;
        let build = || -> io::Result<Vec<Arc<Netns>>> {
            add_bridge(&hub, BRIDGE)?;
            let mut nodes = Vec::new();
            for (i, node) in layout.nodes.iter().enumerate() {
                let netns = Netns::new()?;
                set_up(&netns, "lo", true)?;
                connect(&hub, BRIDGE, &port(i), &netns, LINK)?;
                let instances = layout.services.iter().flat_map(|s| &s.instances);
                let own = instances.filter(|i| i.node == node.name).map(|i| i.address);
                for address in [node.address].into_iter().chain(own) {
                    add_address(&netns, LINK, address, 16)?;
                }
                nodes.push(Arc::new(netns));
            }
            Ok(nodes)
        };
        let nodes = build().map_err(DemoError::namespaces("cannot lay the links"))?;
        Ok(Network { hub, nodes })
    }

    /// Pulls the cable of node `i` out of the hub, or puts it in.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn plug(&self, i: usize, plugged: bool) -> Result<(), DemoError> {
        set_up(&self.hub, &port(i), plugged).map_err(|e| DemoError::System("cannot set a link", e))
    }
}

/// The hub's end of the cable of node `i`.
fn port(i: usize) -> String {
    format!("port{}", i + 1)
}
