//! The accept loop of one listening socket.

use super::{
    flow::{self, Accepted},
    leg::Leg,
};
use crate::dataplane::userspace::{context::Context, listen::ListenSocket, ready};
use rustix::{
    io::Errno,
    net::{SocketFlags, acceptfrom_with},
};
use std::{io, net::SocketAddr, os::fd::OwnedFd, rc::Rc, sync::Arc, time::Duration};
use tokio::{
    io::unix::AsyncFd,
    net::TcpStream,
    task::{spawn_local, yield_now},
    time::sleep,
};

/// Connections accepted in one go before others get a turn.
const BATCH: usize = 64;
/// Waits after a shortage of descriptors or memory, doubled each time.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// Serves a socket until it is closed. It takes no more flows than the worker may have: the rest waits in the accept
/// queue, and beyond that in the kernel's hands.
pub(in super::super) async fn serve(context: Rc<Context>, socket: Arc<ListenSocket>) {
    let mut wait = BACK_OFF.0;
    while !socket.closing() {
        if !socket.listens() {
            socket.wake.notified().await;
            continue;
        }
        // Registered anew after every gate change: an event loop keeps a hang-up for good.
        match ready::listening(&socket) {
            Ok(ready) => accept_while_open(&context, &socket, &ready, &mut wait).await,
            Err(e) => shortage(&socket, &e, &mut wait).await,
        }
    }
}

/// Accepts until the gate changes.
async fn accept_while_open(
    context: &Rc<Context>,
    socket: &Arc<ListenSocket>,
    ready: &AsyncFd<Arc<ListenSocket>>,
    wait: &mut Duration,
) {
    loop {
        if !context.has_room() {
            socket.owner.load().view.load().stats.limited();
            tokio::select! {
                biased;
                () = socket.wake.notified() => return,
                () = context.wait_for_room() => continue,
            }
        }
        let mut guard = tokio::select! {
            biased;
            () = socket.wake.notified() => return,
            guard = ready.readable() => match guard {
                Ok(guard) => guard,
                Err(e) => return shortage(socket, &e, wait).await,
            },
        };
        for _ in 0..BATCH {
            if !context.has_room() {
                break;
            }
            match accept(socket) {
                Ok((client, peer)) => {
                    *wait = BACK_OFF.0;
                    if let Err(e) = begin(context, socket, client, peer) {
                        shortage(socket, &e, wait).await;
                    }
                }
                Err(Errno::AGAIN) => {
                    guard.clear_ready();
                    break;
                }
                // The gate was shut, and whoever did that wakes this task.
                Err(Errno::INVAL) => return,
                Err(e @ (Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM)) => {
                    shortage(socket, &e.into(), wait).await;
                    break;
                }
                // accept(2): errors of the connection that was to be accepted; the next one may be fine.
                Err(e) => tracing::debug!(address = %socket.address, error = %e, "accept"),
            }
        }
        drop(guard);
        yield_now().await;
    }
}

fn accept(socket: &ListenSocket) -> rustix::io::Result<(OwnedFd, Option<SocketAddr>)> {
    let (client, peer) = acceptfrom_with(&socket.socket, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC)?;
    Ok((client, peer.and_then(|peer| peer.try_into().ok())))
}

/// Starts the task of an accepted connection.
fn begin(
    context: &Rc<Context>,
    socket: &ListenSocket,
    client: OwnedFd,
    peer: Option<SocketAddr>,
) -> io::Result<()> {
    // A client that has gone already has no address.
    let Some(peer) = peer else { return Ok(()) };
    let client = Leg::new(TcpStream::from_std(client.into())?);
    let frontend = socket.owner.load_full();
    let ticket = context.enter(frontend.id);
    let at = ticket.at();
    let accepted = Accepted { client, peer, port: socket.address.port(), frontend, ticket };
    let task = spawn_local(flow::run(Rc::clone(context), accepted));
    context.set_task(at, task.abort_handle());
    Ok(())
}

/// Descriptors or memory ran out: says so, counts it and waits, so that the loop never spins.
async fn shortage(socket: &ListenSocket, e: &io::Error, wait: &mut Duration) {
    socket.owner.load().view.load().stats.limited();
    tracing::warn!(address = %socket.address, error = %e, wait_ms = wait.as_millis(), "cannot take connections");
    sleep(*wait).await;
    *wait = (*wait * 2).min(BACK_OFF.1);
}
