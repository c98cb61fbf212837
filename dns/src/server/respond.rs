//! From a packet to its reply, the same for both transports.

use super::{
    clients::{Clients, Share},
    contain::contained_future,
    query_log,
};
use crate::{
    answer::{Answer, AnswerOptions, Question, answer},
    encode::{self, Screened},
    explain::{Explanation, explain},
    fast,
    forward::{Forwarded, Forwarder, Permit},
    metrics::{Dropped, Limited, Metrics, Transport},
    packet,
    scope::Scope,
    view::DnsView,
};
use arc_swap::ArcSwap;
use hickory_proto::op::ResponseCode;
use hickory_server::server::Request;
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// Everything a reply depends on.
#[derive(Debug)]
pub(super) struct Responder {
    /// One query in so many is logged; none for 0.
    pub(super) log_every: u64,
    view: Arc<ArcSwap<DnsView>>,
    pub(super) options: AnswerOptions,
    pub(super) forwarder: Arc<Forwarder>,
    pub(super) metrics: Metrics,
    clients: Arc<Clients>,
    turns: AtomicU64,
    /// What clients see.
    scope: Arc<Scope>,
}

/// What becomes of a packet.
#[derive(Debug)]
pub(super) enum Verdict {
    /// Nothing.
    Drop,
    /// This goes back at once.
    Reply(Vec<u8>),
    /// An upstream is to be asked, which takes a while: [`Responder::forward`].
    Forward(Box<Pending>),
}

/// A query on its way to an upstream.
#[derive(Debug)]
pub(super) struct Pending {
    request: Request,
    transport: Transport,
    arrived: Instant,
    permit: Permit,
    /// Of the client's bound, until the reply is there.
    _share: Share,
    /// What is known already, when it leads to a name that is not ours.
    known: Option<Answer>,
    /// Whether the query log is to have it.
    pub(super) logged: bool,
}

impl Responder {
    pub(super) fn new(
        view: Arc<ArcSwap<DnsView>>,
        options: AnswerOptions,
        forwarder: Arc<Forwarder>,
        metrics: Metrics,
        clients: Arc<Clients>,
    ) -> Self {
        Responder {
            log_every: 0,
            view,
            options,
            forwarder,
            metrics,
            clients,
            turns: AtomicU64::new(0),
            scope: Arc::default(),
        }
    }

    /// The same for clients that see only `scope`.
    pub(super) fn within(&self, scope: Scope) -> Self {
        let (view, forwarder) = (Arc::clone(&self.view), Arc::clone(&self.forwarder));
        let (metrics, clients) = (self.metrics.clone(), Arc::clone(&self.clients));
        let new = Responder::new(view, self.options.clone(), forwarder, metrics, clients);
        Responder { scope: Arc::new(scope), log_every: self.log_every, ..new }
    }

    /// What becomes of a packet whose sender has had its queries for now; `None` when it has not. To be asked once for
    /// each packet, before anything else is done with it; costs next to nothing when no rate is configured.
    pub(super) fn limited(
        &self,
        packet: &[u8],
        client: SocketAddr,
        transport: Transport,
        now: Instant,
    ) -> Option<Verdict> {
        if self.clients.admits(client.ip(), now) {
            return None;
        }
        let reply = encode::unread(packet, ResponseCode::Refused)?;
        self.metrics.request(transport, client.ip(), None);
        self.metrics.limited(Limited::Queries);
        self.metrics.response(ResponseCode::Refused, Duration::ZERO);
        Some(Verdict::Reply(reply))
    }

    /// Decides on one packet, without waiting for anything.
    pub(super) fn respond(&self, packet: &[u8], client: SocketAddr, transport: Transport) -> Verdict {
        let arrived = Instant::now();
        let request = match encode::screen(packet, client) {
            Screened::Drop => {
                self.metrics.dropped(Dropped::NotAQuery);
                return Verdict::Drop;
            }
            Screened::Reply(reply, rcode) => {
                self.metrics.request(transport, client.ip(), None);
                self.metrics.response(rcode, arrived.elapsed());
                return Verdict::Reply(reply);
            }
            Screened::Query(request) => *request,
        };
        let question = encode::question(&request);
        self.metrics.request(transport, client.ip(), question.as_ref().map(|q| q.kind));
        if encode::edns(&request) == Some(true) {
            self.metrics.do_requests.inc();
        }
        let edns_version = request.edns.as_ref().map_or(0, hickory_proto::op::Edns::version);
        let bare = |rcode| Some(Answer::bare(rcode));
        let answer = match &question {
            None => bare(ResponseCode::FormErr),
            // RFC 6891 section 6.1.3.
            Some(_) if edns_version > 0 => bare(ResponseCode::BADVERS),
            Some(question) => self.answer(question),
        };
        let udp = transport == Transport::Udp;
        let recursion = !self.forwarder.is_empty();
        if answer.is_none() {
            let mut reply = Vec::new();
            if let Some(rcode) = self.forwarder.cached(packet, udp, arrived, &mut reply) {
                self.metrics.response(rcode, arrived.elapsed());
                return Verdict::Reply(reply);
            }
        }
        let answer = match answer {
            // Without an upstream the client may know where to ask on.
            Some(answer) if answer.rest.is_none() || !recursion => answer,
            None if !recursion => Answer::bare(ResponseCode::Refused),
            known => match self.admit(client) {
                Some((permit, share)) => {
                    let pending =
                        Pending { request, transport, arrived, permit, _share: share, known, logged: false };
                    return Verdict::Forward(Box::new(pending));
                }
                None => Answer::bare(ResponseCode::Refused),
            },
        };
        let (reply, rcode) = encode::reply(&request, &answer, udp, recursion);
        self.metrics.response(rcode, arrived.elapsed());
        Verdict::Reply(reply)
    }

    /// The right of this client to one more TCP connection, until it is dropped; counted when it has its share.
    pub(super) fn connection(&self, client: SocketAddr) -> Option<Share> {
        let share = self.clients.connection(client.ip());
        if share.is_none() {
            self.metrics.limited(Limited::Connections);
        }
        share
    }

    /// The right to forward one query of this client now.
    fn admit(&self, client: SocketAddr) -> Option<(Permit, Share)> {
        let permit = self.forwarder.admit()?;
        let share = self.clients.share(client.ip());
        if share.is_none() {
            self.metrics.limited(Limited::Forwards);
        }
        Some((permit, share?))
    }

    /// The answer of the live view; `None` when the name is not ours.
    pub(super) fn answer(&self, question: &Question) -> Option<Answer> {
        let question = question.clone().within(Arc::clone(&self.scope));
        answer(&self.view.load(), &question, self.turn(), &self.options)
    }

    /// The same, and where it comes from.
    pub(super) fn explain(&self, question: &Question) -> (Option<Answer>, Explanation) {
        let question = question.clone().within(Arc::clone(&self.scope));
        explain(&self.view.load_full(), &question, self.turn(), &self.options)
    }

    /// Whether names are answered without the zone.
    pub(super) fn has_bare_names(&self) -> bool {
        self.scope.bare_names
    }

    /// The live view.
    pub(super) fn view(&self) -> arc_swap::Guard<Arc<DnsView>> {
        self.view.load()
    }

    /// What the fast path answers from.
    pub(super) fn context<'v>(&'v self, view: &'v DnsView) -> fast::Context<'v> {
        let recursion = !self.forwarder.is_empty();
        fast::Context { view, options: &self.options, scope: &self.scope, recursion }
    }

    /// Asks the upstreams and always comes to a reply, if only SERVFAIL.
    pub(super) async fn forward(&self, pending: Pending) -> Vec<u8> {
        let packet = pending.request.as_slice().to_vec();
        let (from, arrived) = ((pending.request.src(), pending.transport), pending.arrived);
        let logged = pending.logged;
        let reply = async {
            let reply = self.forwarded(pending).await;
            if logged {
                query_log::write(from, &packet, &reply, "upstream", arrived.elapsed());
            }
            reply
        };
        let reply = contained_future(&self.metrics, reply).await;
        reply.or_else(|| self.failed(&packet, arrived)).unwrap_or_default()
    }

    /// SERVFAIL to a query that a defect kept from being answered; `None` when it is none.
    pub(super) fn failed(&self, packet: &[u8], arrived: Instant) -> Option<Vec<u8>> {
        let reply = encode::unread(packet, ResponseCode::ServFail)?;
        self.metrics.response(ResponseCode::ServFail, arrived.elapsed());
        Some(reply)
    }

    async fn forwarded(&self, pending: Pending) -> Vec<u8> {
        let Pending { request, transport, arrived, permit, _share, known, logged: _ } = pending;
        let udp = transport == Transport::Udp;
        if let (Some(known), Some(question)) = (known, encode::question(&request)) {
            let (answer, _) = self.complete(known, question.kind, permit).await;
            let (reply, rcode) = encode::reply(&request, &answer, udp, true);
            self.metrics.response(rcode, arrived.elapsed());
            return reply;
        }
        let (reply, rcode) = match self.forwarder.forward(request.as_slice(), !udp, permit).await {
            Ok(Forwarded { reply, rcode, .. })
                if udp && reply.len() > encode::advertised(&request).min(packet::FORWARDED_UDP) =>
            {
                (encode::truncated(&reply, encode::edns(&request)).unwrap_or_default(), rcode)
            }
            Ok(Forwarded { reply, rcode, .. }) => (reply, rcode),
            Err(error) => {
                tracing::debug!(%error, "forward failed");
                encode::reply(&request, &Answer::bare(error.rcode()), udp, true)
            }
        };
        self.metrics.response(rcode, arrived.elapsed());
        reply
    }

    /// Where the next answer's rotation begins.
    fn turn(&self) -> u64 {
        mixed(self.turns.fetch_add(STEP, Ordering::Relaxed))
    }
}

/// Between two turns.
pub(super) const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// A counter of turns, mixed (splitmix64). Not the counter itself, because clients ask A and AAAA in pairs and would
/// see only every other endpoint first.
pub(super) fn mixed(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
