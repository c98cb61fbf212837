//! One upstream: how it is asked, and what is known of it.

use super::{
    case::Case,
    exchange::{ExchangeError, Reply, exchange},
    health::Health,
    metrics::ForwardMetrics,
    secure::Secure,
};
use crate::address::UpstreamAddress;
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

    /// Asks a client's question once, for `limit` at most, and remembers how that went. Silence only makes it doubtful:
    /// some names take long whoever is asked.
    pub(super) async fn ask(
        &self,
        query: &[u8],
        limit: Duration,
        terms: &Terms,
    ) -> Result<(Reply, Duration), ExchangeError> {
        let began = Instant::now();
        let answer = self.ask_aside(query, limit, terms).await;
        let took = began.elapsed();
        match &answer {
            Ok(_) => self.answers(took, terms),
            Err(ExchangeError::Timeout) => self.lost(terms),
            Err(error) => self.fails(error, terms),
        }
        answer.map(|reply| (reply, took))
    }

    /// Asks once, and nothing is concluded from it: some servers let strange questions drop.
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

    /// Finds out whether it answers.
    pub(super) async fn probe(&self, terms: &Terms) {
        let began = Instant::now();
        match self.ask_aside(&PROBE, terms.per_try, terms).await {
            Ok(_) => self.answers(began.elapsed(), terms),
            Err(error) => {
                terms.metrics.healthcheck_failures.with_label_values(&[&self.label]).inc();
                self.fails(&error, terms);
            }
        }
    }

    fn answers(&self, took: Duration, terms: &Terms) {
        if self.health().is_down() {
            tracing::info!(upstream = %self.label, "an upstream answers again");
        }
        self.note(terms, |health| health.good(took));
    }

    fn fails(&self, error: &ExchangeError, terms: &Terms) {
        if !self.health().is_down() {
            tracing::warn!(upstream = %self.label, %error, "an upstream fails: it is asked last and probed");
        }
        self.note(terms, |health| health.bad(terms.started.elapsed(), terms.holdoff));
    }

    pub(super) fn probe_due(&self, terms: &Terms) -> bool {
        self.with_health(|health| health.probe_due(terms.started.elapsed()))
    }

    /// It was silent, or another, asked later, has answered sooner.
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
