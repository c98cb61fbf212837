//! Binding: one UDP socket and one TCP listener for each address, on the same port.

use crate::config::DnsError;
use socket2::{Domain, Protocol, Socket, Type};
use std::{io, net::SocketAddr};
use tokio::net::{TcpListener, UdpSocket};

/// Tries to find a port that is free for both protocols, when the kernel chooses it.
const TRIES: usize = 32;

/// Receive buffer asked of the kernel, octets: a burst of some thousand queries. The kernel may give less.
const UDP_BUFFER: usize = 1 << 20;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 256;

/// Both sockets of one address.
#[derive(Debug)]
pub(super) struct Bound {
    pub(super) address: SocketAddr,
    /// One for each worker: the kernel spreads the clients over them.
    pub(super) udp: Vec<UdpSocket>,
    pub(super) tcp: TcpListener,
}

pub(super) fn all(addresses: &[SocketAddr], workers: usize) -> Result<Vec<Bound>, DnsError> {
    addresses.iter().map(|address| one(*address, workers)).collect()
}

fn one(wanted: SocketAddr, workers: usize) -> Result<Bound, DnsError> {
    let mut tries = if wanted.port() == 0 { TRIES } else { 1 };
    loop {
        tries -= 1;
        let taken = |e| DnsError::bind(wanted, "UDP", e);
        // Without SO_REUSEPORT first: with it the sockets of another agent of this user would be shared.
        let address = match wanted.port() {
            0 => udp(wanted, false).and_then(|udp| udp.local_addr()).map_err(taken)?,
            _ => udp(wanted, false).map(|_| wanted).map_err(taken)?,
        };
        let all = (0..workers.max(1)).map(|_| udp(address, true)).collect::<io::Result<_>>();
        match tcp(address) {
            Ok(tcp) => return Ok(Bound { address, udp: all.map_err(taken)?, tcp }),
            Err(e) if tries > 0 && e.kind() == io::ErrorKind::AddrInUse => {}
            Err(e) => return Err(DnsError::bind(wanted, "TCP", e)),
        }
    }
}

fn udp(address: SocketAddr, shared: bool) -> io::Result<UdpSocket> {
    let socket = socket(address, Type::DGRAM, Protocol::UDP)?;
    socket.set_reuse_port(shared)?;
    // A smaller buffer only loses packets earlier in a burst.
    let _ = socket.set_recv_buffer_size(UDP_BUFFER);
    socket.bind(&address.into())?;
    UdpSocket::from_std(socket.into())
}

fn tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket(address, Type::STREAM, Protocol::TCP)?;
    // Connections in TIME_WAIT must not keep a restarted agent off its port.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

fn socket(address: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}
