//! From a query to its reply.

use super::{
    cache::{Cache, Hit},
    flights::{Boarding, Flight, Flights, landed},
    loops::Loops,
    race::{Won, race},
    routes::Routes,
    upstream::Terms,
    wire::{Asked, Kept},
};
use crate::packet::{HEADER, question_octets};
use arc_swap::ArcSwap;
use hickory_proto::op::ResponseCode;
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::timeout,
};

/// Asks upstreams. At most [`crate::Limits::forwards`] queries are under way at once. Dropped, it stops everything.
#[derive(Debug)]
pub(crate) struct Forwarder {
    pub(super) core: Arc<Core>,
    pub(super) permits: Arc<Semaphore>,
    /// Flights, of which there are no more than permits, probes, one for each upstream, and the watch of a file.
    pub(super) tasks: Mutex<JoinSet<()>>,
}

#[derive(Debug)]
pub(super) struct Core {
    pub(super) terms: Arc<Terms>,
    pub(super) routes: ArcSwap<Routes>,
    pub(super) cache: Cache,
    pub(super) flights: Arc<Flights>,
    pub(super) loops: Loops,
    /// How long a client waits for a fresh reply when there is a stale one.
    pub(super) stale_after: Duration,
}

/// A reply, with the client's id and the case of its question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Forwarded {
    /// The whole message.
    pub(crate) reply: Vec<u8>,
    /// Its response code (without the EDNS extension).
    pub(crate) rcode: ResponseCode,
    /// Who answered: an upstream as it is written, `cache`, or `stale cache`.
    pub(crate) upstream: Arc<str>,
}

/// Why there is no reply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ForwardError {
    /// The packet is not one question.
    #[error("not a query with one question")]
    NotAQuery,
    /// There is nobody to ask, or only who would ask us.
    #[error("there is no upstream to ask")]
    NoUpstream,
    /// No upstream answered in time.
    #[error("none of the upstreams answered: {0}")]
    Unanswered(String),
    /// The query is one of our own: an upstream sent it back.
    #[error("an upstream sends queries back here")]
    Loop,
}

/// The right to forward one query.
#[derive(Debug)]
pub(crate) struct Permit {
    _permit: OwnedSemaphorePermit,
}

impl Forwarder {
    /// Whether there is nobody to ask.
    pub(crate) fn is_empty(&self) -> bool {
        let routes = self.core.routes.load();
        routes.others.is_empty() && routes.domains.values().all(|group| group.is_empty())
    }

    /// The right to forward one query now; `None`, and counted, when too many are under way.
    pub(crate) fn admit(&self) -> Option<Permit> {
        match Arc::clone(&self.permits).try_acquire_owned() {
            Ok(permit) => Some(Permit { _permit: permit }),
            Err(_) => {
                self.core.terms.metrics.overload.inc();
                None
            }
        }
    }

    /// The reply to `query` from the cache, written over what `out` holds: whole, with the client's id, the case of its
    /// question, and over `udp` no longer than the client takes (then with TC). `None`, with `out` undefined, when an
    /// upstream is to be asked. Waits for nothing. Only for names that are not ours.
    pub(crate) fn cached(
        &self,
        query: &[u8],
        udp: bool,
        now: Instant,
        out: &mut Vec<u8>,
    ) -> Option<ResponseCode> {
        self.core.cached(&Asked::read(query)?, udp, now, out)
    }

    /// Comes to a reply within [`crate::Limits::forward_total`], from the cache or the upstreams. With `whole` a reply
    /// that an upstream truncated is fetched over TCP or not at all; without, the truncated one will do.
    ///
    /// # Errors
    /// [`ForwardError`]; the last upstream's failure is in the text.
    pub(crate) async fn forward(
        &self,
        query: &[u8],
        whole: bool,
        permit: Permit,
    ) -> Result<Forwarded, ForwardError> {
        let core = &self.core;
        let question = question_octets(query).ok_or(ForwardError::NotAQuery)?;
        if core.loops.caught(question) {
            return Err(ForwardError::Loop);
        }
        let routes = core.routes.load_full();
        if routes.of(question).iter().all(|upstream| upstream.is_looped()) {
            return Err(ForwardError::NoUpstream);
        }
        let asked = Asked::read(query);
        let mut out = Vec::new();
        let from_cache = |reply, rcode, from: &str| Forwarded { reply, rcode, upstream: from.into() };
        if let Some(asked) = &asked {
            if let Some(rcode) = core.cached(asked, !whole, Instant::now(), &mut out) {
                return Ok(from_cache(out, rcode, "cache"));
            }
            core.terms.metrics.misses.inc();
        }
        let (landing, _follower) = match core.flights.board(query) {
            Boarding::Leader(flight, landing) => {
                self.spawn(Arc::clone(core).fly(flight, routes, query.into(), permit));
                (landing, None)
            }
            Boarding::Follower(landing) => {
                core.terms.metrics.coalesced.inc();
                (landing, Some(permit))
            }
        };
        let stale = asked.as_ref().and_then(|asked| {
            let hit = core.cache.stale(asked, Instant::now(), !whole, &mut out)?;
            Some((std::mem::take(&mut out), hit))
        });
        let outcome = match &stale {
            // The flight goes on and refreshes the cache.
            Some(_) => timeout(core.stale_after, landed(landing)).await.unwrap_or_default(),
            None => landed(landing).await,
        };
        let problem = match outcome {
            // Says nothing of the name, so that what was known of it is better (RFC 8767 section 4).
            Some(Ok(won)) if stale.is_some() && won.reply.rcode == ResponseCode::ServFail => {
                format!("{}: SERVFAIL", won.upstream)
            }
            Some(Ok(won)) if !(whole && won.reply.octets[2] & 0x02 != 0) => {
                return Ok(Forwarded {
                    reply: addressed(&won.reply.octets, query, question),
                    rcode: won.reply.rcode,
                    upstream: Arc::clone(&won.upstream),
                });
            }
            Some(Ok(won)) => format!("{}: truncated, and no answer over TCP", won.upstream),
            Some(Err(problem)) => problem,
            None => "no time left".to_owned(),
        };
        let (reply, Hit { rcode, .. }) = stale.ok_or(ForwardError::Unanswered(problem))?;
        core.terms.metrics.stale.inc();
        Ok(from_cache(reply, rcode, "stale cache"))
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(ended) = tasks.try_join_next() {
            if ended.is_err_and(|error| error.is_panic()) {
                tracing::error!("a defect: a query was not forwarded as it should be");
                self.core.terms.metrics.panics.inc();
            }
        }
        tasks.spawn(task);
    }
}

impl Core {
    fn cached(&self, asked: &Asked<'_>, udp: bool, now: Instant, out: &mut Vec<u8>) -> Option<ResponseCode> {
        let Hit { rcode, negative } = self.cache.fresh(asked, now, udp, out)?;
        let metrics = &self.terms.metrics;
        if negative { &metrics.negative_hits } else { &metrics.hits }.inc();
        Some(rcode)
    }

    /// Asks for everybody who wants to know, and keeps the reply.
    async fn fly(self: Arc<Self>, flight: Flight, routes: Arc<Routes>, query: Arc<[u8]>, permit: Permit) {
        let group = question_octets(&query).map_or(&routes.others, |question| routes.of(question));
        let group: Vec<_> = group.iter().filter(|u| !u.is_looped()).cloned().collect();
        let outcome = race(&group, &query, &self.terms).await;
        if let (Ok(Won { reply, .. }), Some(asked)) = (&outcome, Asked::read(&query))
            && let Some(kept) = Kept::of(&reply.octets)
        {
            let metrics = &self.terms.metrics;
            metrics.cache(self.cache.insert(&asked, kept, Instant::now()));
            if !Arc::ptr_eq(&routes, &self.routes.load()) {
                // What former upstreams said is forgotten, and shall stay so.
                metrics.cache(self.cache.clear());
            }
        }
        flight.land(outcome.map(Arc::new));
        drop(permit);
        // Who is in doubt is asked by us rather than by clients, which have their answer by now.
        let due = group.iter().filter(|upstream| upstream.probe_due(&self.terms));
        let due: JoinSet<()> = due
            .map(|upstream| {
                let (upstream, terms) = (Arc::clone(upstream), Arc::clone(&self.terms));
                async move { upstream.probe(&terms).await }
            })
            .collect();
        due.join_all().await;
    }
}

/// An upstream's reply as `query` is answered: its id, and the case of its question.
fn addressed(reply: &[u8], query: &[u8], question: &[u8]) -> Vec<u8> {
    let mut reply = reply.to_vec();
    for (to, from) in reply.iter_mut().zip(query).take(2) {
        *to = *from;
    }
    if question_octets(&reply).is_some_and(|own| own.len() == question.len()) {
        reply[HEADER..HEADER + question.len()].copy_from_slice(question);
    }
    reply
}
