//! One host of a lab: a network namespace, with the words tests use of it.

use mesh_agent::sys::{link::set_up, netns::Netns};
use std::{
    fs::File,
    io,
    os::fd::{AsRawFd, RawFd},
    process::{Command, Output},
    sync::Arc,
};
use tokio::{runtime::Handle, task::spawn_blocking};

/// A network namespace without a name. It lives as long as a clone of this, a process or a socket of it does.
#[derive(Clone, Debug)]
pub struct Host {
    /// What messages call it.
    pub name: String,
    netns: Arc<Netns>,
    /// The namespace as a file, for netlink messages that name it.
    file: Arc<File>,
}

impl Host {
    /// A host with a loopback device and nothing else. IPv6 addresses that others give to its links can be used at
    /// once: duplicate address detection (RFC 4862 section 5.4) would cost a second and find nobody.
    ///
    /// # Errors
    /// What the kernel says, `EPERM` without `CAP_SYS_ADMIN`.
    pub fn new(name: &str) -> io::Result<Host> {
        let netns = Netns::new()?;
        let file = netns.run(|| File::open("/proc/thread-self/ns/net")).flatten()?;
        let host = Host { name: name.to_owned(), netns: Arc::new(netns), file: Arc::new(file) };
        set_up(&host.netns, "lo", true)?;
        for which in ["all", "default"] {
            host.sysctl(&format!("net/ipv6/conf/{which}/accept_dad"), "0")?;
        }
        Ok(host)
    }

    /// The namespace.
    #[must_use]
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    pub(super) fn namespace_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// The namespace's file, for other processes; it is there while this process has a clone of the host.
    #[must_use]
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.namespace_fd())
    }

    /// Does `work` in the namespace and waits: sockets and processes that it makes are in there for good, tokio's too
    /// when the caller is on a runtime.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        let runtime = Handle::try_current().ok();
        self.netns.run(|| {
            let _runtime = runtime.as_ref().map(Handle::enter);
            work()
        })
    }

    /// Runs a future to its end in the namespace: what it opens and starts itself (not by spawned tasks) is in there.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub async fn within<F>(&self, future: F) -> io::Result<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let (host, runtime) = (self.clone(), Handle::current());
        let ran = spawn_blocking(move || host.netns.run(|| runtime.block_on(future))).await;
        ran.map_err(io::Error::other).flatten()
    }

    /// Runs a program in the namespace to its end.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn output(&self, program: &str, arguments: &[&str]) -> io::Result<Output> {
        self.inside(|| Command::new(program).args(arguments).output()).flatten()
    }

    /// Writes a setting, as `net/ipv4/ip_forward` (sysctl(8), below /proc/sys).
    ///
    /// # Errors
    /// Its path and what the kernel says.
    pub fn sysctl(&self, path: &str, value: &str) -> io::Result<()> {
        let path = format!("/proc/sys/{path}");
        let written = self.inside(|| std::fs::write(&path, value)).flatten();
        written.map_err(|e| io::Error::new(e.kind(), format!("{}: {path}: {e}", self.name)))
    }

    /// The flows that its kernel keeps track of, a line each (/proc/net/nf_conntrack): family, protocol, number of the
    /// protocol, seconds until it is forgotten, state, addresses.
    ///
    /// # Errors
    /// When the kernel has no such file.
    pub fn flows(&self) -> io::Result<Vec<String>> {
        // A thread in another namespace than its process finds its own only here.
        let text = self.inside(|| std::fs::read_to_string("/proc/thread-self/net/nf_conntrack")).flatten()?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// Makes it a router, of both families.
    ///
    /// # Errors
    /// As [`Host::sysctl`].
    pub fn forwards(&self) -> io::Result<()> {
        self.sysctl("net/ipv4/ip_forward", "1")?;
        self.sysctl("net/ipv6/conf/all/forwarding", "1")
    }

    /// Sets a link up or down.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_up(&self, link: &str, up: bool) -> io::Result<()> {
        set_up(&self.netns, link, up)
    }
}
