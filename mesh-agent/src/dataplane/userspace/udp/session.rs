//! One UDP session: a client's address, a socket connected to the backend, and the task that carries answers back.

use super::batch;
use crate::dataplane::userspace::{
    choose::Chosen, context::Ticket, listen::ListenSocket, ready, stats::ActiveGuard, view::BackendSlot,
};
use socket2::{Domain, Socket, Type};
use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    os::fd::AsRawFd,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{io::unix::AsyncFd, task::AbortHandle, time::sleep};

/// What tells sessions of one socket apart: the client, and the local address it sent to where the socket has many.
pub(super) type Key = (SocketAddr, Option<IpAddr>);
/// The sessions of one socket.
pub(super) type Table = Rc<RefCell<HashMap<Key, Rc<Session>>>>;

/// A session.
#[derive(Debug)]
pub(super) struct Session {
    /// [`crate::dataplane::userspace::view::FrontendState::id`].
    pub(super) frontend: u64,
    pub(super) slot: Arc<BackendSlot>,
    upstream: AsyncFd<Socket>,
    used: Cell<Instant>,
    /// The backend answered ICMP port unreachable: the next datagram goes elsewhere.
    pub(super) refused: Cell<bool>,
    /// Another session took its place, or it expired: its end is no reset.
    ended: Cell<bool>,
    task: RefCell<Option<AbortHandle>>,
}

impl Session {
    /// Connects a socket to the backend.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn open(frontend: u64, chosen: &Chosen, now: Instant) -> io::Result<Rc<Session>> {
        let kind = Type::DGRAM.nonblocking().cloexec();
        let socket = Socket::new(Domain::for_address(chosen.address), kind, None)?;
        socket.connect(&chosen.address.into())?;
        Ok(Rc::new(Session {
            frontend,
            slot: Arc::clone(&chosen.slot),
            upstream: ready::connected(socket)?,
            used: Cell::new(now),
            refused: Cell::new(false),
            ended: Cell::new(false),
            task: RefCell::default(),
        }))
    }

    /// Remembers the task that carries its answers.
    pub(super) fn set_task(&self, task: AbortHandle) {
        *self.task.borrow_mut() = Some(task);
    }

    /// Ends it because something else serves the client now.
    pub(super) fn retire(&self) {
        self.ended.set(true);
        if let Some(task) = &*self.task.borrow() {
            task.abort();
        }
    }

    /// Sends datagrams to the backend. What its socket does not take at once is dropped, as UDP may.
    ///
    /// # Errors
    /// How many were sent before the backend refused (`ConnectionRefused` of an earlier datagram).
    pub(super) fn send(&self, data: &[batch::Received<'_>], now: Instant) -> Result<(), usize> {
        self.used.set(now);
        let mut sent = 0;
        while sent < data.len() {
            match batch::send(self.upstream.as_raw_fd(), None, None, &data[sent..]) {
                Ok(n) if n > 0 => {
                    let bytes: usize = data[sent..sent + n].iter().map(|d| d.data.len()).sum();
                    self.slot.stats.bytes_in(bytes as u64);
                    sent += n;
                }
                Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
                    self.refuse();
                    return Err(sent);
                }
                Ok(_) | Err(_) => break,
            }
        }
        Ok(())
    }

    fn refuse(&self) {
        if !self.refused.replace(true) {
            self.slot.stats.failed();
        }
    }
}

/// Takes a session out of its table when its task ends, however that comes, and counts a cut.
struct Entry {
    table: Table,
    key: Key,
    session: Rc<Session>,
    _active: ActiveGuard,
    _ticket: Ticket,
}

impl Drop for Entry {
    fn drop(&mut self) {
        if !self.session.ended.get() {
            self.session.slot.stats.reset();
        }
        let mut table = self.table.borrow_mut();
        if table.get(&self.key).is_some_and(|s| Rc::ptr_eq(s, &self.session)) {
            table.remove(&self.key);
        }
    }
}

/// Carries the backend's answers to the client until the session was idle for `idle`.
pub(super) fn pump(
    session: Rc<Session>,
    (table, key): (Table, Key),
    (active, ticket): (ActiveGuard, Ticket),
    socket: Arc<ListenSocket>,
    idle: Duration,
) -> impl Future<Output = ()> {
    let entry = Entry { table, key, session, _active: active, _ticket: ticket };
    async move {
        let session = &*entry.session;
        loop {
            let left = idle.saturating_sub(session.used.get().elapsed());
            if left.is_zero() {
                session.ended.set(true);
                return;
            }
            // The timer is set once per idle time, not per datagram.
            tokio::select! {
                () = answers(session, &socket, entry.key) => {}
                () = sleep(left) => {}
            }
        }
    }
}

/// Carries answers for as long as the socket works.
async fn answers(session: &Session, socket: &ListenSocket, (client, local): Key) {
    loop {
        let Ok(mut readiness) = session.upstream.ready(ready::DATA_OR_ERROR).await else { return };
        let result = batch::receive(session.upstream.as_raw_fd(), |batch| {
            let bytes: usize = batch.iter().map(|d| d.data.len()).sum();
            session.slot.stats.bytes_out(bytes as u64);
            // A client that takes nothing loses datagrams, as UDP may.
            let _ = batch::send(socket.as_raw_fd(), Some(client), local, batch);
            batch.len()
        });
        match result {
            Ok(n) => {
                session.used.set(Instant::now());
                // Fewer than asked for: there was no more. New ones wake again, for readiness comes by edges.
                if n < batch::BATCH {
                    readiness.clear_ready();
                }
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => readiness.clear_ready(),
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => session.refuse(),
            Err(e) => {
                tracing::debug!(backend = %session.slot.id, error = %e, "UDP session");
                session.refuse();
                readiness.clear_ready();
            }
        }
    }
}
