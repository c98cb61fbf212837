//! TCP (RFC 7766): many queries on a connection, answered in order.

use super::respond::{Responder, Verdict};
use crate::metrics::{Dropped, Transport};
use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::timeout,
};

/// Most octets of a query. Only transfers and updates need more, and those are refused.
const MAX_QUERY: usize = 4096;

/// Pause after an accept that failed for want of file descriptors, so as not to spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves until it is cancelled; its connections end with it. `permits` bounds the connections of all listeners.
pub(super) async fn serve(
    listener: TcpListener,
    responder: Arc<Responder>,
    permits: Arc<Semaphore>,
    idle: Duration,
) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = listener.accept().await;
        while connections.try_join_next().is_some() {}
        let (stream, client) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "DNS over TCP: accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
            responder.metrics.dropped(Dropped::TooManyConnections);
            continue;
        };
        let responder = Arc::clone(&responder);
        connections.spawn(async move {
            responder.metrics.tcp_connections.inc();
            let _open = Open(&responder);
            // How a client ends its connection concerns nobody.
            let _ = connection(stream, client, &responder, idle).await;
            drop(permit);
        });
    }
}

/// Counts a connection as long as it lives, also when its task is cancelled.
struct Open<'r>(&'r Responder);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.metrics.tcp_connections.dec();
    }
}

async fn connection(
    mut stream: TcpStream,
    client: SocketAddr,
    responder: &Responder,
    idle: Duration,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0u8; MAX_QUERY];
    loop {
        // One limit for the whole message, so that a client that trickles octets does not stay.
        let Some(length) = timeout(idle, read(&mut stream, &mut buffer)).await?? else { return Ok(()) };
        let packet = &buffer[..length];
        let limited = responder.limited(packet, client, Transport::Tcp, Instant::now());
        let reply = match limited.unwrap_or_else(|| responder.respond(packet, client, Transport::Tcp)) {
            Verdict::Drop => return Ok(()),
            Verdict::Reply(reply) => reply,
            Verdict::Forward(pending) => responder.forward(*pending).await,
        };
        let Ok(size) = u16::try_from(reply.len()) else { return Ok(()) };
        // Length and message in one segment (RFC 7766 section 8).
        let mut message = Vec::with_capacity(reply.len() + 2);
        message.extend_from_slice(&size.to_be_bytes());
        message.extend_from_slice(&reply);
        timeout(idle, stream.write_all(&message)).await??;
    }
}

/// The length of the next message in `buffer`; `None` at the end of the stream or when the message is too long.
async fn read(stream: &mut TcpStream, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    let length = match stream.read_u16().await {
        Ok(length) => usize::from(length),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    let Some(message) = buffer.get_mut(..length) else { return Ok(None) };
    stream.read_exact(message).await?;
    Ok(Some(length))
}
