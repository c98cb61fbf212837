//! Several agents on this machine, each the real binary, and the instances behind them.

use crate::{LoopbackNet, Node, Ran, ran, wait};
use anyhow::{Context, Result};
use mesh_agent::demo::{
    agents::{Agent, write_files},
    instances::Instances,
    layout::{Layout, Node as Place, Options},
};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

/// A mesh to be started.
#[derive(Debug)]
pub struct MeshBuilder {
    nodes: u8,
    services: Option<String>,
    configure: fn(&Place, &str) -> String,
}

/// A running mesh. Dropping it kills its agents (and theirs only) and removes its files; when the test panics, the
/// agents' logs are printed first; when it does not, they are searched for the cluster key, which none may hold.
#[derive(Debug)]
pub struct Mesh {
    /// Where everything stands.
    pub layout: Layout,
    /// The instances of the layout's services, already running; more can be added.
    pub instances: Instances,
    agents: Vec<Option<Agent>>,
    binary: PathBuf,
    /// What no log may hold.
    secrets: Vec<String>,
    /// The network of this test.
    pub net: LoopbackNet,
    folder: tempfile::TempDir,
}

impl Mesh {
    /// A mesh of `nodes` agents.
    #[must_use]
    pub fn of(nodes: u8) -> MeshBuilder {
        MeshBuilder { nodes, services: None, configure: |_, text| text.to_owned() }
    }

    /// The `i`-th node, from 1.
    #[must_use]
    pub fn node(&self, i: usize) -> Node {
        Node { place: self.layout.nodes[i - 1].clone() }
    }

    /// All nodes.
    #[must_use]
    pub fn nodes(&self) -> Vec<Node> {
        self.layout.nodes.iter().map(|place| Node { place: place.clone() }).collect()
    }

    /// Replaces the service file that all agents watch, as an editor would: a new file renamed into place.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn edit_services(&self, text: &str) -> Result<()> {
        let new = self.layout.service_file.with_extension("tmp");
        std::fs::write(&new, text)?;
        std::fs::rename(&new, &self.layout.service_file)?;
        Ok(())
    }

    /// Writes a further file (`name` with its suffix) into the folder that all agents watch, as an editor would.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_service_file(&self, name: &str, text: &str) -> Result<()> {
        let path = self.layout.service_file.with_file_name(name);
        let new = path.with_extension("tmp");
        std::fs::write(&new, text)?;
        Ok(std::fs::rename(&new, &path)?)
    }

    /// Runs `mesh-agent ARGUMENTS` against the agent of node `i`, as a user would.
    ///
    /// # Errors
    /// When the command cannot be run or does not end.
    pub async fn cli(&self, i: usize, arguments: &[&str]) -> Result<Ran> {
        let socket = format!("unix:{}", self.layout.nodes[i - 1].socket.display());
        ran(&self.binary, &[&["--admin", &socket], arguments].concat(), "").await
    }

    /// As [`Mesh::cli`] with a text on standard input.
    ///
    /// # Errors
    /// As [`Mesh::cli`].
    pub async fn cli_with(&self, i: usize, arguments: &[&str], input: &str) -> Result<Ran> {
        let socket = format!("unix:{}", self.layout.nodes[i - 1].socket.display());
        ran(&self.binary, &[&["--admin", &socket], arguments].concat(), input).await
    }

    /// From now on no log may hold `secret`.
    pub fn keep_secret(&mut self, secret: &str) {
        self.secrets.push(secret.to_owned());
    }

    /// What the agent of node `i` logged so far.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn log(&self, i: usize) -> Result<String> {
        Ok(std::fs::read_to_string(&self.layout.nodes[i - 1].log)?)
    }

    /// Sends SIGTERM to the agent of node `i`; [`Mesh::ended`] waits for its end.
    ///
    /// # Errors
    /// When it does not run.
    pub fn terminate(&self, i: usize) -> Result<()> {
        let pid = self.agents[i - 1].as_ref().and_then(Agent::pid).context("not running")?;
        let pid = rustix::process::Pid::from_raw(i32::try_from(pid)?).context("no process id")?;
        // Our own child that nobody has waited for, so the id is still its own.
        Ok(rustix::process::kill_process(pid, rustix::process::Signal::TERM)?)
    }

    /// Waits until the agent of node `i` has ended; its exit code.
    ///
    /// # Errors
    /// When it does not end within [`wait::BOUND`].
    pub async fn ended(&mut self, i: usize) -> Result<Option<i32>> {
        let mut agent = self.agents[i - 1].take().context("not running")?;
        Ok(tokio::time::timeout(wait::BOUND, agent.ended()).await??.code())
    }

    /// Kills the agent of node `i` as a crash would (SIGKILL).
    ///
    /// # Errors
    /// When it cannot be killed.
    pub async fn crash(&mut self, i: usize) -> Result<()> {
        if let Some(mut agent) = self.agents[i - 1].take() {
            agent.kill().await?;
        }
        Ok(())
    }

    /// Stops the agent of node `i` in order.
    pub async fn stop(&mut self, i: usize) {
        if let Some(mut agent) = self.agents[i - 1].take() {
            agent.stop(Duration::from_secs(10)).await;
        }
    }

    /// Starts the agent of node `i` (again).
    ///
    /// # Errors
    /// When the process cannot be started.
    pub fn start_agent(&mut self, i: usize) -> Result<()> {
        self.agents[i - 1] = Some(Agent::spawn(&self.binary, &self.layout.nodes[i - 1])?);
        Ok(())
    }

    /// Whether the agent of node `i` still runs.
    #[must_use]
    pub fn runs(&mut self, i: usize) -> bool {
        self.agents[i - 1].as_mut().is_some_and(|a| matches!(a.has_ended(), Ok(None)))
    }

    /// Resident memory of node `i`'s agent, bytes (`/proc/PID/statm`).
    ///
    /// # Errors
    /// When it does not run.
    pub fn memory(&self, i: usize) -> Result<u64> {
        let pid = self.agents[i - 1].as_ref().and_then(Agent::pid).context("not running")?;
        let statm = std::fs::read_to_string(format!("/proc/{pid}/statm"))?;
        let pages: u64 = statm.split(' ').nth(1).context("odd statm")?.parse()?;
        Ok(pages * 4096)
    }

    /// Waits until every node says it is ready and knows every other.
    pub async fn until_ready(&self) {
        let others = self.layout.nodes.len() - 1;
        for node in self.nodes() {
            let name = node.place.name.clone();
            wait::until(&format!("{name} is ready"), wait::BOUND, || async {
                let (status, body) = node.metrics("/readyz").await?;
                anyhow::ensure!(status == 200, "readyz says {status}: {body}");
                let (_, metrics) = node.metrics("/metrics").await?;
                let up = format!("mesh_gossip_members{{state=\"up\"}} {others}");
                anyhow::ensure!(metrics.lines().any(|l| l == up), "not `{up}` yet");
                Ok::<(), anyhow::Error>(())
            })
            .await;
        }
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
        let options = Options { nodes: self.nodes, json: false, network: net.cidr().parse()? };
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
        let agents = layout.nodes.iter().map(|_| None).collect();
        let (binary, secrets) = (binary.to_owned(), vec![key]);
        let mut mesh = Mesh { layout, instances, agents, binary, secrets, net, folder };
        for i in 1..=usize::from(self.nodes) {
            mesh.start_agent(i)?;
        }
        Ok(mesh)
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for node in &self.layout.nodes {
                let log = std::fs::read_to_string(&node.log).unwrap_or_default();
                let tail: Vec<&str> = log.lines().rev().take(40).collect();
                eprintln!("--- {} (last lines of its log, in {})", node.name, self.folder.path().display());
                for line in tail.iter().rev() {
                    eprintln!("{line}");
                }
            }
            return;
        }
        for node in &self.layout.nodes {
            let log = std::fs::read_to_string(&node.log).unwrap_or_default();
            for (line, text) in log.lines().enumerate() {
                let leaks = self.secrets.iter().any(|secret| text.contains(secret.as_str()));
                assert!(!leaks, "line {} of the log of {} holds a secret", line + 1, node.name);
            }
        }
    }
}
