//! Registration of sockets with a worker's event loop. Both hold the descriptor open for as long as they are registered.

use super::listen::ListenSocket;
use socket2::Socket;
use std::{io, sync::Arc};
use tokio::io::{Interest, unix::AsyncFd};

/// Registers a listening socket for reading.
///
/// # Errors
/// When the event loop has no room.
pub(super) fn listening(socket: &Arc<ListenSocket>) -> io::Result<AsyncFd<Arc<ListenSocket>>> {
    // SAFETY: the `Arc` inside keeps the socket, which owns its descriptor and never changes it.
    Ok(unsafe { AsyncFd::register_with_interest(Arc::clone(socket), Interest::READABLE) }?)
}

/// What a connected socket is waited for: data, and the ICMP errors that come without any.
pub(super) const DATA_OR_ERROR: Interest = Interest::READABLE.add(Interest::ERROR);

/// Registers a connected socket for [`DATA_OR_ERROR`].
///
/// # Errors
/// When the event loop has no room.
pub(super) fn connected(socket: Socket) -> io::Result<AsyncFd<Socket>> {
    // SAFETY: the socket moves in, owns its descriptor and never changes it.
    Ok(unsafe { AsyncFd::register_with_interest(socket, DATA_OR_ERROR) }?)
}
