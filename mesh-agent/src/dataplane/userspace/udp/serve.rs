//! The receiving loop of one UDP socket: datagrams to sessions.

use super::{
    batch::{self, Received},
    session::{Key, Session, Table, pump},
};
use crate::{
    dataplane::userspace::{
        choose::{NoChoice, Seeker, choose},
        context::Context,
        listen::ListenSocket,
        ready,
    },
    plan::BackendId,
};
use std::{io, os::fd::AsRawFd, rc::Rc, sync::Arc, time::Instant};
use tokio::{
    task::{spawn_local, yield_now},
    time::sleep,
};

/// Batches taken before others get a turn.
const TURNS: usize = 4;
/// Wait before a socket is registered again when the system had no room for it.
const RETRY: std::time::Duration = std::time::Duration::from_millis(100);

/// Serves a socket until it is closed; its sessions end with it.
///
/// A new client without a backend is answered by the kernel under `reject` (see [`ListenSocket::set_gate`]); else its
/// datagrams are dropped. `hold` drops them too: a datagram has no connection that could wait.
pub(in super::super) async fn serve(context: Rc<Context>, socket: Arc<ListenSocket>) {
    if socket.address.ip().is_unspecified()
        && let Err(e) = batch::report_local_address(&*socket, socket.address.is_ipv6())
    {
        tracing::warn!(address = %socket.address, error = %e, "answers may leave from another local address");
    }
    let ready = loop {
        match ready::listening(&socket) {
            Ok(ready) => break ready,
            Err(e) if socket.closing() => {
                return tracing::debug!(address = %socket.address, error = %e, "closed before it was served");
            }
            Err(e) => {
                tracing::warn!(address = %socket.address, error = %e, "cannot take datagrams");
                sleep(RETRY).await;
            }
        }
    };
    let table = Table::default();
    while !socket.closing() {
        let mut guard = tokio::select! {
            biased;
            () = socket.wake.notified() => continue,
            guard = ready.readable() => match guard {
                Ok(guard) => guard,
                Err(_) => break,
            },
        };
        for _ in 0..TURNS {
            match batch::receive(socket.as_raw_fd(), |batch| forward(&context, &socket, &table, batch)) {
                // Fewer than asked for: there was no more. New ones wake again, for readiness comes by edges.
                Ok(n) if n < batch::BATCH => {
                    guard.clear_ready();
                    break;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    guard.clear_ready();
                    break;
                }
                // An error of an earlier answer, such as an unreachable client; reading it has cleared it.
                Ok(_) | Err(_) => {}
            }
        }
        drop(guard);
        yield_now().await;
    }
    for session in table.borrow().values() {
        session.retire();
    }
}

/// Sends each datagram to its session's backend; runs of one client go together. Returns how many there were.
fn forward(
    context: &Rc<Context>,
    socket: &Arc<ListenSocket>,
    table: &Table,
    batch: &[Received<'_>],
) -> usize {
    let now = Instant::now();
    for run in batch.chunk_by(|a, b| a.from == b.from && a.to == b.to) {
        let Some(client) = run[0].from else { continue };
        let key = (client, run[0].to);
        let found = table.borrow().get(&key).cloned();
        let mut rest = run;
        let mut refused = None;
        if let Some(session) = found {
            if !session.slot.leaves() && !session.refused.get() && is_current(socket, &session) {
                match session.send(rest, now) {
                    Ok(()) => continue,
                    Err(sent) => rest = &rest[sent..],
                }
            }
            refused = session.refused.get().then(|| session.slot.id.clone());
            session.retire();
        }
        if let Some(session) = open(context, socket, table, key, refused, now) {
            // What a fresh backend refuses is known at the next datagram.
            let _ = session.send(rest, now);
        }
    }
    batch.len()
}

fn is_current(socket: &ListenSocket, session: &Session) -> bool {
    socket.owner.load().id == session.frontend
}

/// Opens a session for a client that has none, away from the backend that `refused` it if there is another.
fn open(
    context: &Rc<Context>,
    socket: &Arc<ListenSocket>,
    table: &Table,
    key: Key,
    refused: Option<BackendId>,
    now: Instant,
) -> Option<Rc<Session>> {
    let frontend = socket.owner.load_full();
    let view = frontend.view.load_full();
    if !view.allows(key.0.ip()) {
        view.stats.denied();
        return None;
    }
    if !context.has_room() {
        view.stats.limited();
        return None;
    }
    let tried: Vec<BackendId> = refused.into_iter().collect();
    let seeker = Seeker {
        client: key.0.ip(),
        port_offset: socket.address.port().saturating_sub(frontend.key.ports.first()),
        tried: &tried,
        now,
        random: context.random(),
    };
    let chosen = match choose(&frontend, &view, seeker) {
        Err(NoChoice::NoBackend) if !tried.is_empty() => {
            choose(&frontend, &view, Seeker { tried: &[], ..seeker })
        }
        other => other,
    };
    let chosen = match chosen {
        Ok(chosen) => chosen,
        Err(NoChoice::NoBackend) => {
            view.stats.no_backend();
            return None;
        }
        Err(NoChoice::Limited) => {
            view.stats.limited();
            return None;
        }
    };
    let session = match Session::open(frontend.id, &chosen, now) {
        Ok(session) => session,
        Err(e) => {
            tracing::debug!(backend = %chosen.slot.id, error = %e, "UDP session");
            view.stats.limited();
            return None;
        }
    };
    chosen.slot.stats.established();
    let ticket = context.enter(frontend.id);
    ticket.set_slot(Some(&chosen.slot));
    let at = ticket.at();
    let idle = view.frontend.idle_timeout.unwrap_or(context.config.udp_idle);
    let place = (Rc::clone(table), key);
    let books = (chosen.guard, ticket);
    let task = spawn_local(pump(Rc::clone(&session), place, books, Arc::clone(socket), idle));
    session.set_task(task.abort_handle());
    context.set_task(at, task.abort_handle());
    table.borrow_mut().insert(key, Rc::clone(&session));
    Some(session)
}
