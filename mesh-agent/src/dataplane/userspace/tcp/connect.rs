//! Connecting to a backend.

use rustix::{
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, connect, getpeername, socket_with, sockopt},
};
use std::{io, net::SocketAddr, time::Duration};
use tokio::{net::TcpStream, time::timeout};

/// Connects within `limit`, with Nagle's algorithm off and keep-alive on.
///
/// # Errors
/// What the system says; `TimedOut` when the limit passed.
pub(super) async fn dial(address: SocketAddr, limit: Duration) -> io::Result<TcpStream> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_tcp_nodelay(&socket, true)?;
    sockopt::set_socket_keepalive(&socket, true)?;
    let pending = match connect(&socket, &address) {
        Ok(()) => false,
        // On one machine the handshake is over before connect() returns, though it says that it is not: a peer name
        // tells so without another turn of the event loop.
        Err(Errno::INPROGRESS) => !matches!(getpeername(&socket), Ok(Some(_))),
        Err(e) => return Err(e.into()),
    };
    let stream = TcpStream::from_std(socket.into())?;
    if pending {
        match timeout(limit, stream.writable()).await {
            Ok(ready) => ready?,
            Err(_) => return Err(io::ErrorKind::TimedOut.into()),
        }
        if let Some(e) = stream.take_error()? {
            return Err(e);
        }
    }
    Ok(stream)
}

/// Whether an error is this node's own shortage rather than the backend's fault.
pub(super) fn is_shortage(e: &io::Error) -> bool {
    let code = e.raw_os_error().map(Errno::from_raw_os_error);
    matches!(
        code,
        Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM | Errno::ADDRNOTAVAIL | Errno::AGAIN)
    )
}
