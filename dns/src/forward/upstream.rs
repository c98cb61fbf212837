//! One upstream: how it is asked, and what is known of it.

use super::{
    address::UpstreamAddress,
    case::Case,
    exchange::{ExchangeError, Reply, exchange},
    health::Health,
    metrics::ForwardMetrics,
    secure::Secure,
};
use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::time::Instant;
use tokio_rustls::rustls::ClientConfig;

/// The question that a doubtful upstream is probed with, `. NS`: everybody has the answer at hand.
const PROBE: [u8; 17] = [0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1];

/// What holds for all upstreams.
#[derive(Debug)]
pub(super) struct Terms {
    pub(super) started: Instant,
    pub(super) per_try: Duration,
    pub(super) total: Duration,
    pub(super) holdoff: Duration,
    pub(super) metrics: ForwardMetrics,
}

#[derive(Debug)]
pub(super) struct Upstream {
    pub(super) address: UpstreamAddress,
    /// The address as text, in logs and metrics.
    pub(super) label: Arc<str>,
    /// It leads back to this server.
    looped: AtomicBool,
    health: Mutex<Health>,
    case: Case,
    secure: Option<Secure>,
}

impl Upstream {
    /// `trust` is for encrypted ones, which are not asked without.
    pub(super) fn new(address: UpstreamAddress, trust: Option<&Arc<ClientConfig>>, terms: &Terms) -> Self {
        let label: Arc<str> = address.to_string().into();
        let secure = trust
            .filter(|_| address.is_encrypted())
            .map(|trust| Secure::new(Arc::clone(trust), terms.per_try));
        terms.metrics.healthy.with_label_values(&[&label]).set(1);
        Upstream {
            address,
            label,
            looped: AtomicBool::new(false),
            health: Mutex::default(),
            case: Case::default(),
            secure,
        }
    }

    /// Asks once, for `limit` at most, and remembers how that went.
    pub(super) async fn ask(
        &self,
        query: &[u8],
        limit: Duration,
        terms: &Terms,
    ) -> Result<(Reply, Duration), ExchangeError> {
        let began = Instant::now();
        let answer = self.ask_aside(query, limit, terms).await;
        let was_good = self.health().is_good();
        match &answer {
            Ok(_) => self.note(terms, |health| health.good(began.elapsed())),
            Err(_) => self.note(terms, |health| health.bad(terms.started.elapsed(), terms.holdoff)),
        }
        match &answer {
            Err(error) if was_good => tracing::warn!(upstream = %self.label, %error, "an upstream fails"),
            Ok(_) if !was_good => tracing::info!(upstream = %self.label, "an upstream answers again"),
            _ => {}
        }
        answer.map(|reply| (reply, began.elapsed()))
    }

    /// The same, and nothing is concluded from it: some servers let strange questions drop.
    pub(super) async fn ask_aside(
        &self,
        query: &[u8],
        limit: Duration,
        terms: &Terms,
    ) -> Result<Reply, ExchangeError> {
        let answer = tokio::time::timeout(limit, self.exchange(query, terms)).await;
        answer.unwrap_or(Err(ExchangeError::Timeout))
    }

    async fn exchange(&self, query: &[u8], terms: &Terms) -> Result<Reply, ExchangeError> {
        match (&self.secure, &self.address) {
            (Some(secure), address) => secure.exchange(address, query).await,
            (None, UpstreamAddress::Plain(address)) => {
                let stray = |why| terms.metrics.stray(&self.label, why);
                exchange(*address, &self.case, query, terms.per_try / 2, stray).await
            }
            (None, _) => Err(ExchangeError::Secure("nobody is trusted".to_owned())),
        }
    }

    /// Finds out whether it answers again.
    pub(super) async fn probe(&self, terms: &Terms) {
        if self.ask(&PROBE, terms.per_try, terms).await.is_err() {
            terms.metrics.healthcheck_failures.with_label_values(&[&self.label]).inc();
        }
    }

    pub(super) fn probe_due(&self, terms: &Terms) -> bool {
        self.with_health(|health| health.probe_due(terms.started.elapsed()))
    }

    /// Another, asked later, has answered sooner.
    pub(super) fn lost(&self, terms: &Terms) {
        self.note(terms, Health::lost);
    }

    pub(super) fn health(&self) -> Health {
        self.with_health(|health| *health)
    }

    pub(super) fn is_looped(&self) -> bool {
        self.looped.load(Ordering::Relaxed)
    }

    /// Says whether that is news.
    pub(super) fn set_looped(&self, looped: bool) -> bool {
        self.looped.swap(looped, Ordering::Relaxed) != looped
    }

    fn note(&self, terms: &Terms, change: impl FnOnce(&mut Health)) {
        let good = self.with_health(|health| {
            change(health);
            health.is_good()
        });
        terms.metrics.healthy.with_label_values(&[&self.label]).set(i64::from(good));
    }

    fn with_health<T>(&self, act: impl FnOnce(&mut Health) -> T) -> T {
        // It is whole after every statement, so a poisoned one is as good.
        act(&mut self.health.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
