//! This host's kernel, step by step: what the overlay and its tunnels do alike.

use super::{
    config::OverlayConfig,
    step::{Change, Step, Underlay},
    thing::Thing,
};
use crate::sys::{
    rtnl::{LinkChange, Rtnl, errno},
    sysctl,
};
use std::io;

/// Why nothing could be done.
#[derive(Debug, thiserror::Error)]
pub enum OverlayError {
    /// The node has no address that VXLAN could send from.
    #[error("node.address has none that other nodes reach: VXLAN does not run over loopback")]
    NoUnderlay,
    /// The node's address is on no link.
    #[error("node.address {0} is on no link of this host: write one that is, for VXLAN sends from it")]
    NoLink(std::net::IpAddr),
    /// Encryption is asked for and the kernel has none, or gives none to this process.
    #[error(
        "overlay.encryption is wireguard, which cannot be had: {0}. Nothing is sent in plain: load the kernel's module \
         (modprobe wireguard, Linux 5.6), run as root, or write overlay.encryption: none on every node"
    )]
    NoWireguard(String),
    /// A link of somebody else is in the way.
    #[error("{0}")]
    Conflict(String),
    /// The kernel makes no links for this process.
    #[error("{0} (the agent needs root, or CAP_NET_ADMIN in its network namespace)")]
    Refused(String),
    /// The kernel cannot be asked.
    #[error("rtnetlink: {0}")]
    Kernel(#[from] io::Error),
}

/// The link that has this node's address on the underlay.
///
/// # Errors
/// [`OverlayError`] when there is none.
pub fn underlay(rtnl: &mut Rtnl, config: &OverlayConfig) -> Result<Underlay, OverlayError> {
    let local = config.local().ok_or(OverlayError::NoUnderlay)?;
    let address = rtnl.addresses()?.into_iter().find(|a| a.network.ip() == local);
    let link = match address {
        Some(address) => rtnl.link_at(address.link)?,
        None => None,
    };
    let link = link.ok_or(OverlayError::NoLink(local))?;
    Ok(Underlay { name: link.name, mtu: link.mtu })
}

/// Does one step.
pub(super) fn execute(rtnl: &mut Rtnl, step: &Step) -> io::Result<()> {
    match step {
        Step::CreateLink(new) => rtnl.create_link(new).map(drop),
        Step::RemoveLink { index, .. } => rtnl.remove_link(*index),
        Step::ChangeLink { index, change, .. } => {
            let change = match change {
                Change::Up => LinkChange::Up(true),
                Change::Mtu(mtu) => LinkChange::Mtu(*mtu),
                Change::Mac(mac) => LinkChange::Mac(*mac),
                Change::Alias(alias) => LinkChange::Alias(alias),
            };
            rtnl.change_link(*index, change)
        }
        Step::Sysctl((key, value)) => sysctl::write(key, value),
        Step::Add(thing) | Step::Replace(thing) => match thing {
            Thing::Address(address) => rtnl.add_address(address),
            Thing::Neighbour(neighbour) => rtnl.put_neighbour(neighbour),
            Thing::Fdb(fdb) => rtnl.put_fdb(fdb),
            Thing::Route(route) if matches!(step, Step::Add(_)) => rtnl.add_route(route),
            Thing::Route(route) => rtnl.replace_route(route),
            Thing::Rule(rule) => rtnl.add_rule(rule),
        },
        Step::Remove(thing) => match remove(rtnl, thing) {
            Err(error) if errno(&error).is_some_and(|number| GONE.contains(&number)) => Ok(()),
            result => result,
        },
    }
}

/// What the kernel says of what is not there: it went with something else.
const GONE: [i32; 4] = [libc::ENOENT, libc::ESRCH, libc::ENODEV, libc::EADDRNOTAVAIL];

fn remove(rtnl: &mut Rtnl, thing: &Thing) -> io::Result<()> {
    match thing {
        Thing::Address(address) => rtnl.remove_address(address),
        Thing::Neighbour(neighbour) => rtnl.remove_neighbour(neighbour),
        Thing::Fdb(fdb) => rtnl.remove_fdb(fdb),
        Thing::Route(route) => rtnl.remove_route(route),
        Thing::Rule(rule) => rtnl.remove_rule(rule),
    }
}
