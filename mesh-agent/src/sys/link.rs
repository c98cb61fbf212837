//! Links and addresses of a network namespace, over rtnetlink(7).

use super::netns::Netns;
use rtnetlink::{Handle, LinkBridge, LinkUnspec, LinkVeth, new_connection};
use rustix::net::{AddressFamily, SocketType, netdevice::name_to_index, socket};
use std::{
    io,
    net::{IpAddr, Ipv4Addr},
};

/// Names a netlink error's step and subject, and keeps its kind.
fn named(what: &str, error: &rtnetlink::Error) -> io::Error {
    let kind = match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io().kind(),
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, format!("{what}: {error}"))
}

/// Runs requests on a netlink socket of `netns`.
fn netlink<F>(netns: &Netns, requests: F) -> io::Result<()>
where
    F: AsyncFnOnce(Handle) -> io::Result<()> + Send,
{
    netns.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        runtime.block_on(async {
            let (connection, handle, _) = new_connection()?;
            let serving = tokio::spawn(connection);
            let done = requests(handle).await;
            serving.abort();
            done
        })
    })?
}

/// Adds a bridge and sets it up.
///
/// # Errors
/// The link's name and what the kernel says.
pub fn add_bridge(netns: &Netns, name: &str) -> io::Result<()> {
    netlink(netns, async |handle| {
        let bridge = LinkBridge::new(name).up().build();
        handle.link().add(bridge).execute().await.map_err(|e| named(&format!("bridge {name}"), &e))
    })
}

/// Adds a pair of veth(4) links: `port` in `hub`, as a port of the bridge there, and `name` in `netns`; both up.
///
/// # Errors
/// The link's name and what the kernel says.
pub fn connect(hub: &Netns, bridge: &str, port: &str, netns: &Netns, name: &str) -> io::Result<()> {
    netlink(hub, async |handle| {
        let failed = |e| named(&format!("veth {port}"), &e);
        let master = index(bridge)?;
        handle.link().add(LinkVeth::new(port, name).build()).execute().await.map_err(failed)?;
        let moved = LinkUnspec::new_with_name(name).setns_by_fd(netns.raw()).build();
        handle.link().set(moved).execute().await.map_err(failed)?;
        let enslaved = LinkUnspec::new_with_name(port).controller(master).up().build();
        handle.link().set(enslaved).execute().await.map_err(failed)
    })?;
    set_up(netns, name, true)
}

/// Sets a link up or down.
///
/// # Errors
/// The link's name and what the kernel says.
pub fn set_up(netns: &Netns, name: &str, up: bool) -> io::Result<()> {
    netlink(netns, async |handle| {
        let link = LinkUnspec::new_with_name(name);
        let link = if up { link.up() } else { link.down() };
        handle.link().set(link.build()).execute().await.map_err(|e| named(&format!("link {name}"), &e))
    })
}

/// Gives a link one more address.
///
/// # Errors
/// The address, the link's name and what the kernel says.
pub fn add_address(netns: &Netns, name: &str, address: Ipv4Addr, prefix: u8) -> io::Result<()> {
    netlink(netns, async |handle| {
        let request = handle.address().add(index(name)?, IpAddr::V4(address), prefix);
        request.execute().await.map_err(|e| named(&format!("address {address} of {name}"), &e))
    })
}

/// The index of a link in the calling thread's namespace.
fn index(name: &str) -> io::Result<u32> {
    let socket = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    name_to_index(&socket, name).map_err(|e| io::Error::new(e.kind(), format!("link {name}: {e}")))
}
