//! One path, asked; and the questions of others, answered.

use super::{
    verdict::{Path, SMALLER},
    wire::{LEAST, answer, answers, ask},
};
use crate::sys::datagram::never_fragment;
use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::UdpSocket,
    sync::watch,
    time::{Instant, timeout_at},
};

/// Questions of one size, each answered within [`WITHIN`] or taken for lost.
const TRIES: usize = 3;
const WITHIN: Duration = Duration::from_millis(400);

/// Where a path begins and ends.
#[derive(Clone, Debug)]
pub(super) struct Ends {
    /// This node's and the other's address on the underlay.
    pub(super) underlay: (IpAddr, IpAddr),
    /// Their gateways, of one family.
    pub(super) overlay: Option<(IpAddr, IpAddr)>,
    /// Where the other answers.
    pub(super) port: u16,
    /// Largest packet on the underlay, bytes.
    pub(super) full: u32,
}

/// Bytes of the headers in front of a datagram.
fn headers(address: IpAddr) -> u32 {
    if address.is_ipv4() { 28 } else { 48 }
}

/// Asks for what gets through.
pub(super) async fn path(ends: &Ends) -> io::Result<Path> {
    let (from, to) = ends.underlay;
    let underlay = Asker::new(from, to, ends.port).await?;
    let mut passed = None;
    if underlay.hears(LEAST).await? {
        for size in std::iter::once(ends.full).chain(SMALLER.into_iter().filter(|size| *size < ends.full)) {
            let payload = usize::try_from(size.saturating_sub(headers(to))).unwrap_or_default();
            if underlay.hears(payload).await? {
                passed = Some(size);
                break;
            }
        }
        let least = u32::try_from(LEAST).unwrap_or_default() + headers(to);
        passed = passed.or(Some(least));
    }
    let overlay = match ends.overlay {
        Some((from, to)) if passed.is_some() => Asker::new(from, to, ends.port).await?.hears(LEAST).await?,
        _ => ends.overlay.is_none(),
    };
    Ok(Path { underlay: passed, overlay })
}

struct Asker(UdpSocket);

impl Asker {
    async fn new(from: IpAddr, to: IpAddr, port: u16) -> io::Result<Asker> {
        let socket = UdpSocket::bind((from, 0)).await?;
        never_fragment(&socket, to.is_ipv6())?;
        socket.connect((to, port)).await?;
        Ok(Asker(socket))
    }

    /// Whether a question of so many bytes is answered.
    async fn hears(&self, size: usize) -> io::Result<bool> {
        for _ in 0..TRIES {
            let nonce = rand::random();
            match self.0.send(&ask(nonce, size)).await {
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => return Ok(false),
                // A port that nobody listens on, or no route at the moment: as good as lost.
                Err(_) => continue,
            }
            let until = Instant::now() + WITHIN;
            let mut buffer = [0; LEAST];
            while let Ok(received) = timeout_at(until, self.0.recv(&mut buffer)).await {
                match received {
                    Ok(length) if answers(&buffer[..length], nonce) => return Ok(true),
                    Ok(_) => {}
                    Err(_) => break,
                }
            }
        }
        Ok(false)
    }
}

/// Answers the questions of those in `known`, for ever.
pub(super) async fn respond(socket: UdpSocket, known: watch::Receiver<Arc<BTreeSet<IpAddr>>>) {
    // Of a longer one the rest is padding.
    let mut buffer = [0; LEAST];
    loop {
        // An error is of a datagram sent before, which somebody did not want.
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else {
            tokio::task::yield_now().await;
            continue;
        };
        if !known.borrow().contains(&from.ip().to_canonical()) {
            continue;
        }
        if let Some(reply) = answer(&buffer[..length]) {
            let _lost: io::Result<usize> = socket.send_to(&reply, from).await;
        }
    }
}

/// Where questions are answered.
pub(super) async fn listen(address: IpAddr, port: u16) -> io::Result<UdpSocket> {
    UdpSocket::bind(SocketAddr::new(address, port)).await
}
