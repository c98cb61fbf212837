//! The forwarder: names that are not ours go to an upstream as they came, and its reply comes back as it is.
//!
//! Pass-through: only the id is replaced, by a random one, on a socket of its own with a random port that is
//! connected to the upstream (RFC 5452 sections 4.5 and 9). EDNS, DO, unknown types and every response code pass
//! unchanged: an upstream's REFUSED stays REFUSED. Upstreams are tried in the order given; one that failed is
//! skipped for a while.

mod exchange;
mod health;
mod resolv_conf;

pub(crate) use resolv_conf::nameservers;

use crate::{config::Limits, metrics::Metrics};
use exchange::{ExchangeError, Reply, exchange};
use health::Board;
use hickory_proto::op::ResponseCode;
use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Asks upstreams. At most [`Limits::forwards`] queries are under way at once.
#[derive(Debug)]
pub(crate) struct Forwarder {
    upstreams: Vec<Upstream>,
    board: Mutex<Board>,
    started: Instant,
    permits: Arc<Semaphore>,
    per_try: Duration,
    total: Duration,
    metrics: Metrics,
}

#[derive(Debug)]
struct Upstream {
    address: SocketAddr,
    label: String,
}

/// An upstream's reply, with the client's id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Forwarded {
    /// The whole message.
    pub(crate) reply: Vec<u8>,
    /// Its response code (without the EDNS extension).
    pub(crate) rcode: ResponseCode,
    /// Who answered.
    pub(crate) upstream: SocketAddr,
}

/// Why there is no reply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ForwardError {
    /// The packet is not one question.
    #[error("not a query with one question")]
    NotAQuery,
    /// There is nobody to ask.
    #[error("no upstream is configured")]
    NoUpstream,
    /// No upstream answered in time.
    #[error("none of the upstreams answered: {0}")]
    Unanswered(String),
}

/// The right to forward one query.
#[derive(Debug)]
pub(crate) struct Permit {
    _permit: OwnedSemaphorePermit,
}

impl Forwarder {
    pub(crate) fn new(addresses: &[SocketAddr], limits: &Limits, metrics: Metrics) -> Self {
        let upstream = |address: &SocketAddr| Upstream { address: *address, label: address.to_string() };
        Forwarder {
            upstreams: addresses.iter().map(upstream).collect(),
            board: Mutex::new(Board::new(addresses.len(), limits.upstream_holdoff)),
            started: Instant::now(),
            permits: Arc::new(Semaphore::new(limits.forwards)),
            per_try: limits.forward_try,
            total: limits.forward_total,
            metrics,
        }
    }

    /// Whether there is nobody to ask.
    pub(crate) fn is_empty(&self) -> bool {
        self.upstreams.is_empty()
    }

    /// The right to forward one query now; `None`, and counted, when too many are under way.
    pub(crate) fn admit(&self) -> Option<Permit> {
        match Arc::clone(&self.permits).try_acquire_owned() {
            Ok(permit) => Some(Permit { _permit: permit }),
            Err(_) => {
                self.metrics.forward_overload.inc();
                None
            }
        }
    }

    /// Asks the upstreams, two rounds at most, within [`Limits::forward_total`]. With `whole` a reply that an
    /// upstream truncated is fetched over TCP or not at all; without, the truncated one will do.
    ///
    /// # Errors
    /// [`ForwardError`]; the last upstream's failure is in the text.
    pub(crate) async fn forward(
        &self,
        query: &[u8],
        whole: bool,
        _permit: Permit,
    ) -> Result<Forwarded, ForwardError> {
        if self.upstreams.is_empty() {
            return Err(ForwardError::NoUpstream);
        }
        let Some(client_id) = query.first_chunk::<2>() else { return Err(ForwardError::NotAQuery) };
        if crate::encode::question_octets(query).is_none() {
            return Err(ForwardError::NotAQuery);
        }
        let began = Instant::now();
        let plan = self.with_board(Board::plan);
        let mut last = "no time left".to_owned();
        for (round, is_last) in plan.iter().map(|i| (i, false)).chain(with_last(&plan)) {
            let left = self.total.saturating_sub(began.elapsed());
            if left.is_zero() {
                break;
            }
            let upstream = &self.upstreams[*round];
            // The very last try may take what is left: a slow upstream is better than none.
            let limit = if is_last { left } else { left.min(self.per_try) };
            let answer = tokio::time::timeout(limit, exchange(upstream.address, query, whole)).await;
            match answer.unwrap_or(Err(ExchangeError::Timeout)) {
                Ok(Reply { mut octets, rcode }) => {
                    self.with_board(|board, _| board.good(*round));
                    self.metrics.forwarded(&upstream.label, rcode);
                    octets[..2].copy_from_slice(client_id);
                    return Ok(Forwarded { reply: octets, rcode, upstream: upstream.address });
                }
                Err(error) => {
                    self.with_board(|board, now| board.bad(*round, now));
                    self.metrics.forward_failed(&upstream.label, error.label());
                    last = format!("{}: {error}", upstream.label);
                }
            }
        }
        Err(ForwardError::Unanswered(last))
    }

    fn with_board<T>(&self, act: impl FnOnce(&mut Board, Duration) -> T) -> T {
        // A board is whole after every statement, so a poisoned one is as good.
        let mut board = self.board.lock().unwrap_or_else(PoisonError::into_inner);
        act(&mut board, self.started.elapsed())
    }
}

/// The second round, and which of it is the last try.
fn with_last(plan: &[usize]) -> impl Iterator<Item = (&usize, bool)> {
    plan.iter().enumerate().map(|(at, index)| (index, at + 1 == plan.len()))
}
