//! The hosts and cables: an underlay with the nodes and a client on it, and containers that the agents will attach.

use super::host::{Host, sweep};
use crate::{
    demo::{error::DemoError, layout::Layout},
    sys::{
        link::{add_address, add_bridge, connect, set_up},
        netns::Netns,
    },
};
use std::{collections::BTreeMap, io, net::Ipv4Addr, sync::Arc};

const BRIDGE: &str = "hub";
const LINK: &str = "eth0";

/// The client's name.
pub(super) const CLIENT: &str = "client";
/// Its address on the underlay.
pub(super) const CLIENT_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 100);

/// Namespaces and links; they go with it, and with the processes in them.
#[derive(Debug)]
pub(super) struct Network {
    _hub: Netns,
    /// The nodes, the client, and a container for each instance, by name.
    hosts: BTreeMap<String, Host>,
}

impl Network {
    /// Makes them. Containers have no link yet.
    ///
    /// # Errors
    /// [`DemoError::Privileges`] without `CAP_SYS_ADMIN`; else what the kernel says.
    pub(super) fn build(layout: &Layout) -> Result<Network, DemoError> {
        let hub = Netns::new().map_err(DemoError::namespaces("cannot make a network namespace"))?;
        sweep();
        let hosts = hosts(layout, &hub).map_err(DemoError::namespaces("cannot lay the links"))?;
        Ok(Network { _hub: hub, hosts })
    }

    /// A node, the client or a container.
    ///
    /// # Panics
    /// When there is none of that name.
    pub(super) fn host(&self, name: &str) -> &Host {
        &self.hosts[name]
    }

    /// A shared hold on a namespace.
    pub(super) fn netns(&self, name: &str) -> Arc<Netns> {
        Arc::clone(&self.host(name).netns)
    }
}

fn hosts(layout: &Layout, hub: &Netns) -> io::Result<BTreeMap<String, Host>> {
    add_bridge(hub, BRIDGE)?;
    let mut hosts = BTreeMap::new();
    let nodes = layout.nodes.iter().map(|node| (node.name.as_str(), node.address));
    for (name, address) in nodes.chain([(CLIENT, CLIENT_ADDRESS)]) {
        let host = Host::new(name)?;
        set_up(&host.netns, "lo", true)?;
        connect(hub, BRIDGE, name, &host.netns, LINK)?;
        add_address(&host.netns, LINK, address, 24)?;
        hosts.insert(name.to_owned(), host);
    }
    for instance in layout.services.iter().flat_map(|service| &service.instances) {
        hosts.insert(instance.name.clone(), Host::new(&instance.name)?);
    }
    Ok(hosts)
}
