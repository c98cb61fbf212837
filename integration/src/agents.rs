//! The agents of one mesh, each the real binary, wherever they run.

use crate::{Node, Ran, ran, wait};
use anyhow::{Context, Result};
use mesh_agent::demo::agents::Agent;
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

/// Running agents. Dropping them kills them (and them only) and removes their files; when the test panics, their logs
/// are printed first; when it does not, they are searched for the cluster key, which none may hold.
#[derive(Debug)]
pub struct Agents {
    nodes: Vec<Node>,
    agents: Vec<Option<Agent>>,
    binary: PathBuf,
    /// What no log may hold.
    secrets: Vec<String>,
    /// The folder of the service files that all agents watch.
    services: PathBuf,
    folder: tempfile::TempDir,
}

impl Agents {
    /// Starts an agent for every place, whose files are written and lie in `folder`; each in its host where it has one.
    pub(crate) fn start(
        binary: &Path,
        nodes: Vec<Node>,
        services: &Path,
        key: String,
        folder: tempfile::TempDir,
    ) -> Result<Agents> {
        let (agents, count) = (nodes.iter().map(|_| None).collect(), nodes.len());
        let (binary, services) = (binary.to_owned(), services.to_owned());
        let mut started = Agents { nodes, agents, binary, secrets: vec![key], services, folder };
        for i in 1..=count {
            started.start_agent(i)?;
        }
        Ok(started)
    }

    /// The `i`-th node, from 1.
    #[must_use]
    pub fn node(&self, i: usize) -> Node {
        self.nodes[i - 1].clone()
    }

    /// All nodes.
    #[must_use]
    pub fn nodes(&self) -> Vec<Node> {
        self.nodes.clone()
    }

    /// Writes a further file (`name` with its suffix) into the folder that all agents watch, as an editor would.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_service_file(&self, name: &str, text: &str) -> Result<()> {
        let path = self.services.join(name);
        let new = path.with_extension("tmp");
        std::fs::write(&new, text)?;
        Ok(std::fs::rename(&new, &path)?)
    }

    /// Runs `mesh-agent ARGUMENTS` against the agent of node `i`, as a user would.
    ///
    /// # Errors
    /// When the command cannot be run or does not end.
    pub async fn cli(&self, i: usize, arguments: &[&str]) -> Result<Ran> {
        let socket = format!("unix:{}", self.nodes[i - 1].place.socket.display());
        ran(&self.binary, &[&["--admin", &socket], arguments].concat(), "").await
    }

    /// As [`Agents::cli`] with a text on standard input.
    ///
    /// # Errors
    /// As [`Agents::cli`].
    pub async fn cli_with(&self, i: usize, arguments: &[&str], input: &str) -> Result<Ran> {
        let socket = format!("unix:{}", self.nodes[i - 1].place.socket.display());
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
        Ok(std::fs::read_to_string(&self.nodes[i - 1].place.log)?)
    }

    /// Sends SIGTERM to the agent of node `i`; [`Agents::ended`] waits for its end.
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
        let node = &self.nodes[i - 1];
        let spawn = || Agent::spawn(&self.binary, &node.place);
        self.agents[i - 1] =
            Some(node.host.as_ref().map_or_else(spawn, |host| host.inside(spawn).flatten())?);
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
        let others = self.nodes.len() - 1;
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

impl Drop for Agents {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for Node { place: node, .. } in &self.nodes {
                let log = std::fs::read_to_string(&node.log).unwrap_or_default();
                let tail: Vec<&str> = log.lines().rev().take(40).collect();
                eprintln!("--- {} (last lines of its log, in {})", node.name, self.folder.path().display());
                for line in tail.iter().rev() {
                    eprintln!("{line}");
                }
            }
            return;
        }
        for Node { place: node, .. } in &self.nodes {
            let log = std::fs::read_to_string(&node.log).unwrap_or_default();
            for (line, text) in log.lines().enumerate() {
                let leaks = self.secrets.iter().any(|secret| text.contains(secret.as_str()));
                assert!(!leaks, "line {} of the log of {} holds a secret", line + 1, node.name);
            }
        }
    }
}
