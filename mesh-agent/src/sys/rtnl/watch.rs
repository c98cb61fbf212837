//! Word of changes that others make: links, addresses and rules of policy routing.

use rtnetlink::{
    MulticastGroup,
    sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE},
};
use std::io;
use tokio::io::unix::AsyncFd;

const GROUPS: [MulticastGroup; 5] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Ipv6Rule,
];

/// Tells that something changed, not what: whoever is told looks for himself, so nothing is kept and nothing is lost.
#[derive(Debug)]
pub struct Watch(AsyncFd<Socket>);

impl Watch {
    /// Watches the namespace of the calling thread.
    ///
    /// # Errors
    /// What the kernel says.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn open() -> io::Result<Watch> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        let groups = GROUPS.iter().fold(0, |mask, group| mask | 1 << (*group as u32 - 1));
        socket.bind(&SocketAddr::new(0, groups))?;
        socket.set_non_blocking(true)?;
        // SAFETY: the socket owns its descriptor and goes with the `AsyncFd` that owns the socket; until then the
        // descriptor stays the same one and open.
        Ok(Watch(unsafe { AsyncFd::register(socket) }?))
    }

    /// Waits for changes and takes all that are known by then for one.
    ///
    /// # Errors
    /// When the socket is broken.
    pub async fn changed(&self) -> io::Result<()> {
        loop {
            let mut ready = self.0.readable().await?;
            let mut some = false;
            loop {
                // What does not fit is cut off, and nobody misses it.
                let mut start = [0u8; 16];
                match self.0.get_ref().recv(&mut start.as_mut_slice(), 0) {
                    Ok(_) => some = true,
                    // Some were lost: there were changes.
                    Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => some = true,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                }
            }
            ready.clear_ready();
            if some {
                return Ok(());
            }
        }
    }
}
