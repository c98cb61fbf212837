//! The messages: numbers are in the host's byte order, but for those inside socket addresses.

use super::{Device, Key, NewPeer, Peer};
use crate::sys::nfnetlink::{Attributes, Request, Value};
use ipnetwork::IpNetwork;
use std::net::{IpAddr, SocketAddr};

/// `WG_GENL_NAME`
pub(super) const NAME: &str = "wireguard";
/// `WG_GENL_VERSION`
pub(super) const VERSION: u8 = 1;
// `WG_CMD_*`
pub(super) const GET: u8 = 0;
pub(super) const SET: u8 = 1;
// `WGDEVICE_A_*`
const LINK: u16 = 1;
const PRIVATE_KEY: u16 = 3;
const PUBLIC_KEY: u16 = 4;
const PORT: u16 = 6;
const PEERS: u16 = 8;
// `WGPEER_A_*`
const PEER_KEY: u16 = 1;
const PEER_FLAGS: u16 = 3;
const ENDPOINT: u16 = 4;
const KEEPALIVE: u16 = 5;
const HANDSHAKE: u16 = 6;
const ALLOWED: u16 = 9;
// `WGPEER_F_*`
const REMOVE_ME: u32 = 1;
const REPLACE_ALLOWED: u32 = 2;
// `WGALLOWEDIP_A_*`
const FAMILY: u16 = 1;
const ADDRESS: u16 = 2;
const PREFIX: u16 = 3;
// `AF_*` of <sys/socket.h>
const INET: u16 = 2;
const INET6: u16 = 10;
/// Elements of a list are attributes, of which the kernel takes any type.
const ELEMENT: u16 = 0;

/// Says which device a request is about.
pub(super) fn to_device(mut request: Request, link: u32) -> Request {
    request.put(LINK, &link.to_ne_bytes());
    request
}

pub(super) fn put_key(request: &mut Request, key: &Key) {
    request.put(PRIVATE_KEY, key);
}

pub(super) fn put_port(request: &mut Request, port: u16) {
    request.put(PORT, &port.to_ne_bytes());
}

fn peer(request: &mut Request, key: &Key, fill: impl FnOnce(&mut Request)) {
    request.nest(PEERS, |peers| {
        peers.nest(ELEMENT, |peer| {
            peer.put(PEER_KEY, key);
            fill(peer);
        });
    });
}

pub(super) fn remove_peer(request: &mut Request, key: &Key) {
    peer(request, key, |peer| peer.put(PEER_FLAGS, &REMOVE_ME.to_ne_bytes()));
}

pub(super) fn put_peer(request: &mut Request, new: &NewPeer) {
    peer(request, &new.key, |peer| {
        if new.only {
            peer.put(PEER_FLAGS, &REPLACE_ALLOWED.to_ne_bytes());
        }
        if let Some(endpoint) = new.endpoint {
            peer.put(ENDPOINT, &socket_address(endpoint));
        }
        // The kernel takes attributes by type: what a peer may send from is there before its first packet goes out.
        peer.nest(ALLOWED, |all| {
            for network in &new.allowed {
                all.nest(ELEMENT, |element| put(element, network));
            }
        });
        peer.put(KEEPALIVE, &new.keepalive.to_ne_bytes());
    });
}

fn put(request: &mut Request, network: &IpNetwork) {
    let family = if network.is_ipv4() { INET } else { INET6 };
    request.put(FAMILY, &family.to_ne_bytes());
    request.put_ip(ADDRESS, ADDRESS, network.network());
    request.put(PREFIX, &[network.prefix()]);
}

/// `struct sockaddr_in` (ip(7)) or `struct sockaddr_in6` (ipv6(7)).
fn socket_address(address: SocketAddr) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(28);
    bytes.extend(if address.is_ipv4() { INET } else { INET6 }.to_ne_bytes());
    bytes.extend(address.port().to_be_bytes());
    match address {
        SocketAddr::V4(a) => {
            bytes.extend(a.ip().octets());
            bytes.extend([0; 8]);
        }
        SocketAddr::V6(a) => {
            bytes.extend(a.flowinfo().to_be_bytes());
            bytes.extend(a.ip().octets());
            bytes.extend(a.scope_id().to_ne_bytes());
        }
    }
    bytes
}

fn read_socket_address(bytes: &[u8]) -> Option<SocketAddr> {
    let (family, rest) = bytes.split_first_chunk()?;
    let (port, rest) = rest.split_first_chunk()?;
    let ip = match u16::from_ne_bytes(*family) {
        INET => IpAddr::from(*rest.first_chunk::<4>()?),
        INET6 => IpAddr::from(*rest.get(4..)?.first_chunk::<16>()?),
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_be_bytes(*port)))
}

/// Adds to a device what one message of the answer says: a long list of peers comes in several, and a peer with many
/// addresses may be cut in two.
pub(super) fn read(device: &mut Device, attributes: Attributes<'_>) {
    for (kind, value) in attributes {
        match kind {
            PUBLIC_KEY => device.key = value.bytes(),
            PORT => device.port = value.bytes().map(u16::from_ne_bytes).unwrap_or_default(),
            PEERS => {
                for (_, element) in value.nested() {
                    let Some(peer) = read_peer(element) else { continue };
                    match device.peers.last_mut().filter(|last| last.key == peer.key) {
                        Some(last) => last.allowed.extend(peer.allowed),
                        None => device.peers.push(peer),
                    }
                }
            }
            _ => {}
        }
    }
}

fn read_peer(element: Value<'_>) -> Option<Peer> {
    let (mut key, mut endpoint, mut keepalive, mut handshake) = (None, None, 0, None);
    let mut allowed = Vec::new();
    for (kind, value) in element.nested() {
        match kind {
            PEER_KEY => key = value.bytes(),
            ENDPOINT => endpoint = read_socket_address(value.raw()),
            KEEPALIVE => keepalive = value.bytes().map(u16::from_ne_bytes).unwrap_or_default(),
            // `struct __kernel_timespec`: seconds and nanoseconds; all zero for never.
            HANDSHAKE => {
                let seconds = value.raw().first_chunk().map(|bytes| i64::from_ne_bytes(*bytes));
                handshake = seconds.and_then(|s| u64::try_from(s).ok()).filter(|s| *s != 0);
            }
            ALLOWED => allowed.extend(value.nested().filter_map(|(_, network)| read_network(network))),
            _ => {}
        }
    }
    Some(Peer { key: key?, endpoint, allowed, keepalive, handshake })
}

fn read_network(element: Value<'_>) -> Option<IpNetwork> {
    let (mut address, mut prefix) = (None, None);
    for (kind, value) in element.nested() {
        match kind {
            ADDRESS => address = value.ip(),
            PREFIX => prefix = value.bytes().map(|[bits]| bits),
            _ => {}
        }
    }
    IpNetwork::new(address?, prefix?).ok()
}
