//! Which container has which address: pure.
//!
//! A lease is the alias of the container's port on the bridge. So it lives exactly as long as the port: over restarts and
//! crashes of the agent, and not a moment longer than the container's namespace, with which the port goes.

use super::{plan::gateway, sysctls::MARK};
use crate::sys::rtnl::Link;
use ipnetwork::IpNetwork;
use ring::digest::{Context, SHA256};
use std::{
    collections::BTreeSet,
    fmt::Write,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
};

/// Longest path of a namespace, bytes: it has to fit into an alias (255) with the rest.
pub const MAX_PATH: usize = 100;
/// Most addresses of a subnet that are looked at for a free one.
const LOOK: u128 = 65_536;

/// A namespace on the bridge.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lease {
    /// Where the namespace was found.
    pub netns: PathBuf,
    /// Which it is: device and inode of its file (namespaces(7)).
    pub identity: (u64, u64),
    /// The link in it.
    pub name: String,
    /// That link's addresses, at most one a family, IPv4 first.
    pub addresses: Vec<IpAddr>,
}

impl Lease {
    /// The name of its port: the same for the same link of the same namespace. 14 bytes.
    #[must_use]
    pub fn port(&self) -> String {
        port(self.identity, &self.name)
    }

    /// As it is written on the port.
    #[must_use]
    pub fn alias(&self) -> String {
        let addresses: Vec<String> = self.addresses.iter().map(ToString::to_string).collect();
        let (device, inode) = self.identity;
        let (name, netns) = (&self.name, self.netns.display());
        format!("{MARK} ip={} if={name} ns={device}:{inode} at={netns}", addresses.join(","))
    }

    /// From what is written on a port; absent when that is no lease.
    #[must_use]
    pub fn read(alias: &str) -> Option<Lease> {
        let rest = alias.strip_prefix(MARK)?.strip_prefix(" ip=")?;
        let (addresses, rest) = rest.split_once(" if=")?;
        let (name, rest) = rest.split_once(" ns=")?;
        let (identity, netns) = rest.split_once(" at=")?;
        let (device, inode) = identity.split_once(':')?;
        Some(Lease {
            netns: PathBuf::from(netns),
            identity: (device.parse().ok()?, inode.parse().ok()?),
            name: name.to_owned(),
            addresses: addresses.split(',').map(str::parse).collect::<Result<_, _>>().ok()?,
        })
    }
}

/// The name of the port of a namespace's link.
#[must_use]
pub fn port(identity: (u64, u64), name: &str) -> String {
    let mut context = Context::new(&SHA256);
    context.update(&identity.0.to_be_bytes());
    context.update(&identity.1.to_be_bytes());
    context.update(name.as_bytes());
    let digest = context.finish();
    digest.as_ref().iter().take(5).fold("mesh".to_owned(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Checks what an operator wrote.
///
/// # Errors
/// The field, and value, rule and fix.
pub fn check(netns: &Path, name: &str) -> Result<(), (&'static str, String)> {
    let path = netns.to_str().filter(|path| path.len() <= MAX_PATH && !path.contains('\n'));
    if path.is_none() {
        return Err((
            "netns",
            format!("the path is longer than {MAX_PATH} bytes or no text: give the number of a process"),
        ));
    }
    if !is_link_name(name) {
        return Err(("name", format!("`{name}` is no name of a link: use 1 to 15 letters, as eth0")));
    }
    Ok(())
}

/// Whether a link can have this name: as the kernel's `dev_valid_name`, in ASCII.
#[must_use]
pub fn is_link_name(name: &str) -> bool {
    let good = |c: char| c.is_ascii_graphic() && c != '/' && c != ':';
    (1..16).contains(&name.len()) && name != "." && name != ".." && name.chars().all(good)
}

/// A free address of `subnet`: the next after `after`, so that an address that was just given back is not at once
/// somebody else's.
#[must_use]
pub fn allocate(subnet: IpNetwork, taken: &BTreeSet<IpAddr>, after: Option<IpAddr>) -> Option<IpAddr> {
    let (base, bits) = match subnet.network() {
        IpAddr::V4(base) => (u128::from(base.to_bits()), 32),
        IpAddr::V6(base) => (base.to_bits(), 128),
    };
    let size = 1u128.checked_shl(bits - u32::from(subnet.prefix())).unwrap_or(u128::MAX).min(LOOK);
    let at = |offset: u128| -> Option<IpAddr> {
        if subnet.is_ipv4() {
            Some(Ipv4Addr::from_bits(u32::try_from(base + offset).ok()?).into())
        } else {
            Some(Ipv6Addr::from_bits(base + offset).into())
        }
    };
    let start = match after.filter(|address| subnet.contains(*address)) {
        Some(IpAddr::V4(address)) => u128::from(address.to_bits()) - base,
        Some(IpAddr::V6(address)) => address.to_bits() - base,
        None => 1,
    };
    (1..=size).filter_map(|i| at((start + i) % size)).find(|a| usable(subnet, *a) && !taken.contains(a))
}

/// Whether a container may have `address`: inside, and neither the first two nor the last of an IPv4 subnet.
#[must_use]
pub fn usable(subnet: IpNetwork, address: IpAddr) -> bool {
    let ends = [subnet.network(), gateway(subnet)];
    let last = subnet.is_ipv4() && address == subnet.broadcast();
    subnet.contains(address) && !ends.contains(&address) && !last
}

/// The leases of ports, and those ports whose addresses cannot stay: another, older port has one of them too, or they
/// are outside the `subnets` of this node.
#[must_use]
pub fn misfits<'a>(ports: &'a [(Link, Lease)], subnets: &[IpNetwork]) -> Vec<&'a (Link, Lease)> {
    let mut by_age: Vec<&(Link, Lease)> = ports.iter().collect();
    by_age.sort_by_key(|(link, _)| link.index);
    let mut held = BTreeSet::new();
    by_age.retain(|(_, lease)| {
        let inside = |address: &IpAddr| {
            let own = subnets.iter().find(|subnet| subnet.is_ipv4() == address.is_ipv4());
            own.is_none_or(|subnet| usable(*subnet, *address))
        };
        let fits = lease.addresses.iter().all(|address| inside(address) && !held.contains(address));
        if fits {
            held.extend(lease.addresses.iter().copied());
        }
        !fits
    });
    by_age
}
