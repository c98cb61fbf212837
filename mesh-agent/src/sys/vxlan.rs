//! The VXLAN devices of a network namespace, and which kinds of links can be made.

use super::netns::Netns;
use rtnetlink::{
    LinkBridge, LinkMessageBuilder, LinkVeth, LinkVxlan, LinkWireguard,
    packet_core::{
        NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
    },
    packet_route::{
        RouteNetlinkMessage,
        link::{InfoData, InfoKind, InfoVxlan, LinkAttribute, LinkInfo, LinkMessage},
    },
    sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE},
};
use std::io;

/// A VXLAN device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Vxlan {
    /// Its name.
    pub name: String,
    /// Its network identifier; absent of one that takes all.
    pub vni: Option<u32>,
    /// Its UDP port.
    pub port: u16,
}

/// The VXLAN devices of the calling thread's network namespace.
///
/// # Errors
/// What the kernel says.
pub fn devices() -> io::Result<Vec<Vxlan>> {
    let wanted = LinkMessageBuilder::<LinkVxlan>::new_with_info_kind(InfoKind::Vxlan).build();
    let mut found = Vec::new();
    exchange(RouteNetlinkMessage::GetLink(wanted), NLM_F_DUMP, |link| found.extend(read(&link)))?;
    Ok(found)
}

fn read(link: &LinkMessage) -> Option<Vxlan> {
    let name = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    })?;
    let data = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => infos.iter().find_map(|info| match info {
            LinkInfo::Data(InfoData::Vxlan(data)) => Some(data),
            _ => None,
        }),
        _ => None,
    })?;
    let vni = data.iter().find_map(|d| if let InfoVxlan::Id(vni) = d { Some(*vni) } else { None });
    let port = data.iter().find_map(|d| if let InfoVxlan::Port(port) = d { Some(*port) } else { None })?;
    Some(Vxlan { name, vni: vni.filter(|vni| *vni != 0), port })
}

/// A kind of link that the overlay needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LinkKind {
    /// Where containers are attached.
    Bridge,
    /// How they are attached.
    Veth,
    /// How packets get to other nodes.
    Vxlan,
    /// How they are sealed.
    Wireguard,
}

/// Makes a link of that kind in a namespace that is thrown away. This loads the kernel's module.
///
/// # Errors
/// Why the kernel has it not.
pub fn try_link(netns: &Netns, kind: LinkKind) -> io::Result<()> {
    let link = match kind {
        LinkKind::Bridge => LinkBridge::new("probe-br").build(),
        LinkKind::Veth => LinkVeth::new("probe-v", "probe-w").build(),
        LinkKind::Vxlan => LinkVxlan::new("probe-vx", 1).port(4789).build(),
        LinkKind::Wireguard => LinkWireguard::new("probe-wg").build(),
    };
    netns
        .run(|| exchange(RouteNetlinkMessage::NewLink(link), NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, |_| {}))?
}

/// Sends a request and hands out the links of the answer, to the end of it.
fn exchange(request: RouteNetlinkMessage, flags: u16, mut each: impl FnMut(LinkMessage)) -> io::Result<()> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut message = NetlinkMessage::from(request);
    message.header.flags = NLM_F_REQUEST | flags;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        let mut rest = &datagram[..];
        while !rest.is_empty() {
            let message =
                NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).map_err(io::Error::other)?;
            let length = usize::try_from(message.header.length).unwrap_or(0).next_multiple_of(4);
            match message.payload {
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => each(link),
                NetlinkPayload::Done(_) => return Ok(()),
                NetlinkPayload::Error(error) if error.code.is_none() => return Ok(()),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                _ => {}
            }
            rest = rest.get(length.max(16)..).unwrap_or_default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_made_and_listed() {
        let Ok(netns) = Netns::new() else {
            assert!(std::env::var_os("CI").is_none(), "this needs root, and CI skips nothing");
            return eprintln!("SKIPPED: links need root for network namespaces");
        };
        assert_eq!(netns.run(devices).unwrap().unwrap(), []);
        for kind in [LinkKind::Bridge, LinkKind::Veth, LinkKind::Vxlan] {
            try_link(&netns, kind).unwrap();
        }
        let found = netns.run(devices).unwrap().unwrap();
        assert_eq!(found, [Vxlan { name: "probe-vx".into(), vni: Some(1), port: 4789 }]);
        let again = try_link(&netns, LinkKind::Vxlan).unwrap_err();
        assert_eq!(again.raw_os_error(), Some(libc::EEXIST));
    }
}
