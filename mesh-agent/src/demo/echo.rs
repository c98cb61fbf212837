//! The demo's UDP service: answers each datagram with who answered and what came.

use super::whoami::Identity;
use std::time::Duration;
use tokio::net::UdpSocket;

/// Serves until the returned future is dropped.
///
/// The answer is `INSTANCE NODE CLIENT ` followed by the datagram, so that a test can tell who answered.
pub async fn serve(socket: UdpSocket, who: Identity) {
    let mut datagram = vec![0u8; 65_535];
    loop {
        let Ok((length, client)) = socket.recv_from(&mut datagram).await else {
            // A past answer came back as an ICMP error; the socket itself is fine.
            tokio::time::sleep(Duration::from_millis(1)).await;
            continue;
        };
        let mut answer = format!("{} {} {client} ", who.instance, who.node).into_bytes();
        answer.extend_from_slice(&datagram[..length]);
        // Too long to send back, or the client is gone: UDP promises nothing.
        drop(socket.send_to(&answer, client).await);
    }
}
