//! A network namespace without a name, and the words that the bench uses of it.

use anyhow::{Context as _, bail};
use mesh_agent::sys::netns::Netns;
use std::{
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};

/// Seconds that one program may take; what is slower is stopped.
const PATIENCE: &str = "600";

/// A namespace. It goes with the last socket in it.
#[derive(Debug)]
pub(crate) struct Space(Netns);

impl Space {
    /// A new one, its loopback device up.
    pub(crate) fn new() -> anyhow::Result<Space> {
        let space = Space(Netns::new().context("a network namespace")?);
        space.ip("link set lo up")?;
        Ok(space)
    }

    /// A new one that forwards.
    pub(crate) fn router() -> anyhow::Result<Space> {
        let space = Space::new()?;
        space.set("net/ipv4/ip_forward", "1")?;
        Ok(space)
    }

    /// The path that leads to it.
    pub(crate) fn path(&self) -> String {
        self.0.path().display().to_string()
    }

    /// Does `work` in the namespace; threads, sockets and processes that it makes are in there for good.
    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
        self.0.run(work).context("enter a network namespace")
    }

    /// Writes a setting, as `net/ipv4/ip_forward`.
    pub(crate) fn set(&self, path: &str, value: &str) -> anyhow::Result<()> {
        let written = self.inside(|| std::fs::write(format!("/proc/sys/{path}"), value))?;
        written.with_context(|| format!("/proc/sys/{path}"))
    }

    /// Runs lines of ip(8).
    pub(crate) fn ip(&self, lines: &str) -> anyhow::Result<()> {
        self.run("ip", &["-batch", "-"], lines).map(drop)
    }

    /// Runs a program to its end with that input; what it printed.
    pub(crate) fn run(&self, program: &str, arguments: &[&str], input: &str) -> anyhow::Result<String> {
        self.inside(|| run(program, arguments, input))?
    }

    /// Lays a cable between a link here and a link there, both up, with these addresses (`10.1.0.1/24`).
    pub(crate) fn cable(&self, here: (&str, &str), there: (&Space, &str, &str)) -> anyhow::Result<()> {
        let ((name, address), (other, peer, far)) = (here, there);
        self.ip(&format!("link add {name} type veth peer name {peer} netns {}\n", other.path()))?;
        for (space, link, address) in [(self, name, address), (other, peer, far)] {
            let give =
                if address.is_empty() { String::new() } else { format!("addr add {address} dev {link}\n") };
            space.ip(&format!("{give}link set {link} up\n"))?;
        }
        Ok(())
    }
}

fn run(program: &str, arguments: &[&str], input: &str) -> anyhow::Result<String> {
    let mut command = Command::new("timeout");
    // By its path: the timeout of a busybox would take what busybox has of that name.
    let path = find(program).with_context(|| format!("{program}: not installed"))?;
    command.arg(PATIENCE).arg(path).args(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| program.to_owned())?;
    let (mut stdin, mut stderr) = (child.stdin.take(), child.stderr.take());
    let output = thread::scope(|scope| {
        scope.spawn(|| {
            // A program that reads nothing may be gone already; its exit code tells.
            drop(stdin.take().map(|mut stdin| stdin.write_all(input.as_bytes())));
        });
        let says = scope.spawn(|| {
            let mut text = String::new();
            stderr.take().map(|mut stderr| stderr.read_to_string(&mut text));
            text
        });
        let output = child.wait_with_output();
        output.map(|output| (output, says.join().unwrap_or_default()))
    });
    let (output, says) = output?;
    let line = || format!("{program} {}", arguments.join(" "));
    match output.status.code() {
        Some(0) => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        Some(124) => bail!("{}: not done in {PATIENCE} s", line()),
        _ => bail!("{}: {}", line(), says.lines().next().unwrap_or("failed without a word")),
    }
}

/// Whether a program is installed.
pub(crate) fn installed(program: &str) -> bool {
    find(program).is_some()
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    format!("{path}:/usr/sbin:/sbin").split(':').map(|f| Path::new(f).join(program)).find(|p| p.exists())
}
