//! What goes over the wire: commands as requests, answers as values.
//!
//! The kernel wants more than it says: a service without flags, timeout and netmask is refused, and flags of four bytes
//! instead of eight are taken and ignored (`ip_vs_genl_parse_service`).

use crate::sys::{
    genl::Id,
    nfnetlink::{Attributes, DUMP, Request, Value},
};
use std::net::{IpAddr, SocketAddr};

/// `IPVS_GENL_VERSION`
pub(super) const VERSION: u8 = 1;

// `IPVS_CMD_*`
const NEW_SERVICE: u8 = 1;
const SET_SERVICE: u8 = 2;
const DEL_SERVICE: u8 = 3;
const GET_SERVICE: u8 = 4;
const NEW_DEST: u8 = 5;
const SET_DEST: u8 = 6;
const DEL_DEST: u8 = 7;
const GET_DEST: u8 = 8;
const SET_CONFIG: u8 = 12;
pub(super) const GET_CONFIG: u8 = 13;

// `IPVS_CMD_ATTR_*`
const ATTR_SERVICE: u16 = 1;
const ATTR_DEST: u16 = 2;
const ATTR_TIMEOUT_TCP: u16 = 4;
const ATTR_TIMEOUT_TCP_FIN: u16 = 5;
const ATTR_TIMEOUT_UDP: u16 = 6;

// `IPVS_SVC_ATTR_*`
const SVC_AF: u16 = 1;
const SVC_PROTOCOL: u16 = 2;
const SVC_ADDR: u16 = 3;
const SVC_PORT: u16 = 4;
const SVC_FWMARK: u16 = 5;
const SVC_SCHED_NAME: u16 = 6;
const SVC_FLAGS: u16 = 7;
const SVC_TIMEOUT: u16 = 8;
const SVC_NETMASK: u16 = 9;
const SVC_STATS64: u16 = 12;

// `IPVS_DEST_ATTR_*`
const DEST_ADDR: u16 = 1;
const DEST_PORT: u16 = 2;
const DEST_FWD_METHOD: u16 = 3;
const DEST_WEIGHT: u16 = 4;
const DEST_U_THRESH: u16 = 5;
const DEST_L_THRESH: u16 = 6;
const DEST_ACTIVE_CONNS: u16 = 7;
const DEST_INACT_CONNS: u16 = 8;
const DEST_ADDR_FAMILY: u16 = 11;
const DEST_STATS64: u16 = 12;

/// Flags of a service (`IP_VS_SVC_F_*`).
pub mod flags {
    /// A client stays with its destination.
    pub const PERSISTENT: u32 = 1;
    /// The kernel's own: it has the service in its table.
    pub(super) const HASHED: u32 = 2;
    /// Every datagram is a flow. The kernel takes it for TCP too, where it means nothing good.
    pub const ONE_PACKET: u32 = 4;
    /// Of `sh` and `mh`: who hashes to a destination that takes no flows goes to another.
    pub const FALLBACK: u32 = 8;
}

/// What tells one virtual service from another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Virtual {
    /// By what is dialled.
    Address {
        /// Address and port.
        at: SocketAddr,
        /// `IPPROTO_*`.
        protocol: u8,
    },
    /// By the mark that packets carry.
    Mark {
        /// The mark, all 32 bits, not 0.
        mark: u32,
        /// Of which family.
        v6: bool,
    },
}

impl Virtual {
    /// Whether it is of IPv6.
    #[must_use]
    pub fn is_ipv6(&self) -> bool {
        match self {
            Virtual::Address { at, .. } => at.is_ipv6(),
            Virtual::Mark { v6, .. } => *v6,
        }
    }
}

/// As `ipvsadm -Ln` has it.
impl std::fmt::Display for Virtual {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Virtual::Address { at, protocol: 6 } => write!(f, "TCP {at}"),
            Virtual::Address { at, protocol: 17 } => write!(f, "UDP {at}"),
            Virtual::Address { at, protocol } => write!(f, "{protocol} {at}"),
            Virtual::Mark { mark, v6 } => write!(f, "FWM {mark}{}", if *v6 { " IPv6" } else { "" }),
        }
    }
}

/// How a virtual service works.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Service {
    /// Its scheduler, at most 15 bytes: the `mh` of the module `ip_vs_mh`.
    pub scheduler: String,
    /// Of [`flags`].
    pub flags: u32,
    /// How long a client is remembered after its last connection was forgotten, seconds.
    pub timeout: u32,
    /// Clients of one such network are one client: 32, or 128 for IPv6.
    pub prefix: u8,
}

/// One destination of a service.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Destination {
    /// How packets get there (`IP_VS_CONN_F_FWD_MASK`).
    pub forward: u32,
    /// Its share of new connections; 0 takes none.
    pub weight: u32,
    /// At so many connections it takes no more; 0 is no limit.
    pub upper: u32,
    /// Below so many it does again.
    pub lower: u32,
}

impl Destination {
    /// Packets get its address and port (`IP_VS_CONN_F_MASQ`).
    pub const MASQUERADE: u32 = 0;
    /// Packets go to its address as they are, over one link (`IP_VS_CONN_F_DROUTE`).
    pub const ROUTE: u32 = 3;
}

/// What was counted so far.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Stats {
    /// Connections scheduled.
    pub connections: u64,
    /// Bytes from clients.
    pub bytes_in: u64,
    /// Bytes to clients; those of masqueraded destinations.
    pub bytes_out: u64,
}

/// A service or destination as the kernel has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seen<T> {
    /// How it is set up.
    pub what: T,
    /// What it counted.
    pub stats: Stats,
    /// Established connections; of services always 0.
    pub active: u32,
    /// Other connections, those of UDP among them; of services always 0.
    pub inactive: u32,
}

/// How long connections of a namespace are remembered after their last packet, seconds; 0 in a request keeps what is.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Timeouts {
    /// Established ones of TCP.
    pub tcp: u32,
    /// Those of TCP that the client's end was seen of.
    pub tcp_fin: u32,
    /// Those of UDP.
    pub udp: u32,
}

/// One change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// Make a service.
    NewService(Virtual, Service),
    /// Change one and keep its destinations and connections.
    SetService(Virtual, Service),
    /// Delete one with its destinations.
    DelService(Virtual),
    /// Make a destination.
    NewDest(Virtual, SocketAddr, Destination),
    /// Change one and keep its connections.
    SetDest(Virtual, SocketAddr, Destination),
    /// Delete one.
    DelDest(Virtual, SocketAddr),
    /// Change the namespace's timeouts.
    SetTimeouts(Timeouts),
}

/// As errors name it.
impl std::fmt::Display for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Command::NewService(of, _) => write!(f, "make the virtual service {of}"),
            Command::SetService(of, _) => write!(f, "change the virtual service {of}"),
            Command::DelService(of) => write!(f, "delete the virtual service {of}"),
            Command::NewDest(of, at, _) => write!(f, "make {at} a destination of {of}"),
            Command::SetDest(of, at, _) => write!(f, "change the destination {at} of {of}"),
            Command::DelDest(of, at) => write!(f, "delete the destination {at} of {of}"),
            Command::SetTimeouts(_) => f.write_str("change the timeouts of IPVS"),
        }
    }
}

// Address families, as uapi `linux/socket.h` numbers them.
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;

fn af(v6: bool) -> [u8; 2] {
    if v6 { AF_INET6 } else { AF_INET }.to_ne_bytes()
}

/// `union nf_inet_addr`
fn address(address: IpAddr) -> [u8; 16] {
    let mut bytes = [0; 16];
    match address {
        IpAddr::V4(v4) => bytes[..4].copy_from_slice(&v4.octets()),
        IpAddr::V6(v6) => bytes = v6.octets(),
    }
    bytes
}

/// The mask in the form that the kernel keeps: of IPv4 the mask itself, of IPv6 the length of the prefix.
fn netmask(prefix: u8, v6: bool) -> [u8; 4] {
    match v6 {
        true => u32::from(prefix).to_ne_bytes(),
        false => u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0).to_be_bytes(),
    }
}

fn put_virtual(request: &mut Request, of: &Virtual) {
    request.put(SVC_AF, &af(of.is_ipv6()));
    match of {
        Virtual::Address { at, protocol } => {
            request.put(SVC_PROTOCOL, &u16::from(*protocol).to_ne_bytes());
            request.put(SVC_ADDR, &address(at.ip()));
            request.put(SVC_PORT, &at.port().to_be_bytes());
        }
        Virtual::Mark { mark, .. } => request.put(SVC_FWMARK, &mark.to_ne_bytes()),
    }
}

fn put_service(request: &mut Request, of: &Virtual, service: Option<&Service>) {
    request.nest(ATTR_SERVICE, |request| {
        put_virtual(request, of);
        let Some(service) = service else { return };
        request.put_text(SVC_SCHED_NAME, &service.scheduler);
        let flags = [service.flags.to_ne_bytes(), u32::MAX.to_ne_bytes()].concat();
        request.put(SVC_FLAGS, &flags);
        request.put(SVC_TIMEOUT, &service.timeout.to_ne_bytes());
        request.put(SVC_NETMASK, &netmask(service.prefix, of.is_ipv6()));
    });
}

fn put_destination(request: &mut Request, at: &SocketAddr, destination: Option<&Destination>) {
    request.nest(ATTR_DEST, |request| {
        request.put(DEST_ADDR, &address(at.ip()));
        request.put(DEST_PORT, &at.port().to_be_bytes());
        request.put(DEST_ADDR_FAMILY, &af(at.is_ipv6()));
        let Some(destination) = destination else { return };
        request.put(DEST_FWD_METHOD, &destination.forward.to_ne_bytes());
        request.put(DEST_WEIGHT, &destination.weight.to_ne_bytes());
        request.put(DEST_U_THRESH, &destination.upper.to_ne_bytes());
        request.put(DEST_L_THRESH, &destination.lower.to_ne_bytes());
    });
}

impl Command {
    pub(super) fn request(&self, family: Id) -> Request {
        let number = match self {
            Command::NewService(..) => NEW_SERVICE,
            Command::SetService(..) => SET_SERVICE,
            Command::DelService(_) => DEL_SERVICE,
            Command::NewDest(..) => NEW_DEST,
            Command::SetDest(..) => SET_DEST,
            Command::DelDest(..) => DEL_DEST,
            Command::SetTimeouts(_) => SET_CONFIG,
        };
        let mut request = family.request(number, 0);
        match self {
            Command::NewService(of, service) | Command::SetService(of, service) => {
                put_service(&mut request, of, Some(service));
            }
            Command::DelService(of) => put_service(&mut request, of, None),
            Command::NewDest(of, at, destination) | Command::SetDest(of, at, destination) => {
                put_service(&mut request, of, None);
                put_destination(&mut request, at, Some(destination));
            }
            Command::DelDest(of, at) => {
                put_service(&mut request, of, None);
                put_destination(&mut request, at, None);
            }
            Command::SetTimeouts(Timeouts { tcp, tcp_fin, udp }) => {
                request.put(ATTR_TIMEOUT_TCP, &tcp.to_ne_bytes());
                request.put(ATTR_TIMEOUT_TCP_FIN, &tcp_fin.to_ne_bytes());
                request.put(ATTR_TIMEOUT_UDP, &udp.to_ne_bytes());
            }
        }
        request
    }
}

pub(super) fn get_services(family: Id) -> Request {
    family.request(GET_SERVICE, DUMP)
}

pub(super) fn get_destinations(family: Id, of: &Virtual) -> Request {
    let mut request = family.request(GET_DEST, DUMP);
    put_service(&mut request, of, None);
    request
}

fn u16_of(value: Value<'_>) -> Option<u16> {
    value.bytes().map(u16::from_ne_bytes)
}

fn u32_of(value: Value<'_>) -> Option<u32> {
    value.bytes().map(u32::from_ne_bytes)
}

fn ip_of(value: Value<'_>, v6: bool) -> Option<IpAddr> {
    let bytes: [u8; 16] = value.bytes()?;
    Some(match v6 {
        true => bytes.into(),
        false => [bytes[0], bytes[1], bytes[2], bytes[3]].into(),
    })
}

/// `IPVS_STATS_ATTR_*`
fn stats(attributes: Attributes<'_>) -> Stats {
    let mut stats = Stats::default();
    for (kind, value) in attributes {
        let Some(number) = value.bytes().map(u64::from_ne_bytes) else { continue };
        match kind {
            1 => stats.connections = number,
            4 => stats.bytes_in = number,
            5 => stats.bytes_out = number,
            _ => {}
        }
    }
    stats
}

/// What is in the one attribute of an answer that counts.
fn inside(mut attributes: Attributes<'_>, wanted: u16) -> Option<Attributes<'_>> {
    attributes.find(|(kind, _)| *kind == wanted).map(|(_, value)| value.nested())
}

pub(super) fn read_service(attributes: Attributes<'_>) -> Option<(Virtual, Seen<Service>)> {
    let inner = inside(attributes, ATTR_SERVICE)?;
    let get = |wanted| { inner }.find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    let v6 = match u16_of(get(SVC_AF)?)? {
        AF_INET => false,
        AF_INET6 => true,
        _ => return None,
    };
    let of = match get(SVC_FWMARK).and_then(u32_of) {
        Some(mark) => Virtual::Mark { mark, v6 },
        None => Virtual::Address {
            at: SocketAddr::new(ip_of(get(SVC_ADDR)?, v6)?, get(SVC_PORT)?.u16()?),
            protocol: u8::try_from(u16_of(get(SVC_PROTOCOL)?)?).ok()?,
        },
    };
    let flags: [u8; 8] = get(SVC_FLAGS)?.bytes()?;
    let mask: [u8; 4] = get(SVC_NETMASK)?.bytes()?;
    let prefix = match v6 {
        true => u32::from_ne_bytes(mask),
        false => u32::from_be_bytes(mask).count_ones(),
    };
    let service = Service {
        scheduler: get(SVC_SCHED_NAME)?.text(),
        flags: u32::from_ne_bytes([flags[0], flags[1], flags[2], flags[3]]) & !flags::HASHED,
        timeout: u32_of(get(SVC_TIMEOUT)?)?,
        prefix: u8::try_from(prefix).ok()?,
    };
    let stats = get(SVC_STATS64).map(|value| stats(value.nested())).unwrap_or_default();
    Some((of, Seen { what: service, stats, active: 0, inactive: 0 }))
}

/// A destination of a service of that family; kernels before 3.18 do not tell its own.
pub(super) fn read_destination(
    attributes: Attributes<'_>,
    v6: bool,
) -> Option<(SocketAddr, Seen<Destination>)> {
    let inner = inside(attributes, ATTR_DEST)?;
    let get = |wanted| { inner }.find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    let number = |wanted| get(wanted).and_then(u32_of);
    let v6 = get(DEST_ADDR_FAMILY).and_then(u16_of).map_or(v6, |af| af == AF_INET6);
    let at = SocketAddr::new(ip_of(get(DEST_ADDR)?, v6)?, get(DEST_PORT)?.u16()?);
    let what = Destination {
        forward: number(DEST_FWD_METHOD)?,
        weight: number(DEST_WEIGHT)?,
        upper: number(DEST_U_THRESH)?,
        lower: number(DEST_L_THRESH)?,
    };
    let stats = get(DEST_STATS64).map(|value| stats(value.nested())).unwrap_or_default();
    let (active, inactive) = (number(DEST_ACTIVE_CONNS)?, number(DEST_INACT_CONNS)?);
    Some((at, Seen { what, stats, active, inactive }))
}

pub(super) fn read_timeouts(attributes: Attributes<'_>) -> Option<Timeouts> {
    let get = |wanted| { attributes }.find(|(kind, _)| *kind == wanted).and_then(|(_, value)| u32_of(value));
    Some(Timeouts {
        tcp: get(ATTR_TIMEOUT_TCP)?,
        tcp_fin: get(ATTR_TIMEOUT_TCP_FIN)?,
        udp: get(ATTR_TIMEOUT_UDP)?,
    })
}
