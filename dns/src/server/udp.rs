//! UDP: a task for each socket, which takes and sends datagrams in batches.

use super::{
    batch::{BATCH, Batch},
    contain::contained,
    quick::Quick,
    respond::{Responder, Verdict},
    supervise::reap,
};
use crate::{
    fast,
    metrics::{Dropped, Transport},
};
use std::{io, net::SocketAddr, os::fd::AsFd as _, sync::Arc, time::Instant};
use tokio::{io::Interest, net::UdpSocket, task::JoinSet};

/// Batches for each wake-up before others get their turn.
const TURNS: usize = 2;

/// Of a batch of so many queries what they will need is fetched at once first.
const MANY: usize = 8;

/// Serves until it is cancelled; forwards under way end with it. The number of tasks is bounded by
/// [`crate::Limits::forwards`]: the permit is taken before the task is made.
pub(super) async fn serve(socket: UdpSocket, responder: Arc<Responder>) {
    let socket = Arc::new(socket);
    let mut worker = Worker {
        quick: Quick::new(&responder, Transport::Udp),
        forwards: JoinSet::new(),
        socket: Arc::clone(&socket),
        responder,
    };
    let mut batch = Batch::new(socket.local_addr().is_ok_and(|address| address.is_ipv6()));
    loop {
        if let Err(error) = socket.readable().await {
            tracing::error!(%error, "DNS over UDP ends");
            return;
        }
        let mut more = true;
        for _ in 0..TURNS {
            let mut arrived = 0;
            let taken = socket.try_io(Interest::READABLE, || {
                arrived = batch.receive(socket.as_fd())?;
                // Fewer than there is room for: there are no more. Said so, the next wait does not try in vain first.
                if arrived < BATCH { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
            });
            if arrived > 0 {
                worker.handle(&mut batch);
            }
            match taken {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    more = false;
                    break;
                }
                // An ICMP error of an earlier reply; the socket is fine.
                Err(error) => tracing::trace!(%error, "UDP receive"),
            }
        }
        reap(&mut worker.forwards, &worker.responder.metrics);
        if more {
            tokio::task::yield_now().await;
        }
    }
}

/// What one socket's task answers with.
struct Worker {
    socket: Arc<UdpSocket>,
    responder: Arc<Responder>,
    quick: Quick,
    forwards: JoinSet<()>,
}

impl Worker {
    fn handle(&mut self, batch: &mut Batch) {
        let begun = Instant::now();
        let responder = Arc::clone(&self.responder);
        let view = responder.view();
        let context = responder.context(&view);
        if batch.packets().len() >= MANY {
            contained(&responder.metrics, || fast::warm(&context, batch.packets()));
        }
        batch.answer(|packet, client, out| {
            match self.quick.answer((&responder, &context), packet, client, begun, out) {
                None => true,
                Some(verdict) => self.reply(verdict, client, out),
            }
        });
        let lost = batch.send(self.socket.as_fd());
        (0..lost).for_each(|_| self.responder.metrics.dropped(Dropped::SendFailed));
        self.quick.tally.flush(begun.elapsed());
    }

    /// Does what was decided. Whether there is a reply to send with the batch.
    fn reply(&mut self, verdict: Verdict, client: SocketAddr, out: &mut Vec<u8>) -> bool {
        match verdict {
            Verdict::Drop => false,
            Verdict::Reply(reply) => {
                *out = reply;
                !out.is_empty()
            }
            Verdict::Forward(pending) => {
                let (socket, responder) = (Arc::clone(&self.socket), Arc::clone(&self.responder));
                self.forwards.spawn(async move {
                    let reply = responder.forward(*pending).await;
                    if reply.is_empty() || socket.try_send_to(&reply, client).is_err() {
                        responder.metrics.dropped(Dropped::SendFailed);
                    }
                });
                false
            }
        }
    }
}
