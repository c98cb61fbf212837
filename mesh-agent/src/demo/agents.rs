//! The demo's agents: one child process a node, each the real `mesh-agent run`.

use super::layout::{Layout, Node};
use crate::sys::netns::Netns;
use rustix::process::{Pid, WaitOptions, waitpid};
use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
    process::{ExitStatus, Stdio},
    time::Duration,
};
use tokio::{
    process::{Child, ChildStdin, Command},
    runtime::Handle,
};

/// Writes the folders, the service file and every node's configuration. `key` is the cluster key.
///
/// # Errors
/// The first file that could not be written.
pub fn write_files(layout: &Layout, key: &str) -> io::Result<()> {
    write_configs(layout, key)?;
    fs::write(&layout.service_file, layout.service_yaml())
}

/// As [`write_files`], without the service file.
pub(super) fn write_configs(layout: &Layout, key: &str) -> io::Result<()> {
    let private = |path: &Path| fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    if let Some(folder) = layout.service_file.parent() {
        private(folder)?;
    }
    for node in &layout.nodes {
        if let Some(folder) = node.config.parent() {
            private(folder)?;
        }
        // The configuration holds the cluster key.
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&node.config)?;
        io::Write::write_all(&mut file, layout.config_yaml(node, key).as_bytes())?;
    }
    Ok(())
}

/// A running agent. It ends with its parent, however that ends: its standard input closes then.
#[derive(Debug)]
pub struct Agent {
    child: Child,
    /// Held open for the agent's life.
    stdin: Option<ChildStdin>,
}

impl Agent {
    /// Starts the agent of `node` with the binary `exe`; what it prints goes to the node's log.
    ///
    /// # Errors
    /// When the log cannot be opened or the binary not be started.
    pub fn spawn(exe: &Path, node: &Node) -> io::Result<Agent> {
        let log = File::options().create(true).append(true).open(&node.log)?;
        let mut child = Command::new(exe)
            .args(["run", "--until-stdin-closes", "--config"])
            .arg(&node.config)
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C reaches the demo alone, which then stops its agents in order.
            .process_group(0)
            .spawn()?;
        Ok(Agent { stdin: child.stdin.take(), child })
    }

    /// As [`Agent::spawn`], in a network namespace.
    ///
    /// # Errors
    /// As [`Agent::spawn`], and when the namespace cannot be entered.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn spawn_in(netns: &Netns, exe: &Path, node: &Node) -> io::Result<Agent> {
        let runtime = Handle::current();
        // A process is in the namespace of the thread that starts it.
        let spawned = netns.run(|| {
            let _runtime = runtime.enter();
            Agent::spawn(exe, node)
        });
        spawned.flatten()
    }

    /// Its process id; `None` once it has ended.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Waits until it ends.
    ///
    /// # Errors
    /// When the process cannot be waited for.
    pub async fn ended(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Whether it has ended, and how.
    ///
    /// # Errors
    /// When the process cannot be waited for.
    pub fn has_ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Asks it to stop and waits up to `grace`, then kills it and waits as long again, for a kernel that is busy. Its
    /// sockets are free afterwards.
    pub async fn stop(&mut self, grace: Duration) {
        drop(self.stdin.take());
        if tokio::time::timeout(grace, self.child.wait()).await.is_err() {
            // It is our own child and still unreaped, so the id cannot be another's.
            drop(tokio::time::timeout(grace, self.child.kill()).await);
        }
    }

    /// Kills it without notice, as a crash would, and waits until it is gone.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub async fn kill(&mut self) -> io::Result<()> {
        self.child.kill().await
    }
}

impl Drop for Agent {
    /// Kills it if it still runs, and waits until its sockets are free.
    fn drop(&mut self) {
        // An id that is still there has not been waited for, so it is our child's and nobody else's.
        let pid = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        if let Some(pid) = pid
            && self.child.start_kill().is_ok()
        {
            // SIGKILL cannot be caught: this returns as soon as the kernel has taken the process down.
            let _ended = waitpid(Some(pid), WaitOptions::empty());
        }
    }
}
