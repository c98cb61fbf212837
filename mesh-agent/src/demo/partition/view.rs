//! The mesh as one of its nodes sees it, asked with the agent's own commands.

use crate::{
    admin::wire::{NodesJson, ServiceJson, ServicesJson},
    demo::{layout::Node, ready::call},
};
use std::{collections::BTreeSet, path::Path};

/// One node's view.
pub(super) struct View {
    /// Whose.
    pub(super) node: String,
    /// How many nodes it takes for up, suspects among them, and how many for alive; itself counts.
    pub(super) up: usize,
    pub(super) alive: usize,
    services: Vec<ServiceJson>,
}

impl View {
    pub(super) async fn of(node: &Node, exe: &Path) -> Result<View, String> {
        let nodes: NodesJson = call(exe, node, &["nodes"]).await?;
        let services: ServicesJson = call(exe, node, &["service", "ls"]).await?;
        let count =
            |states: &[&str]| nodes.nodes.iter().filter(|n| states.contains(&n.state.as_str())).count();
        let (up, alive) = (count(&["alive", "suspect"]), count(&["alive"]));
        Ok(View { node: node.name.clone(), up, alive, services: services.services })
    }

    /// A service.
    pub(super) fn service(&self, name: &str) -> Result<&ServiceJson, String> {
        let found = self.services.iter().find(|s| s.name == name);
        found.ok_or_else(|| format!("{} does not know {name}", self.node))
    }

    /// A service's VIP.
    pub(super) fn vip(&self, name: &str) -> Result<String, String> {
        let vip = self.service(name)?.vips.first().cloned();
        vip.ok_or_else(|| format!("{name} has no VIP on {}", self.node))
    }

    /// Who holds the published port of a service, if it is another.
    pub(super) fn conflict(&self, name: &str) -> Result<Option<String>, String> {
        let ports = &self.service(name)?.ports;
        Ok(ports.iter().filter_map(|p| p.published.as_ref()).find_map(|p| p.conflict.clone()))
    }

    /// Two services with one VIP, if there are any.
    pub(super) fn shared_vip(&self) -> Option<String> {
        let mut seen = BTreeSet::new();
        self.services.iter().flat_map(|s| &s.vips).find(|vip| !seen.insert(*vip)).cloned()
    }
}
