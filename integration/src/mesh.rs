//! Several agents on this machine, each the real binary, and the instances behind them.

use crate::{Agents, LoopbackNet, Node};
use anyhow::{Context, Result};
use mesh_agent::demo::{
    agents::write_files,
    instances::Instances,
    layout::{Layout, Node as Place, Options},
};
use std::{
    ops::{Deref, DerefMut},
    path::Path,
};

/// A mesh to be started.
#[derive(Debug)]
pub struct MeshBuilder {
    nodes: u8,
    services: Option<String>,
    configure: fn(&Place, &str) -> String,
}

/// A running mesh; what can be done with its agents, [`Agents`] says.
#[derive(Debug)]
pub struct Mesh {
    /// Where everything stands.
    pub layout: Layout,
    /// The instances of the layout's services, already running; more can be added.
    pub instances: Instances,
    agents: Agents,
    /// The network of this test.
    pub net: LoopbackNet,
}

impl Mesh {
    /// A mesh of `nodes` agents.
    #[must_use]
    pub fn of(nodes: u8) -> MeshBuilder {
        MeshBuilder { nodes, services: None, configure: |_, text| text.to_owned() }
    }

    /// Replaces the service file that all agents watch, as an editor would: a new file renamed into place.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn edit_services(&self, text: &str) -> Result<()> {
        let name = self.layout.service_file.file_name().and_then(|name| name.to_str());
        self.write_service_file(name.context("a file")?, text)
    }
}

impl MeshBuilder {
    /// The text of the service file; without this the demo's services.
    #[must_use]
    pub fn services(mut self, text: &str) -> Self {
        self.services = Some(text.to_owned());
        self
    }

    /// Changes every node's configuration file before it is used.
    #[must_use]
    pub fn configured(mut self, configure: fn(&Place, &str) -> String) -> Self {
        self.configure = configure;
        self
    }

    /// Writes the files, starts the demo's instances and the agents (`binary`: [`crate::agent_binary!`]).
    ///
    /// # Errors
    /// When something cannot be started.
    pub async fn start(self, binary: &Path) -> Result<Mesh> {
        let net = LoopbackNet::take()?;
        let folder = tempfile::Builder::new().prefix("mesh-test-").tempdir()?;
        let options = Options { nodes: self.nodes, json: false, network: Some(net.cidr().parse()?) };
        let layout = Layout::new(&options, folder.path()).map_err(anyhow::Error::msg)?;
        let key = mesh_control::generate_key()?;
        write_files(&layout, &key)?;
        for place in &layout.nodes {
            let text = (self.configure)(place, &std::fs::read_to_string(&place.config)?);
            std::fs::write(&place.config, text)?;
        }
        if let Some(text) = &self.services {
            std::fs::write(&layout.service_file, text)?;
        }
        let instances = Instances::start(&layout).await?;
        let nodes = layout.nodes.iter().map(|place| Node { place: place.clone(), host: None }).collect();
        let services = layout.service_file.parent().context("a folder")?;
        let agents = Agents::start(binary, nodes, services, key, folder)?;
        Ok(Mesh { layout, instances, agents, net })
    }
}

impl Deref for Mesh {
    type Target = Agents;

    fn deref(&self) -> &Agents {
        &self.agents
    }
}

impl DerefMut for Mesh {
    fn deref_mut(&mut self) -> &mut Agents {
        &mut self.agents
    }
}
