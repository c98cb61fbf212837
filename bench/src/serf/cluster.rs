//! A mesh of one kind of agent, a process a node in its namespace, and what each of them says about the others.
//!
//! Both agents log when they begin to show another node as up or down, at the moment they change what their API
//! shows. The logs are read rather than the APIs asked: that costs the agents nothing and misses no short change. Before
//! the idle and the lossy phase the APIs are asked too and must say the same.

use super::{
    net::{Network, Sent, address},
    watch::{Change, Kind, Log, Seen, node_name},
};
use crate::{agent, process, table::median};
use anyhow::{Context as _, ensure};
use std::{
    fs,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

/// A mesh. The agents are killed on drop, before the namespaces are removed.
#[derive(Debug)]
pub(super) struct Cluster {
    pub(super) kind: Kind,
    key: String,
    folder: PathBuf,
    /// Node 1 first.
    nodes: Vec<Node>,
    // Dropped after the processes in it.
    network: Network,
}

#[derive(Debug)]
struct Node {
    child: Child,
    log: Log,
    seen: Seen,
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a node's process has used.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Used {
    pub(super) sent: Sent,
    pub(super) processor: Duration,
}

impl Cluster {
    /// Starts `size` agents that join the first of them.
    pub(super) fn start(kind: Kind, size: usize, folder: &Path) -> anyhow::Result<Self> {
        let label = format!("{}{size}", if kind == Kind::Ours { 'm' } else { 's' });
        let network = Network::make(&label, size)?;
        let folder = folder.join(label);
        fs::create_dir(&folder)?;
        let key = mesh_control::generate_key()?;
        let mut cluster = Cluster { kind, key, folder, nodes: Vec::new(), network };
        for number in 1..=size {
            let node = cluster.spawn(number)?;
            cluster.nodes.push(node);
        }
        Ok(cluster)
    }

    /// How many nodes.
    pub(super) fn size(&self) -> usize {
        self.nodes.len()
    }

    fn spawn(&self, number: usize) -> anyhow::Result<Node> {
        let path = self.folder.join(format!("{number}.log"));
        let output = fs::File::create(&path)?;
        let mut command = match self.kind {
            Kind::Ours => self.ours(number)?,
            Kind::Serf => self.serf(number)?,
        };
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            // Ctrl-C is for the bench, which then stops them.
            .process_group(0)
            .spawn()
            .with_context(|| self.kind.name())?;
        Ok(Node { child, log: Log::open(&path)?, seen: Seen::default() })
    }

    fn socket(&self, number: usize) -> PathBuf {
        self.folder.join(format!("{number}.sock"))
    }

    /// No services, DNS for this node only and without upstreams, one worker, no state kept.
    fn ours(&self, number: usize) -> anyhow::Result<Command> {
        let (me, seed) = (address(number)?, address(1)?);
        let join = if number == 1 { String::new() } else { format!("\"{seed}:7946\"") };
        let config = format!(
            "node: {{name: {}, address: {me}}}\n\
             cluster:\n  bind: {me}:7946\n  join: [{join}]\n  keys: [\"{}\"]\n\
             vip_cidr: [127.231.0.0/16]\n\
             data_plane: userspace\nuserspace: {{workers: 1}}\n\
             dns: {{listen: [\"127.0.0.1:5300\"], upstreams: []}}\n\
             admin: {{socket: {}}}\n\
             metrics: {{listen: \"127.0.0.1:9480\"}}\n\
             log: {{format: logfmt, level: info}}\n",
            node_name(number),
            self.key,
            self.socket(number).display(),
        );
        let file = self.folder.join(format!("{number}.yaml"));
        fs::write(&file, config)?;
        let mut command = self.network.command(number, agent::binary()?);
        command.arg("run").arg("--config").arg(file);
        Ok(command)
    }

    /// The default LAN profile, encrypted, as ours always is.
    fn serf(&self, number: usize) -> anyhow::Result<Command> {
        let mut command = self.network.command(number, "serf");
        command
            .args(["agent", "-rpc-addr=127.0.0.1:7373", "-retry-interval=1s", "-log-level=info"])
            .arg(format!("-node={}", node_name(number)))
            .arg(format!("-bind={}:7946", address(number)?))
            .arg(format!("-encrypt={}", self.key));
        if number != 1 {
            command.arg(format!("-retry-join={}:7946", address(1)?));
        }
        Ok(command)
    }

    /// Reads what all logs say since the last call: (observer, change) in the order of each log.
    pub(super) fn news(&mut self) -> anyhow::Result<Vec<(usize, Change)>> {
        let mut news = Vec::new();
        for (i, node) in self.nodes.iter_mut().enumerate() {
            for line in node.log.lines()? {
                if let Some(change) = Change::parse(self.kind, &line) {
                    node.seen.apply(&change);
                    news.push((i + 1, change));
                }
            }
        }
        Ok(news)
    }

    /// Whether every agent but `except` shows `of` (or, of none, every other node) as `up`.
    pub(super) fn all_see(&self, of: Option<usize>, up: bool, except: Option<usize>) -> bool {
        self.nodes.iter().enumerate().map(|(i, node)| (i + 1, node)).all(|(observer, node)| {
            Some(observer) == except
                || (1..=self.size())
                    .filter(|number| *number != observer && of.is_none_or(|of| of == *number))
                    .all(|number| node.seen.is_up(number) == up)
        })
    }

    /// Fails when an agent has ended that nobody killed.
    pub(super) fn check(&mut self) -> anyhow::Result<()> {
        for (i, node) in self.nodes.iter_mut().enumerate() {
            if let Some(code) = node.child.try_wait()? {
                let log = node.log.tail();
                anyhow::bail!("{} {} ended with {code}: {log}", self.kind.name(), i + 1);
            }
        }
        Ok(())
    }

    /// SIGKILL.
    pub(super) fn kill(&mut self, number: usize) -> anyhow::Result<()> {
        let node = self.nodes.get_mut(number - 1).context("no such node")?;
        node.child.kill()?;
        node.child.wait()?;
        Ok(())
    }

    /// Starts the agent of a killed node anew.
    pub(super) fn restart(&mut self, number: usize) -> anyhow::Result<()> {
        let fresh = self.spawn(number)?;
        *self.nodes.get_mut(number - 1).context("no such node")? = fresh;
        Ok(())
    }

    /// Every node that any agent shows as up, by its API: `/v1/nodes`, or `serf members`. Must be all of them.
    pub(super) fn confirm(&self) -> anyhow::Result<()> {
        for number in 1..=self.size() {
            let (list, good) = match self.kind {
                Kind::Ours => (agent::get(&self.socket(number), "/v1/nodes")?["nodes"].take(), "state"),
                Kind::Serf => {
                    let mut command = self.network.command(number, "serf");
                    let output = command.args(["members", "-format=json"]).output()?;
                    let mut answer: serde_json::Value = serde_json::from_slice(&output.stdout)?;
                    (answer["members"].take(), "status")
                }
            };
            let list = list.as_array().context("no list of nodes")?;
            // A suspicion that is not refuted yet is no news.
            let up = list.iter().filter(|n| n[good] == "alive" || n[good] == "suspect").count();
            ensure!(
                up == self.size(),
                "{} {number} shows {up} of {} nodes, its log said all",
                self.kind.name(),
                self.size()
            );
        }
        Ok(())
    }

    /// What each node's process has used so far.
    pub(super) fn used(&self) -> anyhow::Result<Vec<Used>> {
        let one = |node: &Node| {
            let id = node.child.id();
            anyhow::Ok(Used { sent: Sent::by(id)?, processor: process::processor_time(id)? })
        };
        self.nodes.iter().map(one).collect()
    }

    /// Resident memory of a node, the median, in bytes.
    pub(super) fn resident(&self) -> anyhow::Result<f64> {
        #[expect(clippy::cast_precision_loss, reason = "sizes are far below 2^52")]
        let one = |node: &Node| anyhow::Ok(process::memory(node.child.id(), "VmRSS")? as f64);
        Ok(median(&self.nodes.iter().map(one).collect::<anyhow::Result<Vec<_>>>()?))
    }

    /// Every node loses datagrams from now on.
    pub(super) fn lose(&self) -> anyhow::Result<()> {
        (1..=self.size()).try_for_each(|number| self.network.lose(number))
    }

    /// Datagrams that reached nodes since then, and how many of them were lost.
    pub(super) fn lost(&self) -> anyhow::Result<(u64, u64)> {
        (1..=self.size()).try_fold((0, 0), |sum, number| {
            let (all, lost) = self.network.lost(number)?;
            Ok((sum.0 + all, sum.1 + lost))
        })
    }
}
