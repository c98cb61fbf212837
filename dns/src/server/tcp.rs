//! TCP (RFC 7766): many queries on a connection, answered in order.

use super::{
    contain::contained,
    quick::Quick,
    respond::{Responder, Verdict},
    supervise::reap,
};
use crate::{
    fast::Query,
    metrics::{Dropped, Transport},
};
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

/// Room for each read, or the kernel would hand out few octets at a time.
const ROOM: usize = 2048;

/// Replies wait for each other up to so many octets.
const MOST_WAITING: usize = 16 << 10;

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
        reap(&mut connections, &responder.metrics);
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
        let Some(share) = responder.connection(client) else { continue };
        let responder = Arc::clone(&responder);
        connections.spawn(async move {
            responder.metrics.tcp_connections.inc();
            let _open = Open(&responder);
            // How a client ends its connection concerns nobody.
            let _ = connection(stream, client, &responder, idle).await;
            drop((permit, share));
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
    let mut quick = Quick::new(responder, Transport::Tcp);
    let (mut arrived, mut replies, mut reply) = (Vec::with_capacity(ROOM), Vec::new(), Vec::new());
    loop {
        // All queries that are there whole are answered before the replies are sent, in as few segments as may be.
        let begun = Instant::now();
        let mut at = 0;
        while let Some(packet) = message(&arrived[at..]) {
            if packet.len() > MAX_QUERY {
                return flush(&mut stream, &mut replies, idle).await;
            }
            at += 2 + packet.len();
            let verdict = {
                let view = responder.view();
                let query = contained(&responder.metrics, || Query::read(packet)).flatten();
                let with = (responder, &responder.context(&view));
                quick.answer(with, (packet, query.as_ref()), client, begun, &mut reply)
            };
            match verdict {
                None => push(&mut replies, &reply)?,
                Some(Verdict::Drop) => return flush(&mut stream, &mut replies, idle).await,
                Some(Verdict::Reply(other)) => push(&mut replies, &other)?,
                Some(Verdict::Forward(pending)) => {
                    // Nobody waits for another's upstream.
                    flush(&mut stream, &mut replies, idle).await?;
                    push(&mut replies, &responder.forward(*pending).await)?;
                }
            }
            if replies.len() >= MOST_WAITING {
                flush(&mut stream, &mut replies, idle).await?;
            }
        }
        quick.tally.flush(begun.elapsed());
        arrived.drain(..at);
        flush(&mut stream, &mut replies, idle).await?;
        // One limit for the whole message, so that a client that trickles octets does not stay.
        let more = timeout(idle, async {
            while message(&arrived).is_none() {
                if announced(&arrived).is_some_and(|length| length > MAX_QUERY)
                    || stream.read_buf(&mut arrived).await? == 0
                {
                    return Ok::<_, io::Error>(false);
                }
                arrived.reserve(ROOM);
            }
            Ok(true)
        });
        if !more.await?? {
            return Ok(());
        }
    }
}

/// The length that the first message announces.
fn announced(arrived: &[u8]) -> Option<usize> {
    let length = arrived.first_chunk()?;
    Some(usize::from(u16::from_be_bytes(*length)))
}

/// The first message, when it is there whole.
fn message(arrived: &[u8]) -> Option<&[u8]> {
    arrived.get(2..2 + announced(arrived)?)
}

/// Length and message (RFC 7766 section 8).
fn push(replies: &mut Vec<u8>, reply: &[u8]) -> io::Result<()> {
    let size = u16::try_from(reply.len()).map_err(io::Error::other)?;
    replies.extend_from_slice(&size.to_be_bytes());
    replies.extend_from_slice(reply);
    Ok(())
}

async fn flush(stream: &mut TcpStream, replies: &mut Vec<u8>, idle: Duration) -> io::Result<()> {
    if !replies.is_empty() {
        timeout(idle, stream.write_all(replies)).await??;
        replies.clear();
    }
    Ok(())
}
