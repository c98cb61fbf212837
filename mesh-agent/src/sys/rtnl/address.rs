//! Addresses of links.

use super::socket::Rtnl;
use ipnetwork::IpNetwork;
use rtnetlink::packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope},
};
use std::{io, net::IpAddr};

/// An address of a link.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Address {
    /// The link's index.
    pub link: u32,
    /// The address with the prefix length of what it reaches without a router.
    pub network: IpNetwork,
}

pub(super) fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

impl Address {
    fn message(&self) -> AddressMessage {
        let mut message = AddressMessage::default();
        message.header.family = family(self.network.ip());
        message.header.prefix_len = self.network.prefix();
        message.header.index = self.link;
        message.attributes = vec![
            AddressAttribute::Local(self.network.ip()),
            AddressAttribute::Address(self.network.ip()),
            // Nobody else has an address of a subnet that is claimed, so nobody is asked: it works at once.
            AddressAttribute::Flags(AddressFlags::Nodad),
        ];
        message
    }

    /// Absent for those that the kernel makes itself: link-local ones.
    fn read(message: &AddressMessage) -> Option<Address> {
        if message.header.scope == AddressScope::Link {
            return None;
        }
        let (mut local, mut other) = (None, None);
        for attribute in &message.attributes {
            match attribute {
                AddressAttribute::Local(address) => local = Some(*address),
                AddressAttribute::Address(address) => other = Some(*address),
                _ => {}
            }
        }
        let network = IpNetwork::new(local.or(other)?, message.header.prefix_len).ok()?;
        Some(Address { link: message.header.index, network })
    }
}

impl Rtnl {
    /// The addresses of all links but those that are valid on one link only.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn addresses(&mut self) -> io::Result<Vec<Address>> {
        let all = self.list(&RouteNetlinkMessage::GetAddress(AddressMessage::default()))?;
        let read = |message: &RouteNetlinkMessage| match message {
            RouteNetlinkMessage::NewAddress(message) => Address::read(message),
            _ => None,
        };
        Ok(all.iter().filter_map(read).collect())
    }

    /// Adds an address; one that is there already is no error.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn add_address(&mut self, address: &Address) -> io::Result<()> {
        self.put(RouteNetlinkMessage::NewAddress(address.message()))
    }

    /// Removes an address.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn remove_address(&mut self, address: &Address) -> io::Result<()> {
        let mut message = address.message();
        message.attributes.pop();
        self.change(RouteNetlinkMessage::DelAddress(message))
    }
}
