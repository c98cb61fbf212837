//! Network namespaces without names: one lives as long as somebody holds it, so a crash leaves none behind.
#![expect(clippy::disallowed_methods, reason = "this is the place, and each call has a thread of its own")]

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};
use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, AsRawFd, RawFd},
        unix::fs::MetadataExt,
    },
    panic::resume_unwind,
    path::{Path, PathBuf},
    thread,
};

/// Where a thread finds its own network namespace (proc(5)).
const OWN: &str = "/proc/thread-self/ns/net";

/// A network namespace. It goes when this and every process, socket and link-end in it have gone.
#[derive(Debug)]
pub struct Netns(File);

impl Netns {
    /// A new namespace with nothing but a loopback device that is down (unshare(2); needs `CAP_SYS_ADMIN`).
    ///
    /// # Errors
    /// What the kernel says, `EPERM` without the capability.
    pub fn new() -> io::Result<Netns> {
        on_a_thread(|| {
            // SAFETY: only the network namespace is unshared, of this thread alone, which ends right after; what is
            // unsafe of unshare(2) are shared memory and file descriptors.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?;
            File::open(OWN).map(Netns)
        })?
    }

    /// The namespace that a file leads to, as `/run/netns/NAME` or `/proc/PID/ns/net`.
    ///
    /// # Errors
    /// The system's; that it is no network namespace shows only when it is used.
    pub fn open(path: &Path) -> io::Result<Netns> {
        super::file::open(path).map(Netns)
    }

    /// A path that leads to it, for all processes that may look into this one, for as long as this is held.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd()))
    }

    /// What tells this namespace from all others that are there (namespaces(7)): device and inode.
    ///
    /// # Errors
    /// The system's.
    pub fn identity(&self) -> io::Result<(u64, u64)> {
        let metadata = self.0.metadata()?;
        Ok((metadata.dev(), metadata.ino()))
    }

    /// Does `work` in this namespace, on a thread of its own, and waits for it. Sockets that it opens and processes
    /// that it starts are in the namespace for good.
    ///
    /// # Errors
    /// When the namespace cannot be entered (setns(2)).
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        on_a_thread(|| {
            move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network))?;
            Ok(work())
        })?
    }

    /// For netlink messages that name a namespace.
    pub(super) fn raw(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// A thread changes its namespace for good, so it must be nobody else's.
fn on_a_thread<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let worker = thread::Builder::new().name("netns".into()).spawn_scoped(scope, work)?;
        Ok(worker.join().unwrap_or_else(|panic| resume_unwind(panic)))
    })
}
