//! One path, asked; and the questions of others, answered.

use super::{
    verdict::{Path, SMALLER},
    wire::{LEAST, answer, answers, ask},
};
use crate::sys::datagram::never_fragment;
use std::{
    collections::BTreeMap,
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

/// So often each size is tried, and so long after it its answer may come.
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
    let payload = |packet: u32| usize::try_from(packet.saturating_sub(headers(to))).unwrap_or_default();
    let smaller = SMALLER.into_iter().filter(|size| *size < ends.full);
    let sizes: Vec<u32> = std::iter::once(ends.full).chain(smaller).collect();
    let payloads: Vec<usize> = sizes.iter().map(|size| payload(*size)).chain([LEAST]).collect();
    let hears = open(from, to, ends.port).await?;
    let heard = ask_all(&hears, &hears, &payloads).await?;
    let least = u32::try_from(LEAST).unwrap_or_default() + headers(to);
    let underlay = heard.map(|index| sizes.get(index).copied().unwrap_or(least));
    let overlay = match ends.overlay {
        Some((from, to)) if underlay.is_some() => {
            ask_all(&open(from, to, ends.port).await?, &hears, &[LEAST]).await?.is_some()
        }
        _ => ends.overlay.is_none(),
    };
    Ok(Path { underlay, overlay })
}

async fn open(from: IpAddr, to: IpAddr, port: u16) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((from, 0)).await?;
    never_fragment(&socket, to.is_ipv6())?;
    socket.connect((to, port)).await?;
    Ok(socket)
}

/// Asks questions of all `sizes`, the largest first, and returns the index of the largest that was answered.
async fn ask_all(asks: &UdpSocket, hears: &UdpSocket, sizes: &[usize]) -> io::Result<Option<usize>> {
    let port = hears.local_addr()?.port();
    let first: u64 = rand::random();
    let nonce = |index: usize| first.wrapping_add(index as u64);
    let mut best = None;
    for _ in 0..TRIES {
        for (index, size) in sizes.iter().enumerate().take(best.unwrap_or(sizes.len())) {
            // What the link does not take, or nobody listens for, is as good as lost.
            let _refused: io::Result<usize> = asks.send(&ask(nonce(index), port, *size)).await;
        }
        let until = Instant::now() + WITHIN;
        let mut buffer = [0; LEAST];
        while best != Some(0)
            && let Ok(received) = timeout_at(until, hears.recv(&mut buffer)).await
        {
            // An error is of a question that came back.
            let Ok(length) = received else { continue };
            let index = (0..best.unwrap_or(sizes.len())).find(|i| answers(&buffer[..length], nonce(*i)));
            best = index.or(best);
        }
        if best == Some(0) {
            break;
        }
    }
    Ok(best)
}

/// By each address that questions may come from, the address on the underlay that answers go to.
pub(super) type Known = BTreeMap<IpAddr, IpAddr>;

/// Answers through `underlay` what those in `known` ask at `socket`, for ever.
pub(super) async fn respond(
    socket: Arc<UdpSocket>,
    underlay: Arc<UdpSocket>,
    known: watch::Receiver<Arc<Known>>,
) {
    // Of a longer one the rest is padding.
    let mut buffer = [0; LEAST];
    loop {
        // An error is of a datagram sent before, which somebody did not want.
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else {
            tokio::task::yield_now().await;
            continue;
        };
        let Some(to) = known.borrow().get(&from.ip().to_canonical()).copied() else { continue };
        if let Some((reply, port)) = answer(&buffer[..length]) {
            let _lost: io::Result<usize> = underlay.send_to(&reply, (to, port)).await;
        }
    }
}

/// Where questions are answered.
pub(super) async fn listen(address: IpAddr, port: u16) -> io::Result<UdpSocket> {
    UdpSocket::bind(SocketAddr::new(address, port)).await
}
