//! UDP: threads that take and send datagrams in batches.
//!
//! Threads of their own and not tasks of the runtime: its epoll waits for writability as well, so the kernel tells it of
//! every datagram that has left, which is a twentieth of all work here. A thread waits with poll(2), and only when
//! nothing is left to read.

use super::{
    batch::{BATCH, Inbox, Outbox},
    contain::contained,
    feed::Feed,
    quick::Quick,
    respond::{Responder, Verdict},
    supervise::reap,
};
use crate::{
    fast::{self, Query},
    metrics::{Dropped, Transport},
};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use std::{
    io,
    net::{SocketAddr, UdpSocket},
    os::{fd::AsFd as _, unix::net::UnixStream as Pipe},
    sync::Arc,
    thread::JoinHandle,
    time::Instant,
};
use tokio::{runtime::Handle, sync::oneshot, task::JoinSet};

/// Batches of each socket before the thread looks whether it is to end.
const TURNS: usize = 16;

/// Of a batch of so many queries what they will need is fetched at once first.
const MANY: usize = 8;

/// A thread that answers on some sockets. It ends, and has ended, when this is dropped: it waits for no more than the
/// batch at hand.
#[derive(Debug)]
pub(super) struct Worker {
    /// Nothing is ever sent: the other end reads its end.
    stop: Option<Pipe>,
    thread: Option<JoinHandle<()>>,
    /// Nothing is ever sent here either.
    over: oneshot::Receiver<()>,
}

impl Worker {
    /// Serves each socket with the responder beside it; with `together`, replies to one client may leave together.
    /// Forwards run on this runtime and end with the thread; their
    /// number is bounded by [`crate::Limits::forwards`]: the permit is taken before the task is made.
    ///
    /// # Errors
    /// No descriptor or thread can be had.
    pub(super) fn start(
        name: String,
        sockets: Vec<(UdpSocket, Arc<Responder>)>,
        feed: Feed,
        together: bool,
    ) -> io::Result<Worker> {
        let (stop, stopped) = Pipe::pair()?;
        let (alive, over) = oneshot::channel();
        let runtime = Handle::current();
        // It logs where its starter does.
        let log = tracing::dispatcher::get_default(Clone::clone);
        let work = move || {
            let _log = tracing::dispatcher::set_default(&log);
            let _alive: oneshot::Sender<()> = alive;
            let listeners = sockets.into_iter().map(|(socket, responder)| Listener::new(socket, responder));
            let tools = Tools { inbox: Inbox::new(), outbox: Outbox::new(together), feed, runtime };
            if let Err(error) = serve(&mut listeners.collect::<Vec<_>>(), tools, &stopped) {
                tracing::error!(%error, "DNS over UDP ends");
            }
        };
        let thread = std::thread::Builder::new().name(name).spawn(work)?;
        Ok(Worker { stop: Some(stop), thread: Some(thread), over })
    }

    /// Waits for the thread's end, which is a defect; panics as it did.
    pub(super) async fn ended(mut self) {
        let _ = (&mut self.over).await;
        if let Some(Err(panic)) = self.thread.take().map(JoinHandle::join) {
            std::panic::resume_unwind(panic);
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        drop(self.stop.take());
        // How it ended no longer matters.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// What the sockets of a thread share.
struct Tools {
    inbox: Inbox,
    outbox: Outbox,
    feed: Feed,
    runtime: Handle,
}

fn serve(listeners: &mut [Listener], mut tools: Tools, stopped: &Pipe) -> io::Result<()> {
    let sockets: Vec<Arc<UdpSocket>> = listeners.iter().map(|l| Arc::clone(&l.socket)).collect();
    let fds = [stopped.as_fd()].into_iter().chain(sockets.iter().map(|socket| socket.as_fd()));
    let mut fds: Vec<PollFd<'_>> = fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
    loop {
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) => {}
            Err(Errno::EINTR) => continue,
            Err(error) => return Err(error.into()),
        }
        let (stop, fds) = fds.split_at(1);
        if stop.iter().any(|fd| fd.any() != Some(false)) {
            return Ok(());
        }
        let ready = |fd: &PollFd<'_>| fd.any() != Some(false);
        let mut ready: Vec<&mut Listener> =
            listeners.iter_mut().zip(fds).filter(|(_, fd)| ready(fd)).map(|(listener, _)| listener).collect();
        for _ in 0..TURNS {
            ready.retain_mut(|listener| listener.turn(&mut tools));
            if ready.is_empty() {
                break;
            }
        }
    }
}

/// One socket and what answers on it.
struct Listener {
    socket: Arc<UdpSocket>,
    is_ipv6: bool,
    responder: Arc<Responder>,
    quick: Quick,
    forwards: JoinSet<()>,
}

impl Listener {
    fn new(socket: UdpSocket, responder: Arc<Responder>) -> Listener {
        Listener {
            is_ipv6: socket.local_addr().is_ok_and(|address| address.is_ipv6()),
            socket: Arc::new(socket),
            quick: Quick::new(&responder, Transport::Udp),
            forwards: JoinSet::new(),
            responder,
        }
    }

    /// Answers a batch. Whether there may be more.
    fn turn(&mut self, tools: &mut Tools) -> bool {
        let more = match tools.inbox.receive(self.socket.as_fd(), self.is_ipv6) {
            Ok(arrived) => {
                contained(&self.responder.metrics, || tools.feed.catch_up());
                self.handle(tools);
                // Fewer than there is room for: there are no more.
                arrived == BATCH
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            // An ICMP error of an earlier reply; the socket is fine.
            Err(error) => {
                tracing::trace!(%error, "UDP receive");
                true
            }
        };
        reap(&mut self.forwards, &self.responder.metrics);
        more
    }

    fn handle(&mut self, Tools { inbox, outbox, runtime, .. }: &mut Tools) {
        let begun = Instant::now();
        let responder = Arc::clone(&self.responder);
        let view = responder.view();
        let context = responder.context(&view);
        let read = || {
            let queries: Vec<_> = inbox.packets().map(|(packet, _)| Query::read(packet)).collect();
            if queries.len() >= MANY {
                fast::warm(&context, queries.iter().flatten());
            }
            queries
        };
        // What brings out a defect is answered like what cannot be read.
        let read = contained(&responder.metrics, read).unwrap_or_default();
        let queries = read.iter().map(Option::as_ref).chain(std::iter::repeat(None));
        for ((packet, client), query) in inbox.packets().zip(queries) {
            outbox.put(client, |out| {
                let (with, client) = ((&*responder, &context), client.address);
                match self.quick.answer(with, (packet, query), client, begun, out) {
                    None => true,
                    Some(verdict) => self.reply(verdict, client, out, runtime),
                }
            });
        }
        let lost = outbox.send(self.socket.as_fd());
        (0..lost).for_each(|_| self.responder.metrics.dropped(Dropped::SendFailed));
        self.quick.tally.flush(begun.elapsed());
    }

    /// Does what was decided. Whether there is a reply to send with the batch.
    fn reply(&mut self, verdict: Verdict, client: SocketAddr, out: &mut Vec<u8>, runtime: &Handle) -> bool {
        match verdict {
            Verdict::Drop => false,
            Verdict::Reply(reply) => {
                *out = reply;
                !out.is_empty()
            }
            Verdict::Forward(pending) => {
                let (socket, responder) = (Arc::clone(&self.socket), Arc::clone(&self.responder));
                let forward = async move {
                    let reply = responder.forward(*pending).await;
                    if reply.is_empty() || socket.send_to(&reply, client).is_err() {
                        responder.metrics.dropped(Dropped::SendFailed);
                    }
                };
                self.forwards.spawn_on(forward, runtime);
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{metrics::Metrics, view::DnsView};
    use arc_swap::ArcSwap;
    use mesh_control::model::Snapshot;
    use std::time::Duration;
    use tokio::sync::watch;

    #[tokio::test]
    async fn a_worker_ends_with_its_owner_and_its_sockets_with_it() {
        let (_sender, snapshots) = watch::channel(Arc::new(Snapshot::empty("n1".parse().unwrap())));
        let live = Arc::new(ArcSwap::from_pointee(DnsView::new(&snapshots.borrow().clone())));
        let metrics = Metrics::register(&prometheus::Registry::new()).unwrap();
        let feed = Feed::new(snapshots, live, metrics);
        let worker = Worker::start("dns-udp-test".into(), Vec::new(), feed, true).unwrap();
        let (probe, over) = oneshot::channel::<()>();
        let waits = tokio::spawn(async move {
            worker.ended().await;
            drop(probe);
        });
        tokio::task::yield_now().await;
        waits.abort();
        // The worker has ended before what waited for it is gone.
        tokio::time::timeout(Duration::from_secs(10), over).await.expect("it ends").unwrap_err();
    }
}
