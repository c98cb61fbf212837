//! What labs ask of rtnetlink(7) beyond `mesh_agent::sys::link`.

use super::host::Host;
use futures_util::TryStreamExt;
use ipnetwork::IpNetwork;
use rtnetlink::{
    Handle, LinkBridgePort, LinkUnspec, LinkVeth, RouteMessageBuilder, new_connection,
    packet_route::{
        address::AddressHeaderFlags,
        link::{InfoData, InfoVeth, LinkAttribute, State},
        route::{RouteScope, RouteType},
    },
};
use rustix::net::{AddressFamily, SocketType, netdevice::name_to_index, socket};
use std::{
    fmt::Display,
    io,
    net::{IpAddr, Ipv6Addr},
    pin::pin,
    time::{Duration, Instant},
};

/// Longest wait for a link to come up.
const PATIENCE: Duration = Duration::from_secs(20);

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
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
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

/// See [`Host::cable`]. The far end is made where it belongs, so that nobody here may have its name.
pub(super) fn cable(host: &Host, bridge: &str, port: &str, other: &Host, link: &str) -> io::Result<()> {
    netlink(host, async |handle| {
        let far = LinkUnspec::new_with_name(link).setns_by_fd(other.namespace_fd()).build();
        let pair = LinkVeth::new(port, link)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(far)))
            .controller(index(bridge)?)
            .up()
            .build();
        handle.link().add(pair).execute().await.map_err(of(port))
    })?;
    other.set_up(link, true)?;
    until_running(host, port)?;
    until_running(host, bridge)?;
    until_running(other, link)
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
            if let IpAddr::V6(address) = a.ip() {
                until_heard(link, address).await?;
            }
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
            To::Itself => route.kind(RouteType::Local).scope(RouteScope::Host).output_interface(index("lo")?),
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

/// Waits until a link carries packets. One that was just set up drops them until a worker of the kernel has noticed.
fn until_running(host: &Host, link: &str) -> io::Result<()> {
    netlink(host, async |handle| {
        until(&format!("{link} is up"), async || {
            let mut found = pin!(handle.link().get().match_name(link.to_owned()).execute());
            let found = found.try_next().await.map_err(of(link))?;
            let up = |a: &LinkAttribute| *a == LinkAttribute::OperState(State::Up);
            Ok(found.is_some_and(|link| link.attributes.iter().any(up)))
        })
        .await
    })
}

/// Waits until `address` of `link` hears the question who has it (RFC 4861 section 4.3): a worker of the kernel joins
/// the group that is asked, and a question that comes before is asked again after a second.
async fn until_heard(link: &str, address: Ipv6Addr) -> io::Result<()> {
    let [.., a, b, c] = address.octets();
    let group = format!("ff0200000000000000000001ff{a:02x}{b:02x}{c:02x}");
    until(&format!("{address} is heard"), async || {
        let groups = std::fs::read_to_string("/proc/thread-self/net/igmp6")?;
        let joined = |line: &str| {
            let mut words = line.split_whitespace().skip(1);
            words.next() == Some(link) && words.next() == Some(group.as_str())
        };
        Ok(groups.lines().any(joined))
    })
    .await
}

async fn until(what: &str, condition: impl AsyncFn() -> io::Result<bool>) -> io::Result<()> {
    let end = Instant::now() + PATIENCE;
    while !condition().await? {
        if Instant::now() > end {
            return Err(io::Error::new(io::ErrorKind::TimedOut, format!("never: {what}")));
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(())
}
