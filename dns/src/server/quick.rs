//! From a packet to its reply: the fast path where it will do, the common one where not.

use super::{
    contain::contained,
    query_log::{self, QueryLog},
    respond::{Responder, STEP, Verdict, mixed},
    tally::Tally,
};
use crate::{
    fast::{self, Outcome, Query},
    metrics::Transport,
};
use std::{net::SocketAddr, time::Instant};

/// What one socket or connection answers with.
pub(super) struct Quick {
    transport: Transport,
    /// Counts what went the fast way.
    pub(super) tally: Tally,
    /// Counts the queries: where lists begin. One of its own, not to fight over with other workers.
    turns: u64,
    log: QueryLog,
}

impl Quick {
    pub(super) fn new(responder: &Responder, transport: Transport) -> Quick {
        let (tally, turns) = (Tally::new(&responder.metrics, transport), rand::random());
        Quick { transport, tally, turns, log: QueryLog::new(responder.log_every) }
    }

    /// Answers a packet, given as read if it is of the plainest form; with SERVFAIL should a defect show. `None`: the
    /// reply is in `out`.
    pub(super) fn answer(
        &mut self,
        with: (&Responder, &fast::Context<'_>),
        (packet, query): (&[u8], Option<&Query<'_>>),
        client: SocketAddr,
        now: Instant,
        out: &mut Vec<u8>,
    ) -> Option<Verdict> {
        contained(&with.0.metrics, || self.decide(with, (packet, query), client, now, out))
            .unwrap_or_else(|| Some(with.0.failed(packet, now).map_or(Verdict::Drop, Verdict::Reply)))
    }

    fn decide(
        &mut self,
        (responder, context): (&Responder, &fast::Context<'_>),
        (packet, query): (&[u8], Option<&Query<'_>>),
        client: SocketAddr,
        now: Instant,
        out: &mut Vec<u8>,
    ) -> Option<Verdict> {
        if let Some(limited) = responder.limited(packet, client, self.transport, now) {
            return Some(limited);
        }
        let (logged, from) = (self.log.due(), (client, self.transport));
        if let Some(query) = query {
            self.turns = self.turns.wrapping_add(STEP);
            let udp = self.transport == Transport::Udp;
            let (code, source) = match fast::reply(context, query, mixed(self.turns), out) {
                Outcome::Written(code) => (Some(code), "mesh"),
                Outcome::NotOurs => (responder.forwarder.cached(packet, udp, now, out), "cache"),
                Outcome::Unusual => (None, "mesh"),
            };
            if let Some(code) = code {
                self.tally.note(client, query, code);
                if logged {
                    query_log::write(from, packet, out, source, now.elapsed());
                }
                return None;
            }
        }
        let mut verdict = responder.respond(packet, client, self.transport);
        match &mut verdict {
            Verdict::Forward(pending) => pending.logged = logged,
            Verdict::Reply(reply) if logged => {
                query_log::write(from, packet, reply, "mesh", now.elapsed());
            }
            _ => {}
        }
        Some(verdict)
    }
}
