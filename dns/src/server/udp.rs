//! UDP: a task for each socket, which takes and sends datagrams in batches.

use super::{
    batch::{BATCH, Batch},
    respond::{Responder, STEP, Verdict, mixed},
    tally::Tally,
};
use crate::{
    fast::{self, Outcome, Query},
    metrics::{Dropped, Metrics, Transport},
};
use std::{
    net::SocketAddr,
    os::fd::AsFd as _,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Instant,
};
use tokio::{io::Interest, net::UdpSocket, task::JoinSet};

/// Batches for each wake-up before others get their turn.
const TURNS: usize = 8;

/// Of a batch of so many queries what they will need is fetched at once first.
const MANY: usize = 8;

/// Serves until it is cancelled; forwards under way end with it. The number of tasks is bounded by
/// [`crate::Limits::forwards`]: the permit is taken before the task is made.
pub(super) async fn serve(socket: UdpSocket, responder: Arc<Responder>) {
    let socket = Arc::new(socket);
    let mut worker = Worker {
        tally: Tally::new(&responder.metrics),
        turns: rand::random(),
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
        for _ in 0..TURNS {
            match socket.try_io(Interest::READABLE, || batch.receive(socket.as_fd())) {
                Ok(arrived) => {
                    worker.handle(&mut batch);
                    if arrived < BATCH {
                        break;
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                // An ICMP error of an earlier reply; the socket is fine.
                Err(error) => tracing::trace!(%error, "UDP receive"),
            }
        }
        while worker.forwards.try_join_next().is_some() {}
        tokio::task::yield_now().await;
    }
}

/// What one socket's task answers with.
struct Worker {
    socket: Arc<UdpSocket>,
    responder: Arc<Responder>,
    tally: Tally,
    forwards: JoinSet<()>,
    /// Counts the queries: where lists begin. One of its own, not to fight over with other workers.
    turns: u64,
}

impl Worker {
    fn handle(&mut self, batch: &mut Batch) {
        let begun = Instant::now();
        let responder = Arc::clone(&self.responder);
        let view = responder.view();
        let context = responder.context(&view);
        if batch.packets().len() >= MANY {
            fast::warm(&context, batch.packets());
        }
        batch.answer(|packet, client, out| {
            contained(&responder.metrics, || {
                if let Some(limited) = responder.limited(packet, client, Transport::Udp, begun) {
                    return self.reply(limited, client, out);
                }
                if let Some(query) = &Query::read(packet) {
                    self.turns = self.turns.wrapping_add(STEP);
                    let code = match fast::reply(&context, query, mixed(self.turns), out) {
                        Outcome::Written(code) => Some(code),
                        Outcome::NotOurs => responder.forwarder.cached(packet, true, begun, out),
                        Outcome::Unusual => None,
                    };
                    if let Some(code) = code {
                        self.tally.note(client, query.kind, code);
                        return true;
                    }
                }
                self.reply(responder.respond(packet, client, Transport::Udp), client, out)
            })
        });
        let lost = batch.send(self.socket.as_fd());
        (0..lost).for_each(|_| self.responder.metrics.dropped(Dropped::SendFailed));
        self.tally.flush(begun.elapsed());
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

/// What `answer` says; no reply should it panic. A defect that one packet brings out must not end the socket, or
/// whoever finds such a packet could end the service; all that is shared here is whole at every moment.
fn contained(metrics: &Metrics, answer: impl FnOnce() -> bool) -> bool {
    catch_unwind(AssertUnwindSafe(answer)).unwrap_or_else(|_| {
        tracing::error!("a defect: a query got no reply");
        metrics.dropped(Dropped::Defect);
        false
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_defect_costs_one_reply() {
        let registry = prometheus::Registry::new();
        let metrics = Metrics::register(&registry).unwrap();
        assert!(contained(&metrics, || true) && !contained(&metrics, || false));
        assert!(!contained(&metrics, || panic!("as a defect would")));
        let families = registry.gather();
        let dropped: Vec<_> = families.iter().filter(|f| f.name() == "mesh_dns_dropped_total").collect();
        let counted: Vec<_> = dropped.iter().flat_map(|family| family.get_metric()).collect();
        assert_eq!(counted.len(), 1);
        assert_eq!(counted[0].get_label()[0].value(), "defect");
    }
}
