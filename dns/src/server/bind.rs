//! Binding: one UDP socket and one TCP listener for each address, on the same port.

use super::owner::owner;
use crate::config::DnsError;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::{
    io,
    net::{SocketAddr, UdpSocket},
};
use tokio::net::TcpListener;

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
        let taken = |e| refused(wanted, "UDP", e);
        let (address, udp) = shared(wanted, workers).map_err(taken)?;
        match tcp(address) {
            Ok(tcp) => return Ok(Bound { address, udp, tcp }),
            Err(e) if tries > 0 && e.kind() == io::ErrorKind::AddrInUse => {}
            Err(e) => return Err(refused(wanted, "TCP", e)),
        }
    }
}

fn refused(address: SocketAddr, protocol: &'static str, source: io::Error) -> DnsError {
    let holder = (source.kind() == io::ErrorKind::AddrInUse).then(|| owner(address, protocol)).flatten();
    DnsError::bind(address, protocol, source, holder)
}

/// A socket for each worker. The first gets SO_REUSEPORT only when it has the port: otherwise it would share that of
/// another agent of this user, instead of finding it taken.
fn shared(wanted: SocketAddr, workers: usize) -> io::Result<(SocketAddr, Vec<UdpSocket>)> {
    let first = udp(wanted, false)?;
    let address = first.local_addr()?;
    SockRef::from(&first).set_reuse_port(true)?;
    let others = (1..workers).map(|_| udp(address, true));
    Ok((address, [Ok(first)].into_iter().chain(others).collect::<io::Result<_>>()?))
}

fn udp(address: SocketAddr, shared: bool) -> io::Result<UdpSocket> {
    let socket = socket(address, Type::DGRAM, Protocol::UDP)?;
    socket.set_reuse_port(shared)?;
    // A smaller buffer only loses packets earlier in a burst.
    let _ = socket.set_recv_buffer_size(UDP_BUFFER);
    socket.bind(&address.into())?;
    Ok(socket.into())
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::timeout;

    #[tokio::test]
    async fn workers_share_a_port_that_nobody_else_gets() {
        let bound = all(&["127.0.0.1:0".parse().unwrap()], 4).unwrap();
        let Bound { address, udp, .. } = &bound[0];
        assert_eq!(udp.len(), 4);
        let error = all(&[*address], 4).unwrap_err().to_string();
        let holder = format!("(pid {}) holds it: stop that", std::process::id());
        assert!(error.contains(&holder), "{error}");
        // That all of 64 clients should come to one socket by chance happens once in 4^63 times.
        for _ in 0..64 {
            let client = UdpSocket::bind("127.0.0.1:0").unwrap();
            client.send_to(b"x", address).unwrap();
        }
        let mut counts = [0; 4];
        let arrive = async {
            while counts.iter().sum::<usize>() < 64 {
                for (count, socket) in counts.iter_mut().zip(udp) {
                    *count += usize::from(socket.recv(&mut [0; 8]).is_ok());
                }
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(10), arrive).await.expect("all arrive");
        assert!(counts.iter().filter(|count| **count > 0).count() > 1, "{counts:?}");
    }
}
