//! Links: bridges, VXLAN devices and veth(4) pairs are made; the others are only looked at.

use super::{
    neighbour::Mac,
    socket::{Rtnl, errno},
};
use crate::sys::netns::Netns;
use rtnetlink::{
    LinkBridgePort, LinkMessageBuilder, LinkUnspec,
    packet_route::{
        RouteNetlinkMessage,
        link::{InfoData, InfoKind, InfoVeth, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
    },
};
use std::{
    io,
    net::{IpAddr, Ipv6Addr},
};

/// A link as the kernel has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Link {
    /// Its index, never used twice while the namespace lives.
    pub index: u32,
    /// Its name, 1 to 15 bytes.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Its link-layer address; absent when that is no Ethernet address.
    pub mac: Option<Mac>,
    /// Largest packet, bytes.
    pub mtu: u32,
    /// Whether it was set up.
    pub up: bool,
    /// The index of the bridge that it is a port of.
    pub master: Option<u32>,
    /// The note that somebody wrote on it (`ifalias`), at most 255 bytes.
    pub alias: Option<String>,
}

/// What a link is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A bridge.
    Bridge,
    /// A VXLAN device.
    Vxlan(Vxlan),
    /// One end of a veth pair.
    Veth,
    /// A WireGuard device; what makes it up is in [`crate::sys::wireguard`].
    Wireguard,
    /// A link that leads nowhere.
    Dummy,
    /// A device of the machine, or one that a virtual machine is given; the loopback device, too.
    Hardware,
    /// Anything else.
    Other,
}

/// What makes up a VXLAN device (RFC 7348) and cannot be changed later.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Vxlan {
    /// Network identifier, 24 bits.
    pub vni: u32,
    /// UDP port.
    pub port: u16,
    /// The address of this host that it sends from; `::` for the one that the route says.
    pub local: IpAddr,
    /// Whether it learns where addresses are from what it receives.
    pub learning: bool,
}

/// A link to be made; it is down then.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewLink {
    /// Its name.
    pub name: String,
    /// A bridge, a VXLAN device or a dummy.
    pub kind: Kind,
    /// Its link-layer address.
    pub mac: Mac,
    /// Its MTU, bytes.
    pub mtu: u32,
}

/// A pair of links to be made: one end here, up and a port of a bridge, the other in another namespace, down.
#[derive(Debug)]
pub struct NewVeth<'a> {
    /// The end here.
    pub name: &'a str,
    /// The bridge's index.
    pub bridge: u32,
    /// What is written on the end here.
    pub alias: &'a str,
    /// The other end.
    pub peer: &'a str,
    /// Where that is.
    pub netns: &'a Netns,
    /// Of both ends, bytes.
    pub mtu: u32,
}

/// One change of a link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LinkChange<'a> {
    /// Up or down.
    Up(bool),
    /// MTU, bytes.
    Mtu(u32),
    /// Link-layer address.
    Mac(Mac),
    /// The note on it.
    Alias(&'a str),
}

impl Link {
    fn read(message: &LinkMessage) -> Option<Link> {
        let header = &message.header;
        let mut link = Link {
            index: header.index,
            name: String::new(),
            kind: Kind::Hardware,
            mac: None,
            mtu: 0,
            up: header.flags.contains(LinkFlags::Up),
            master: None,
            alias: None,
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                LinkAttribute::Address(bytes) => link.mac = bytes.as_slice().try_into().ok().map(Mac),
                LinkAttribute::IfAlias(alias) => link.alias = Some(alias.clone()),
                LinkAttribute::Controller(index) => link.master = Some(*index).filter(|index| *index != 0),
                LinkAttribute::LinkInfo(info) => link.kind = kind(info),
                _ => {}
            }
        }
        (!link.name.is_empty()).then_some(link)
    }
}

fn kind(info: &[LinkInfo]) -> Kind {
    let data = info.iter().find_map(|i| if let LinkInfo::Data(data) = i { Some(data) } else { None });
    let kind = info.iter().find_map(|i| if let LinkInfo::Kind(kind) = i { Some(kind) } else { None });
    match (kind, data) {
        (Some(InfoKind::Bridge), _) => Kind::Bridge,
        (Some(InfoKind::Veth), _) => Kind::Veth,
        (Some(InfoKind::Wireguard), _) => Kind::Wireguard,
        (Some(InfoKind::Dummy), _) => Kind::Dummy,
        (Some(InfoKind::Vxlan), Some(InfoData::Vxlan(data))) => vxlan(data).map_or(Kind::Other, Kind::Vxlan),
        (None, _) => Kind::Hardware,
        _ => Kind::Other,
    }
}

fn vxlan(data: &[InfoVxlan]) -> Option<Vxlan> {
    let (mut vni, mut port, mut local, mut learning) = (None, None, None, false);
    for info in data {
        match info {
            InfoVxlan::Id(id) => vni = Some(*id),
            InfoVxlan::Port(number) => port = Some(*number),
            InfoVxlan::Local(address) => local = Some((*address).into()),
            InfoVxlan::Local6(address) => local = Some((*address).into()),
            InfoVxlan::Learning(on) => learning = *on,
            _ => {}
        }
    }
    // Only a device that was given no address tells none; of IPv4 this program makes none such.
    let local = local.unwrap_or(Ipv6Addr::UNSPECIFIED.into());
    Some(Vxlan { vni: vni?, port: port?, local, learning })
}

fn info(kind: &Kind) -> (InfoKind, Option<InfoData>) {
    match kind {
        Kind::Vxlan(vxlan) => {
            let local = match vxlan.local {
                IpAddr::V4(address) => InfoVxlan::Local(address),
                IpAddr::V6(address) => InfoVxlan::Local6(address),
            };
            let data = vec![
                InfoVxlan::Id(vxlan.vni),
                local,
                InfoVxlan::Port(vxlan.port),
                InfoVxlan::Learning(vxlan.learning),
                InfoVxlan::TtlInheritFlag,
            ];
            (InfoKind::Vxlan, Some(InfoData::Vxlan(data)))
        }
        Kind::Veth => (InfoKind::Veth, None),
        Kind::Wireguard => (InfoKind::Wireguard, None),
        Kind::Dummy => (InfoKind::Dummy, None),
        Kind::Bridge | Kind::Hardware | Kind::Other => (InfoKind::Bridge, None),
    }
}

impl Rtnl {
    fn link_of(&mut self, message: LinkMessage) -> io::Result<Option<Link>> {
        match self.get(RouteNetlinkMessage::GetLink(message)) {
            Ok(Some(RouteNetlinkMessage::NewLink(message))) => Ok(Link::read(&message)),
            Ok(_) => Ok(None),
            Err(error) if errno(&error) == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The link of that name.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn link(&mut self, name: &str) -> io::Result<Option<Link>> {
        self.link_of(LinkUnspec::new_with_name(name).build())
    }

    /// The link of that index.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn link_at(&mut self, index: u32) -> io::Result<Option<Link>> {
        self.link_of(LinkUnspec::new_with_index(index).build())
    }

    /// The ends of veth pairs.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn veths(&mut self) -> io::Result<Vec<Link>> {
        self.links_like(LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(InfoKind::Veth).build())
    }

    /// All links.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn links(&mut self) -> io::Result<Vec<Link>> {
        self.links_like(LinkMessage::default())
    }

    fn links_like(&mut self, request: LinkMessage) -> io::Result<Vec<Link>> {
        let all = self.list(&RouteNetlinkMessage::GetLink(request))?;
        let read = |message: &RouteNetlinkMessage| match message {
            RouteNetlinkMessage::NewLink(message) => Link::read(message),
            _ => None,
        };
        Ok(all.iter().filter_map(read).collect())
    }

    /// Makes a link, down; returns its index.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn create_link(&mut self, new: &NewLink) -> io::Result<u32> {
        let (kind, data) = info(&new.kind);
        let mut link = LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(kind)
            .name(new.name.clone())
            .address(new.mac.0.to_vec())
            .mtu(new.mtu);
        if let Some(data) = data {
            link = link.set_info_data(data);
        }
        self.create(RouteNetlinkMessage::NewLink(link.build()))?;
        let made = self.link(&new.name)?;
        made.map(|link| link.index).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Makes a WireGuard device, down, which has no link-layer address and no key yet.
    ///
    /// # Errors
    /// What the kernel says: `EOPNOTSUPP` when it has no WireGuard.
    pub fn create_wireguard(&mut self, name: &str, mtu: u32) -> io::Result<()> {
        let link = LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(InfoKind::Wireguard);
        self.create(RouteNetlinkMessage::NewLink(link.name(name.to_owned()).mtu(mtu).build()))
    }

    /// Makes a veth pair.
    ///
    /// # Errors
    /// What the kernel says: `EEXIST` when either name is taken. Nothing is left then.
    pub fn create_veth(&mut self, new: &NewVeth<'_>) -> io::Result<()> {
        let peer = LinkUnspec::new_with_name(new.peer).setns_by_fd(new.netns.raw()).mtu(new.mtu).build();
        let pair = LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(InfoKind::Veth)
            .name(new.name)
            .mtu(new.mtu)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)));
        self.create(RouteNetlinkMessage::NewLink(pair.build()))?;
        let made = self.link(new.name)?.ok_or(io::ErrorKind::NotFound)?.index;
        let finished = self.change_link(made, LinkChange::Alias(new.alias));
        finished.and_then(|()| self.make_port(made, new.bridge)).inspect_err(|_| {
            // The error that led here is the one to tell.
            let _ = self.remove_link(made);
        })
    }

    /// Makes a link a port of a bridge, and sets it up.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn make_port(&mut self, link: u32, bridge: u32) -> io::Result<()> {
        let enslaved = LinkUnspec::new_with_index(link).controller(bridge).up().build();
        self.change(RouteNetlinkMessage::SetLink(enslaved))?;
        // A frame may go back where it came from: bridged packets are translated too while
        // net.bridge.bridge-nf-call-iptables is on.
        self.change(RouteNetlinkMessage::NewLink(LinkBridgePort::new(link).hairpin(true).build()))
    }

    /// Changes a link.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn change_link(&mut self, index: u32, change: LinkChange<'_>) -> io::Result<()> {
        let link = LinkUnspec::new_with_index(index);
        let link = match change {
            LinkChange::Up(true) => link.up(),
            LinkChange::Up(false) => link.down(),
            LinkChange::Mtu(mtu) => link.mtu(mtu),
            LinkChange::Mac(mac) => link.address(mac.0.to_vec()),
            LinkChange::Alias(alias) => link.alias(alias),
        };
        self.change(RouteNetlinkMessage::SetLink(link.build()))
    }

    /// Removes a link and all that is on it.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn remove_link(&mut self, index: u32) -> io::Result<()> {
        self.change(RouteNetlinkMessage::DelLink(LinkUnspec::new_with_index(index).build()))
    }
}
