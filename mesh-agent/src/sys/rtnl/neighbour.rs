//! Neighbours, and the forwarding database of a VXLAN device: who has which link-layer address, and where that is.

use super::{address::family, socket::Rtnl};
use rtnetlink::packet_route::{
    AddressFamily, RouteNetlinkMessage,
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
};
use std::{fmt, io, net::IpAddr};

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A permanent neighbour: the link-layer address of an address on a link.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Neighbour {
    /// The link's index.
    pub link: u32,
    /// Its address.
    pub address: IpAddr,
    /// Its link-layer address.
    pub mac: Mac,
}

/// A permanent forwarding entry of a VXLAN device: behind which host a link-layer address is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Fdb {
    /// The device's index.
    pub link: u32,
    /// The link-layer address.
    pub mac: Mac,
    /// The host's address on the underlay.
    pub remote: IpAddr,
}

fn message(family: AddressFamily, link: u32, mac: Mac, to: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family;
    message.header.ifindex = link;
    message.header.state = NeighbourState::Permanent;
    if family == AddressFamily::Bridge {
        // The device's own table, not that of a bridge it may be a port of (NTF_SELF).
        message.header.flags = NeighbourFlags::Own;
    }
    let to = match to {
        IpAddr::V4(to) => NeighbourAddress::Inet(to),
        IpAddr::V6(to) => NeighbourAddress::Inet6(to),
    };
    message.attributes =
        vec![NeighbourAttribute::Destination(to), NeighbourAttribute::LinkLayerAddress(mac.0.to_vec())];
    message
}

/// Of a permanent entry of `link`: the link-layer address and the address that belongs to it.
fn read(message: &RouteNetlinkMessage, link: u32) -> Option<(Mac, IpAddr)> {
    let RouteNetlinkMessage::NewNeighbour(message) = message else { return None };
    if message.header.ifindex != link || message.header.state != NeighbourState::Permanent {
        return None;
    }
    let (mut mac, mut to) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.as_slice().try_into().ok().map(Mac),
            NeighbourAttribute::Destination(address) => to = address_of(address),
            _ => {}
        }
    }
    Some((mac?, to?))
}

/// In the forwarding database an address comes as bytes: its family is the underlay's, which the header does not name.
fn address_of(address: &NeighbourAddress) -> Option<IpAddr> {
    match address {
        NeighbourAddress::Inet(address) => Some((*address).into()),
        NeighbourAddress::Inet6(address) => Some((*address).into()),
        NeighbourAddress::Other(bytes) => match bytes.as_slice() {
            [a, b, c, d] => Some([*a, *b, *c, *d].into()),
            bytes => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        },
        _ => None,
    }
}

impl Rtnl {
    fn entries(&mut self, family: AddressFamily, link: u32) -> io::Result<Vec<(Mac, IpAddr)>> {
        let mut request = NeighbourMessage::default();
        request.header.family = family;
        if family == AddressFamily::Bridge {
            request.header.ifindex = link;
        } else {
            request.attributes.push(NeighbourAttribute::IfIndex(link));
        }
        let all = self.list(&RouteNetlinkMessage::GetNeighbour(request))?;
        Ok(all.iter().filter_map(|message| read(message, link)).collect())
    }

    /// The permanent neighbours of a link.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn neighbours(&mut self, link: u32) -> io::Result<Vec<Neighbour>> {
        let mut found = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            found.extend(self.entries(family, link)?);
        }
        Ok(found.into_iter().map(|(mac, address)| Neighbour { link, address, mac }).collect())
    }

    /// Makes a neighbour, or gives it another link-layer address.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn put_neighbour(&mut self, n: &Neighbour) -> io::Result<()> {
        self.put(RouteNetlinkMessage::NewNeighbour(message(family(n.address), n.link, n.mac, n.address)))
    }

    /// Removes a neighbour.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn remove_neighbour(&mut self, n: &Neighbour) -> io::Result<()> {
        self.change(RouteNetlinkMessage::DelNeighbour(message(family(n.address), n.link, n.mac, n.address)))
    }

    /// The permanent forwarding entries of a VXLAN device.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn fdb(&mut self, link: u32) -> io::Result<Vec<Fdb>> {
        let found = self.entries(AddressFamily::Bridge, link)?;
        Ok(found.into_iter().map(|(mac, remote)| Fdb { link, mac, remote }).collect())
    }

    /// Makes a forwarding entry, or leads it to another host.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn put_fdb(&mut self, f: &Fdb) -> io::Result<()> {
        self.put(RouteNetlinkMessage::NewNeighbour(message(AddressFamily::Bridge, f.link, f.mac, f.remote)))
    }

    /// Removes a forwarding entry.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn remove_fdb(&mut self, f: &Fdb) -> io::Result<()> {
        self.change(RouteNetlinkMessage::DelNeighbour(message(
            AddressFamily::Bridge,
            f.link,
            f.mac,
            f.remote,
        )))
    }
}
