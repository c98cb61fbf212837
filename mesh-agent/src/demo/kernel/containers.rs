//! The containers: attached by the agents, as a container engine has it done, each with an instance in it.

use super::network::Network;
use crate::{
    admin::wire::AttachmentJson,
    demo::{
        error::DemoError,
        instances::{Instances, Opened},
        layout::{Instance, Layout, Service},
        ready,
        whoami::Identity,
    },
};
use std::{collections::BTreeMap, io, path::Path};
use tokio::task::AbortHandle;

/// They stay attached as long as their namespaces and nodes are there; the instances end with this.
pub(super) struct Containers<'a> {
    network: &'a Network,
    instances: Instances,
    running: BTreeMap<String, AbortHandle>,
}

impl<'a> Containers<'a> {
    /// Attaches one for every instance of `layout`, and notes the addresses there.
    pub(super) async fn attach(
        layout: &mut Layout,
        network: &'a Network,
        exe: &Path,
    ) -> Result<Containers<'a>, DemoError> {
        let nodes = &layout.nodes;
        for instance in layout.services.iter_mut().flat_map(|service| &mut service.instances) {
            let Some(node) = nodes.iter().find(|node| node.name == instance.node) else { continue };
            let netns = network.host(&instance.name).path.display().to_string();
            let attached: Result<AttachmentJson, _> =
                ready::call(exe, node, &["attach", "--netns", &netns]).await;
            let attached = attached.map_err(DemoError::Story)?;
            let Some(address) = attached.addresses.iter().find_map(|text| text.parse().ok()) else {
                return Err(DemoError::Story(format!(
                    "{}: got no IPv4 address: {attached:?}",
                    instance.name
                )));
            };
            instance.address = address;
        }
        Ok(Containers { network, instances: Instances::default(), running: BTreeMap::new() })
    }

    /// Starts an instance in its container.
    pub(super) fn start(&mut self, service: &Service, instance: &Instance) -> Result<(), DemoError> {
        let netns = self.network.netns(&instance.name);
        let open = || Opened::at(service.protocol, (instance.address, service.port).into());
        let who = Identity {
            service: service.name.to_owned(),
            instance: instance.name.clone(),
            node: instance.node.clone(),
        };
        let started = netns.run(open).flatten().and_then(|socket| self.instances.adopt(who, socket));
        let handle = started.map_err(|e| {
            let place = format!("{} in its container: {e}", instance.address);
            DemoError::System("cannot start an instance", io::Error::new(e.kind(), place))
        })?;
        self.running.insert(instance.name.clone(), handle);
        Ok(())
    }

    /// How many have an instance that runs.
    pub(super) fn count(&self) -> usize {
        self.running.len()
    }

    /// Ends an instance as a crash would.
    pub(super) fn kill(&mut self, instance: &Instance) {
        if let Some(handle) = self.running.remove(&instance.name) {
            handle.abort();
        }
    }
}
