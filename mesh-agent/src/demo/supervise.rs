//! Brings the demo up, keeps it true while it runs, and removes it.

use super::{
    agents::{Agent, write_files},
    error::DemoError,
    instances::{self, Instances},
    layout::{Layout, Node, Options},
    print, ready, tale,
};
use crate::sys::netns::Netns;
use std::{
    collections::BTreeMap,
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{Instant, interval, sleep, timeout},
};

/// After this the demo gives up waiting for its mesh.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// How long an agent may take to stop.
pub(super) const STOP_WITHIN: Duration = Duration::from_secs(10);
/// An agent that ended is started again after this: long enough to watch the others do without it.
const RESTART_AFTER: Duration = Duration::from_secs(30);

/// A folder that is removed with everything in it.
pub(super) struct Folder(pub(super) PathBuf);

impl Folder {
    pub(super) fn create() -> Result<Folder, DemoError> {
        let path = std::env::temp_dir().join(format!("mesh-demo-{}", std::process::id()));
        // It must be new and ours: the temporary folder is everybody's.
        let made = std::fs::DirBuilder::new().mode(0o700).create(&path);
        made.map_err(|e| DemoError::System("cannot create a new folder in the temporary one", e))?;
        Ok(Folder(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("could not remove {}: {error}", self.0.display());
        }
    }
}

/// Runs until SIGINT or SIGTERM. `exe` is the agent's binary.
///
/// # Errors
/// [`DemoError`]; nothing is left behind then.
pub async fn run(options: &Options, exe: &Path) -> Result<(), DemoError> {
    let mut stop = Stop::new().map_err(|e| DemoError::System("cannot watch signals", e))?;
    let folder = Folder::create()?;
    let layout = Layout::new(options, &folder.0).map_err(DemoError::Options)?;
    let taken = instances::taken(&layout);
    if !taken.is_empty() {
        return Err(DemoError::Taken(taken));
    }
    let key = mesh_control::generate_key().map_err(|e| DemoError::NotReady(e.to_string()))?;
    write_files(&layout, &key).map_err(|e| DemoError::System("cannot write the demo's files", e))?;
    let _instances =
        Instances::start(&layout).await.map_err(|e| DemoError::System("cannot start an instance", e))?;
    let mut agents = Agents::new(&layout.nodes, &[], exe);
    let result = tokio::select! {
        result = serve(&mut agents, &layout, options, exe) => result,
        () = stop.asked() => Ok(()),
    };
    agents.stop().await;
    result
}

async fn serve(
    agents: &mut Agents<'_>,
    layout: &Layout,
    options: &Options,
    exe: &Path,
) -> Result<(), DemoError> {
    if !options.json {
        eprintln!("starting {} agents …", layout.nodes.len());
    }
    agents.start()?;
    let mut running = agents.until(async || ready::ask(layout, exe).await).await?;
    running.pids = agents.pids();
    if options.json {
        tale::print(&print::json(layout, &running));
    } else {
        tale::print(&print::text(layout, &running, exe).trim_end());
    }
    agents.keep().await
}

/// SIGINT or SIGTERM.
pub(super) struct Stop(Signal, Signal);

impl Stop {
    pub(super) fn new() -> io::Result<Stop> {
        Ok(Stop(signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?))
    }

    pub(super) async fn asked(&mut self) {
        tokio::select! { _ = self.0.recv() => {}, _ = self.1.recv() => {} }
    }
}

enum Slot {
    Runs(Box<Agent>),
    /// Since when it has ended.
    Ended(Instant),
}

/// The agents of the demo's nodes.
pub(super) struct Agents<'a> {
    nodes: &'a [Node],
    /// The network namespace of each, or none for this process's.
    netns: &'a [Arc<Netns>],
    exe: &'a Path,
    slots: Vec<Slot>,
}

impl<'a> Agents<'a> {
    pub(super) fn new(nodes: &'a [Node], netns: &'a [Arc<Netns>], exe: &'a Path) -> Self {
        Agents { nodes, netns, exe, slots: Vec::new() }
    }

    pub(super) fn start(&mut self) -> Result<(), DemoError> {
        for i in 0..self.nodes.len() {
            let agent = self.spawn(i).map_err(|e| DemoError::System("cannot start an agent", e))?;
            self.slots.push(Slot::Runs(Box::new(agent)));
        }
        Ok(())
    }

    fn spawn(&self, i: usize) -> io::Result<Agent> {
        match self.netns.get(i) {
            Some(netns) => Agent::spawn_in(netns, self.exe, &self.nodes[i]),
            None => Agent::spawn(self.exe, &self.nodes[i]),
        }
    }

    /// Waits for what `look` looks for; an agent that ends meanwhile ends the demo with the last words of its log.
    pub(super) async fn until<T>(
        &mut self,
        look: impl AsyncFn() -> Result<T, String>,
    ) -> Result<T, DemoError> {
        let start = Instant::now();
        loop {
            for (slot, node) in self.slots.iter_mut().zip(self.nodes) {
                if let Slot::Runs(agent) = slot
                    && let Ok(Some(status)) = agent.has_ended()
                {
                    let log = std::fs::read_to_string(&node.log).unwrap_or_default();
                    let tail: Vec<&str> = log.lines().rev().take(12).collect();
                    let tail: Vec<&str> = tail.into_iter().rev().collect();
                    return Err(DemoError::NotReady(format!(
                        "{} ended ({status}):\n{}",
                        node.name,
                        tail.join("\n")
                    )));
                }
            }
            let missing = match timeout(Duration::from_secs(5), look()).await {
                Ok(Ok(found)) => return Ok(found),
                Ok(Err(missing)) => missing,
                Err(_) => "an agent does not answer".to_owned(),
            };
            if start.elapsed() > READY_WITHIN {
                return Err(DemoError::NotReady(format!("not ready after {READY_WITHIN:?}: {missing}")));
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    pub(super) fn pids(&self) -> BTreeMap<String, u32> {
        let pid = |(slot, node): (&Slot, &Node)| match slot {
            Slot::Runs(agent) => agent.pid().map(|pid| (node.name.clone(), pid)),
            Slot::Ended(_) => None,
        };
        self.slots.iter().zip(self.nodes).filter_map(pid).collect()
    }

    /// Keeps them running for ever.
    pub(super) async fn keep(&mut self) -> Result<(), DemoError> {
        let mut look = interval(Duration::from_millis(250));
        loop {
            look.tick().await;
            for i in 0..self.slots.len() {
                self.keep_one(i).await;
            }
        }
    }

    /// Notices when it ended and starts it again after a while, unless somebody else did.
    async fn keep_one(&mut self, i: usize) {
        let node = &self.nodes[i];
        let ended = match &mut self.slots[i] {
            Slot::Runs(agent) => {
                let how = match agent.has_ended() {
                    Ok(None) => return,
                    Ok(Some(status)) => status.to_string(),
                    Err(error) => error.to_string(),
                };
                let within =
                    self.netns.get(i).map(|netns| format!("nsenter --net={} ", netns.path().display()));
                eprintln!(
                    "{} ended ({how}); it starts again in {} s, or now with: {}{} run --config {}",
                    node.name,
                    RESTART_AFTER.as_secs(),
                    within.unwrap_or_default(),
                    self.exe.display(),
                    node.config.display()
                );
                Slot::Ended(Instant::now())
            }
            Slot::Ended(since) if since.elapsed() <= RESTART_AFTER => return,
            Slot::Ended(_) if ready::answers(node).await => Slot::Ended(Instant::now()),
            Slot::Ended(_) => match self.spawn(i) {
                Ok(agent) => {
                    eprintln!("{} started again (pid {})", node.name, agent.pid().unwrap_or(0));
                    Slot::Runs(Box::new(agent))
                }
                Err(error) => {
                    eprintln!("{} could not be started again: {error}", node.name);
                    Slot::Ended(Instant::now())
                }
            },
        };
        self.slots[i] = ended;
    }

    /// Stops all agents at once, in order where they let us.
    pub(super) async fn stop(&mut self) {
        let running = self.slots.drain(..).filter_map(|s| match s {
            Slot::Runs(agent) => Some(agent),
            Slot::Ended(_) => None,
        });
        let mut stopping = tokio::task::JoinSet::new();
        for mut agent in running {
            stopping.spawn(async move { agent.stop(STOP_WITHIN).await });
        }
        stopping.join_all().await;
    }
}
