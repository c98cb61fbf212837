//! One query to a group of upstreams: the first good answer wins, and who is slow gets company.

use super::{
    exchange::{ExchangeError, Reply},
    health::{Health, plan},
    upstream::{Terms, Upstream},
};
use hickory_proto::op::ResponseCode;
use std::{sync::Arc, time::Duration};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};

/// Most upstreams that one query is under way to.
const MAX_AT_ONCE: usize = 3;

/// A reply, with the id and case it was asked with, and who gave it.
#[derive(Debug)]
pub(super) struct Won {
    pub(super) reply: Reply,
    pub(super) upstream: Arc<str>,
}

/// How a try ended: its turn, and the reply with the time it took.
type Try = (usize, Result<(Reply, Duration), ExchangeError>);

/// Asks the upstreams of `group` in the order that their health suggests, two rounds at most. One that has not answered
/// within its patience stays in the race while the next is asked; one that fails, or says SERVFAIL, is followed by the
/// next at once. SERVFAIL is the answer when nobody says better. The error says what the last failure was.
pub(super) async fn race(
    group: &[Arc<Upstream>],
    query: &Arc<[u8]>,
    terms: &Arc<Terms>,
) -> Result<Won, String> {
    let end = Instant::now() + terms.total;
    let health: Vec<_> = group.iter().map(|u| u.health()).collect();
    let order: Vec<&Arc<Upstream>> = plan(&health).into_iter().map(|i| &group[i]).collect();
    if order.is_empty() {
        return Err("there is nobody to ask".to_owned());
    }
    if !health.iter().any(Health::is_good) {
        terms.metrics.broken.inc();
    }
    let at = |turn: usize| order[turn % order.len()];
    let mut running: JoinSet<Try> = JoinSet::new();
    let mut flying: Vec<usize> = Vec::new();
    let (mut turn, mut start, mut hedge_at) = (0, true, end);
    let mut servfail = None;
    let mut last = "no time left".to_owned();
    loop {
        // The second round is for silence only.
        let turns = if servfail.is_some() { order.len() } else { 2 * order.len() };
        let left = end.saturating_duration_since(Instant::now());
        if std::mem::take(&mut start) && turn < turns && !left.is_zero() {
            let (upstream, terms, query) = (Arc::clone(at(turn)), Arc::clone(terms), Arc::clone(query));
            hedge_at = Instant::now() + upstream.health().patience();
            // The very last try may take what is left: a slow upstream is better than none.
            let limit = if turn + 1 == 2 * order.len() { left } else { left.min(terms.per_try) };
            running.spawn(async move { (turn, upstream.ask(&query, limit, &terms).await) });
            flying.push(turn);
            turn += 1;
        }
        let may_hedge = turn < order.len() && flying.len() < MAX_AT_ONCE;
        tokio::select! {
            done = running.join_next() => match done {
                None => break,
                // A try that panicked has said nothing.
                Some(Err(error)) => {
                    tracing::error!(%error, "a defect: an upstream was not asked as it should be");
                    terms.metrics.panics.inc();
                    (last, start) = (error.to_string(), true);
                }
                Some(Ok((of, Ok((reply, took))))) => {
                    flying.retain(|t| *t != of);
                    terms.metrics.forwarded(&at(of).label, reply.rcode, took);
                    let won = Won { upstream: Arc::clone(&at(of).label), reply };
                    if won.reply.rcode != ResponseCode::ServFail {
                        flying.iter().filter(|t| **t < of).for_each(|t| at(*t).lost(terms));
                        return Ok(won);
                    }
                    servfail.get_or_insert(won);
                    start = true;
                }
                Some(Ok((of, Err(error)))) => {
                    flying.retain(|t| *t != of);
                    terms.metrics.failed(&at(of).label, error.label());
                    last = format!("{}: {error}", at(of).label);
                    start = true;
                }
            },
            () = sleep_until(hedge_at), if may_hedge => {
                terms.metrics.hedges.inc();
                start = true;
            }
            () = sleep_until(end) => break,
        }
    }
    servfail.ok_or(last)
}
