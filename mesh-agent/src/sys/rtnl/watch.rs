//! Word of changes that others make: links, addresses, rules of policy routing, routes of this program, permanent
//! neighbours, and parameters of links and hosts such as whether they forward (`RTNLGRP_IPV4_NETCONF`).

use super::route::PROTOCOL;
use rtnetlink::{
    MulticastGroup,
    sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE},
};
use std::{future::pending, io};
use tokio::io::unix::AsyncFd;

const GROUPS: [MulticastGroup; 10] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Ipv6Rule,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Netconf,
    MulticastGroup::Ipv6Netconf,
];

/// Bytes of a notification that are looked at: the header and the fixed part of what it is about.
const START: usize = 28;

/// Whether a notification is of a thing that may be ours. Hosts have routes and neighbours by the thousands that come
/// and go.
fn concerns(start: &[u8; START]) -> bool {
    // `nlmsg_type`; the numbers are those of linux/rtnetlink.h.
    match u16::from_ne_bytes([start[4], start[5]]) {
        // RTM_NEWROUTE, RTM_DELROUTE: `rtm_protocol`.
        24 | 25 => start[21] == PROTOCOL,
        // RTM_NEWNEIGH, RTM_DELNEIGH: `ndm_state`, and of it NUD_PERMANENT.
        28 | 29 => u16::from_ne_bytes([start[24], start[25]]) & 0x80 != 0,
        _ => true,
    }
}

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

    /// [`Watch::changed`], or for ever where there is none any more.
    ///
    /// # Errors
    /// When the socket is broken.
    pub async fn word(watch: Option<&Watch>) -> io::Result<()> {
        match watch {
            Some(watch) => watch.changed().await,
            None => pending().await,
        }
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
                let mut start = [0u8; START];
                match self.0.get_ref().recv(&mut start.as_mut_slice(), 0) {
                    Ok(_) => some |= concerns(&start),
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
