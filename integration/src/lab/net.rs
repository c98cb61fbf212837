//! What labs ask of rtnetlink(7) beyond `mesh_agent::sys::link`.

use super::host::Host;
use ipnetwork::IpNetwork;
use rtnetlink::{
    Handle, LinkBridgePort, RouteMessageBuilder, new_connection,
    packet_route::{
        address::AddressHeaderFlags,
        route::{RouteScope, RouteType},
    },
};
use rustix::net::{AddressFamily, SocketType, netdevice::name_to_index, socket};
use std::{fmt::Display, io, net::IpAddr};

/// Where a route leads.
#[derive(Clone, Copy, Debug)]
pub(super) enum To {
    /// A neighbour that forwards.
    Neighbour(IpAddr),
    /// The host itself.
    Itself,
}

/// Runs requests on a netlink socket of `host`; an error gets the host's name.
fn netlink(host: &Host, requests: impl AsyncFnOnce(Handle) -> io::Result<()> + Send) -> io::Result<()> {
    let done = host.netns().run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        runtime.block_on(async {
            let (connection, handle, _) = new_connection()?;
            let serving = tokio::spawn(connection);
            let done = requests(handle).await;
            serving.abort();
            done
        })
    });
    done.flatten().map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", host.name)))
}

fn of(what: impl Display) -> impl FnOnce(rtnetlink::Error) -> io::Error {
    move |e| io::Error::other(format!("{what}: {e}"))
}

/// The index of a link in the calling thread's namespace.
pub(super) fn index(name: &str) -> io::Result<u32> {
    let socket = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    name_to_index(&socket, name).map_err(|e| io::Error::new(e.kind(), format!("link {name}: {e}")))
}

/// See [`Host::addresses`].
pub(super) fn add_addresses(host: &Host, link: &str, addresses: &[IpNetwork]) -> io::Result<()> {
    netlink(host, async |handle| {
        let index = index(link)?;
        for a in addresses {
            let mut request = handle.address().add(index, a.ip(), a.prefix());
            // Usable when this returns: nobody else has an address of a lab (RFC 4862 section 5.4 would wait).
            request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
            request.execute().await.map_err(of(a))?;
        }
        Ok(())
    })
}

/// Routes `network`, in the main table.
pub(super) fn add_route(host: &Host, network: IpNetwork, to: To) -> io::Result<()> {
    netlink(host, async |handle| {
        let route = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(network.ip(), network.prefix())
            .map_err(io::Error::other)?;
        let route = match to {
            To::Neighbour(via) => route.gateway(via).map_err(io::Error::other)?,
            To::Itself => {
                route.kind(RouteType::Local).scope(RouteScope::Host).output_interface(index("lo")?)
            }
        };
        handle.route().add(route.build()).execute().await.map_err(of(network))
    })
}

/// See [`Host::hairpin`].
pub(super) fn hairpin(host: &Host, port: &str) -> io::Result<()> {
    netlink(host, async |handle| {
        let link = LinkBridgePort::new(index(port)?).hairpin(true).build();
        handle.link().set_port(link).execute().await.map_err(of(port))
    })
}

/// An address with its prefix.
///
/// # Panics
/// When the prefix is longer than the address.
pub(crate) fn network(address: impl Into<IpAddr>, prefix: u8) -> IpNetwork {
    IpNetwork::new(address.into(), prefix).expect("labs are laid with fitting prefixes")
}
