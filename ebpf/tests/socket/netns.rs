//! Network namespaces without names.
#![expect(
    clippy::disallowed_methods,
    reason = "the agent's own are out of reach here; each call has a thread of its own"
)]

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};
use std::{
    fs::File,
    io,
    net::UdpSocket,
    os::fd::{AsRawFd, RawFd},
    panic::resume_unwind,
    process::Command,
    thread,
};

/// A network namespace whose loopback device is up.
#[derive(Debug)]
pub(crate) struct Netns(File);

impl Netns {
    pub(crate) fn new() -> io::Result<Netns> {
        let netns = on_a_thread(|| {
            // SAFETY: only the network namespace is unshared, of this thread alone, which ends right after.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?;
            File::open("/proc/thread-self/ns/net").map(Netns)
        })?;
        netns.ip("link set lo up");
        Ok(netns)
    }

    /// Does `work` in this namespace, on a thread of its own.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        use std::os::fd::AsFd as _;
        on_a_thread(|| {
            move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            work()
        })
    }

    /// `ip` with these words.
    pub(crate) fn ip(&self, words: &str) {
        let done = self.run(|| Command::new("ip").args(words.split(' ')).status().unwrap());
        assert!(done.success(), "ip {words}: {done}");
    }

    /// What the kernel tells this namespace from others by.
    pub(crate) fn cookie(&self) -> u64 {
        self.run(|| {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            let (mut cookie, mut len) = (0_u64, 8);
            // SAFETY: the value is of the eight bytes that the option has and `len` says.
            let done = unsafe {
                libc::getsockopt(
                    socket.as_raw_fd(),
                    libc::SOL_SOCKET,
                    libc::SO_NETNS_COOKIE,
                    (&raw mut cookie).cast(),
                    &raw mut len,
                )
            };
            assert_eq!(done, 0, "{}", io::Error::last_os_error());
            cookie
        })
    }
}

impl AsRawFd for Netns {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// A thread changes its namespace for good, so it must be nobody else's.
fn on_a_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| scope.spawn(work).join().unwrap_or_else(|panic| resume_unwind(panic)))
}
