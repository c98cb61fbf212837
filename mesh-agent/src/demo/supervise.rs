//! Brings the demo up, keeps it true while it runs, and removes it.

use super::{
    agents::{Agent, write_files},
    instances::{self, Instances},
    layout::{Layout, Options},
    print, ready,
};
use std::{
    io::{self, Write},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
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

/// Why the demo did not come up.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// An option is wrong.
    #[error("{0}")]
    Options(String),
    /// Addresses are taken.
    #[error("the demo needs addresses that are taken:\n  {}\nstop what listens there (perhaps another demo), or choose other addresses with --network 127.X.0.0/16", .0.join("\n  "))]
    Taken(Vec<String>),
    /// An agent ended, or the mesh did not become ready.
    #[error("{0}")]
    NotReady(String),
    /// Something did not happen in time.
    #[error("{0}")]
    Story(String),
    /// Network namespaces need privileges.
    #[error("the demo cannot make network namespaces: {0}; run it as root")]
    Privileges(io::Error),
    /// The system refused.
    #[error("{0}: {1}")]
    System(&'static str, io::Error),
}

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
    let mut agents = Agents { layout: &layout, exe, slots: Vec::new() };
    let result = match agents.start() {
        Ok(()) => agents.serve(options, &mut stop).await,
        Err(error) => Err(error),
    };
    agents.stop().await;
    result
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

struct Agents<'a> {
    layout: &'a Layout,
    exe: &'a Path,
    slots: Vec<Slot>,
}

impl Agents<'_> {
    fn start(&mut self) -> Result<(), DemoError> {
        for node in &self.layout.nodes {
            let agent =
                Agent::spawn(self.exe, node).map_err(|e| DemoError::System("cannot start an agent", e))?;
            self.slots.push(Slot::Runs(Box::new(agent)));
        }
        Ok(())
    }

    async fn serve(&mut self, options: &Options, stop: &mut Stop) -> Result<(), DemoError> {
        if !options.json {
            eprintln!("starting {} agents …", self.layout.nodes.len());
        }
        let ready = tokio::select! {
            ready = self.until_ready() => ready,
            () = stop.asked() => return Ok(()),
        };
        let mut running = ready?;
        running.pids = self.pids();
        let said = if options.json {
            format!("{}\n", print::json(self.layout, &running))
        } else {
            print::text(self.layout, &running, self.exe)
        };
        let mut out = io::stdout().lock();
        // Whoever asked may have closed the pipe; the demo runs on until it is stopped.
        drop(out.write_all(said.as_bytes()).and_then(|()| out.flush()));
        drop(out);
        let mut look = interval(Duration::from_millis(250));
        loop {
            tokio::select! {
                () = stop.asked() => return Ok(()),
                _ = look.tick() => self.keep().await,
            }
        }
    }

    /// Waits for the whole mesh; an agent that ends meanwhile ends the demo with the last words of its log.
    async fn until_ready(&mut self) -> Result<print::Running, DemoError> {
        let start = Instant::now();
        loop {
            for (slot, node) in self.slots.iter_mut().zip(&self.layout.nodes) {
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
            let asked = timeout(Duration::from_secs(5), ready::ask(self.layout, self.exe)).await;
            let missing = match asked {
                Ok(Ok(running)) => return Ok(running),
                Ok(Err(missing)) => missing,
                Err(_) => "an agent does not answer".to_owned(),
            };
            if start.elapsed() > READY_WITHIN {
                return Err(DemoError::NotReady(format!("not ready after {READY_WITHIN:?}: {missing}")));
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    fn pids(&self) -> std::collections::BTreeMap<String, u32> {
        let pid = |(slot, node): (&Slot, &super::layout::Node)| match slot {
            Slot::Runs(agent) => agent.pid().map(|pid| (node.name.clone(), pid)),
            Slot::Ended(_) => None,
        };
        self.slots.iter().zip(&self.layout.nodes).filter_map(pid).collect()
    }

    /// Notices agents that ended and starts them again after a while, unless somebody else did.
    async fn keep(&mut self) {
        for (slot, node) in self.slots.iter_mut().zip(&self.layout.nodes) {
            match slot {
                Slot::Runs(agent) => {
                    if let Ok(Some(status)) = agent.has_ended() {
                        eprintln!(
                            "{} ended ({status}); it starts again in {} s, or now with: {} run --config {}",
                            node.name,
                            RESTART_AFTER.as_secs(),
                            self.exe.display(),
                            node.config.display()
                        );
                        *slot = Slot::Ended(Instant::now());
                    }
                }
                Slot::Ended(since) if since.elapsed() > RESTART_AFTER => {
                    if ready::answers(node).await {
                        *since = Instant::now();
                        continue;
                    }
                    match Agent::spawn(self.exe, node) {
                        Ok(agent) => {
                            eprintln!("{} started again (pid {})", node.name, agent.pid().unwrap_or(0));
                            *slot = Slot::Runs(Box::new(agent));
                        }
                        Err(error) => {
                            eprintln!("{} could not be started again: {error}", node.name);
                            *slot = Slot::Ended(Instant::now());
                        }
                    }
                }
                Slot::Ended(_) => {}
            }
        }
    }

    /// Stops all agents at once, in order where they let us.
    async fn stop(&mut self) {
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
