//! UDP: one task for each address.

use super::respond::{Responder, Verdict};
use crate::metrics::{Dropped, Transport};
use std::{net::SocketAddr, sync::Arc, time::Instant};
use tokio::{net::UdpSocket, task::JoinSet};

/// Datagrams handled for each wake-up before others get their turn.
const BATCH: usize = 64;

/// Most octets of a query; a longer datagram is cut, and then is no whole message.
const MAX_QUERY: usize = 4096;

/// Serves until it is cancelled; forwards under way end with it. The number of tasks is bounded by
/// [`crate::Limits::forwards`]: the permit is taken before the task is made.
pub(super) async fn serve(socket: UdpSocket, responder: Arc<Responder>) {
    let socket = Arc::new(socket);
    let mut forwards = JoinSet::new();
    let mut buffer = vec![0u8; MAX_QUERY];
    loop {
        if let Err(error) = socket.readable().await {
            tracing::error!(%error, "DNS over UDP ends");
            return;
        }
        for _ in 0..BATCH {
            match socket.try_recv_from(&mut buffer) {
                Ok((length, client)) => {
                    handle(&socket, &responder, &mut forwards, &buffer[..length], client);
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                // An ICMP error of an earlier reply; the socket is fine.
                Err(error) => tracing::trace!(%error, "UDP receive"),
            }
        }
        while forwards.try_join_next().is_some() {}
        tokio::task::yield_now().await;
    }
}

fn handle(
    socket: &Arc<UdpSocket>,
    responder: &Arc<Responder>,
    forwards: &mut JoinSet<()>,
    packet: &[u8],
    client: SocketAddr,
) {
    let limited = responder.limited(packet, client, Transport::Udp, Instant::now());
    match limited.unwrap_or_else(|| responder.respond(packet, client, Transport::Udp)) {
        Verdict::Drop => {}
        Verdict::Reply(reply) => send(socket, responder, &reply, client),
        Verdict::Forward(pending) => {
            let (socket, responder) = (Arc::clone(socket), Arc::clone(responder));
            forwards.spawn(async move {
                let reply = responder.forward(*pending).await;
                send(&socket, &responder, &reply, client);
            });
        }
    }
}

/// A full socket buffer loses the reply, as the network might; the client asks again.
fn send(socket: &UdpSocket, responder: &Responder, reply: &[u8], client: SocketAddr) {
    if reply.is_empty() || socket.try_send_to(reply, client).is_err() {
        responder.metrics.dropped(Dropped::SendFailed);
    }
}
