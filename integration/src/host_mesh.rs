//! A mesh of real agents on the hosts of a lab, with instances in containers.

use crate::{
    Agents, Node,
    lab::{Host, Lab},
};
use anyhow::{Context, Result};
use mesh_agent::dataplane::ebpf::Apart;
use mesh_agent::demo::{
    instances::{Instances, Opened},
    layout::Node as Place,
    whoami::Identity,
};
use std::{
    fs::{DirBuilder, OpenOptions},
    io::Write,
    net::{IpAddr, SocketAddr},
    ops::{Deref, DerefMut},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
};
use tokio::task::AbortHandle;

/// A running mesh; what can be done with its agents, [`Agents`] says. The agents end before their hosts go.
#[derive(Debug)]
pub struct HostMesh {
    agents: Agents,
    instances: Instances,
    /// The hosts; told of when the test fails.
    pub lab: Lab,
    /// What the agents' configurations name, if it has to outlive them.
    pub ground: Option<Apart>,
}

impl HostMesh {
    /// Starts an agent on every node of `lab` (`binary`: [`crate::agent_binary!`]). `configure` gives what the
    /// configuration file of the node with these addresses says besides the node, the cluster, the admin socket, and
    /// where DNS and metrics listen.
    ///
    /// # Errors
    /// When something cannot be started.
    pub fn start(lab: Lab, binary: &Path, configure: impl Fn([IpAddr; 2]) -> String) -> Result<HostMesh> {
        let folder = tempfile::Builder::new().prefix("mesh-test-").tempdir()?;
        let services = folder.path().join("services");
        let private = |path: &Path| DirBuilder::new().mode(0o700).create(path);
        private(&services)?;
        let key = mesh_control::generate_key()?;
        let mut nodes = Vec::new();
        for i in 1..=lab.nodes() {
            let host = lab.node(i).clone();
            let own = folder.path().join(&host.name);
            private(&own)?;
            let [IpAddr::V4(address), _] = lab.address(i) else { anyhow::bail!("no IPv4 underlay") };
            let (config, socket, log) = (own.join("mesh.yaml"), own.join("admin.sock"), own.join("log"));
            let place = Place { name: host.name.clone(), address, config, socket, log };
            nodes.push(Node { place, host: Some(host) });
        }
        let seeds: Vec<String> = nodes.iter().map(|n| format!("\"{}\"", n.place.gossip())).collect();
        for (i, Node { place, .. }) in (1..).zip(&nodes) {
            let [v4, v6] = lab.address(i);
            let text = format!(
                "node: {{name: {}, address: [{v4}, \"{v6}\"]}}\n\
                 cluster: {{bind: {}, join: [{}], keys: [\"{key}\"]}}\n\
                 dns: {{listen: [\"{}\"]}}\n\
                 admin: {{socket: {}}}\n\
                 metrics: {{listen: \"{}\"}}\n\
                 sources: {{files: {{path: {}}}}}\n\
                 {}",
                place.name,
                place.gossip(),
                seeds.join(", "),
                place.dns(),
                place.socket.display(),
                place.metrics(),
                services.display(),
                configure([v4, v6]),
            );
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&place.config)?;
            file.write_all(text.as_bytes())?;
        }
        let agents = Agents::start(binary, nodes, &services, key, folder)?;
        Ok(HostMesh { agents, instances: Instances::default(), lab, ground: None })
    }

    /// Puts a host on the overlay of node `i` by `mesh-agent attach`; its addresses.
    ///
    /// # Errors
    /// When the agent refuses.
    pub async fn attach(&self, i: usize, host: &Host) -> Result<Vec<IpAddr>> {
        let attached = self.cli(i, &["--json", "attach", "--netns", &host.path()]).await?.code(0)?.json()?;
        let addresses = attached["addresses"].as_array().context("no addresses")?;
        addresses.iter().map(|a| Ok(a.as_str().context("no text")?.parse()?)).collect()
    }

    /// Starts an instance in a host: a whoami for `tcp`, an echo for `udp`. It says that it is on `node`. The handle
    /// ends it alone.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub fn serve(
        &mut self,
        host: &Host,
        service: &str,
        instance: &str,
        node: &str,
        protocol: &str,
        at: SocketAddr,
    ) -> Result<AbortHandle> {
        let socket = host.inside(|| Opened::at(protocol, at)).flatten().with_context(|| format!("{at}"))?;
        let who = Identity { service: service.into(), instance: instance.into(), node: node.into() };
        Ok(self.instances.adopt(who, socket)?)
    }
}

impl Deref for HostMesh {
    type Target = Agents;

    fn deref(&self) -> &Agents {
        &self.agents
    }
}

impl DerefMut for HostMesh {
    fn deref_mut(&mut self) -> &mut Agents {
        &mut self.agents
    }
}
