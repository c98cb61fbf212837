//! Routes that carry this program's [`PROTOCOL`].

use super::{address::family, socket::Rtnl};
use ipnetwork::IpNetwork;
use rtnetlink::packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
        RouteType,
    },
};
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// What this program writes into the protocol field of its routes and rules, to know them again (`rtm_protocol` and
/// `FRA_PROTOCOL`, linux/rtnetlink.h; the numbers from 5 on are free for programs).
pub const PROTOCOL: u8 = 77;

/// A route out of one link, or none: then what has no better route is refused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Route {
    /// The routing table; 254 is the main one.
    pub table: u32,
    /// Where it leads; a prefix of length 0 is the default route.
    pub destination: IpNetwork,
    /// The router, which is taken to be on the link whatever addresses that has; absent when the destination is itself.
    pub via: Option<IpAddr>,
    /// The link's index; 0 for none.
    pub link: u32,
    /// The address that this host's own programs send from.
    pub source: Option<IpAddr>,
}

impl Route {
    /// The main table.
    pub const MAIN: u32 = RouteHeader::RT_TABLE_MAIN as u32;

    fn message(&self) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header.address_family = family(self.destination.ip());
        message.header.destination_prefix_length = self.destination.prefix();
        message.header.protocol = RouteProtocol::Other(PROTOCOL);
        message.header.kind = RouteType::Unicast;
        let direct = self.via.is_none() && self.destination.is_ipv4();
        message.header.scope = if direct { RouteScope::Link } else { RouteScope::Universe };
        message.attributes = vec![
            RouteAttribute::Table(self.table),
            RouteAttribute::Destination(self.destination.network().into()),
        ];
        if self.link == 0 {
            message.header.kind = RouteType::Unreachable;
        } else {
            message.attributes.push(RouteAttribute::Oif(self.link));
        }
        if let Some(via) = self.via {
            message.header.flags = RouteFlags::Onlink;
            message.attributes.push(RouteAttribute::Gateway(via.into()));
        }
        if let Some(source) = self.source {
            message.attributes.push(RouteAttribute::PrefSource(source.into()));
        }
        message
    }

    fn read(message: &RouteMessage) -> Option<Route> {
        if message.header.protocol != RouteProtocol::Other(PROTOCOL) {
            return None;
        }
        let any: IpAddr = match message.header.address_family {
            AddressFamily::Inet => Ipv4Addr::UNSPECIFIED.into(),
            AddressFamily::Inet6 => Ipv6Addr::UNSPECIFIED.into(),
            _ => return None,
        };
        let (mut table, mut to, mut link) = (u32::from(message.header.table), any, 0);
        let (mut via, mut source) = (None, None);
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Table(number) => table = *number,
                RouteAttribute::Oif(index) => link = *index,
                RouteAttribute::Destination(address) => to = address_of(address)?,
                RouteAttribute::Gateway(address) => via = address_of(address),
                RouteAttribute::PrefSource(address) => source = address_of(address),
                _ => {}
            }
        }
        if message.header.kind == RouteType::Unreachable {
            // The kernel tells the loopback device of IPv6's.
            link = 0;
        }
        let destination = IpNetwork::new(to, message.header.destination_prefix_length).ok()?;
        Some(Route { table, destination, via, link, source })
    }
}

fn address_of(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

impl Rtnl {
    /// The routes of all tables that carry [`PROTOCOL`]; the kernel leaves the others out.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn routes(&mut self) -> io::Result<Vec<Route>> {
        let mut found = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut request = RouteMessage::default();
            request.header.address_family = family;
            request.header.protocol = RouteProtocol::Other(PROTOCOL);
            found.extend(self.list(&RouteNetlinkMessage::GetRoute(request))?);
        }
        let read = |message: RouteNetlinkMessage| match message {
            RouteNetlinkMessage::NewRoute(message) => Route::read(&message),
            _ => None,
        };
        Ok(found.into_iter().filter_map(read).collect())
    }

    /// Makes a route.
    ///
    /// # Errors
    /// What the kernel says: `EEXIST` when the destination has a route in that table, whosever it is.
    pub fn add_route(&mut self, route: &Route) -> io::Result<()> {
        self.create(RouteNetlinkMessage::NewRoute(route.message()))
    }

    /// Changes the route to the same destination in the same table.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn replace_route(&mut self, route: &Route) -> io::Result<()> {
        self.put(RouteNetlinkMessage::NewRoute(route.message()))
    }

    /// Removes a route.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn remove_route(&mut self, route: &Route) -> io::Result<()> {
        self.change(RouteNetlinkMessage::DelRoute(route.message()))
    }
}
