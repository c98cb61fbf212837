//! A program that runs in a host of a lab until it is dropped.

use super::host::Host;
use std::{
    io,
    process::{Child, ChildStderr, ChildStdout, Command, Stdio},
};

/// A running program without input. Dropping it kills it and waits until its sockets are free.
#[derive(Debug)]
pub struct Process(Child);

impl Process {
    /// Starts it in the namespace of `host`; what it prints can be taken.
    ///
    /// # Errors
    /// The program's name and why it cannot be started.
    pub fn start(host: &Host, program: &str, arguments: &[&str]) -> io::Result<Process> {
        let spawn = || {
            let mut command = Command::new(program);
            command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
            command.spawn()
        };
        let child = host.inside(spawn).flatten();
        child.map(Process).map_err(|e| io::Error::new(e.kind(), format!("{program}: {e}")))
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// What it prints from now on; once.
    pub(super) fn output(&mut self) -> Option<(ChildStdout, ChildStderr)> {
        self.0.stdout.take().zip(self.0.stderr.take())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.0.kill().is_ok() {
            drop(self.0.wait());
        }
    }
}
