//! The server: sockets around the pure parts.
//!
//! UDP has a loop of our own, a task for each address, that answers what is ours in place and gives only forwards a
//! task, within a bound (hickory's UDP server spawns a task for each packet, without one). TCP has an accept loop of
//! our own too, because hickory's has no cap on connections and reads whatever length a client announces for a
//! message; requests are parsed and replies built by hickory-server on both.

mod batch;
mod bind;
mod clients;
mod follow;
mod lookup;
mod owner;
mod query_log;
mod quick;
mod respond;
mod supervise;
mod tally;
mod tcp;
mod udp;

pub use lookup::{AnswerSource, LookupError, LookupRecord, LookupReply};
pub use owner::owner as port_owner;

use crate::{
    answer::AnswerOptions,
    config::{DnsConfig, DnsError, Limits},
    forward::Forwarder,
    metrics::Metrics,
    view::DnsView,
    zone::Zone,
};
use arc_swap::ArcSwap;
use bind::Bound;
use clients::Clients;
use hickory_proto::rr::RecordType;
use mesh_control::model::Snapshot;
use respond::Responder;
use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Instant, SystemTime, UNIX_EPOCH},
};
use supervise::{Part, Supervised};
use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
};

/// The embedded DNS server.
#[derive(Debug)]
pub struct DnsServer;

impl DnsServer {
    /// Binds every address and serves until the handle is shut down or dropped. The first snapshot is indexed before
    /// the first query is read, and each later one as the channel brings it. Must run inside a tokio runtime.
    ///
    /// # Errors
    /// [`DnsError`] naming the field, the value and the likely fix; nothing is left listening.
    pub async fn start(
        config: DnsConfig,
        snapshots: watch::Receiver<Arc<Snapshot>>,
        registry: &prometheus::Registry,
    ) -> Result<DnsHandle, DnsError> {
        let zone = Zone::new(&config.domain)?;
        let kubernetes = config.kubernetes.as_deref().map(Zone::kubernetes).transpose();
        let kubernetes = kubernetes.map_err(DnsError::Kubernetes)?;
        if kubernetes.as_ref() == Some(&zone) {
            return Err(DnsError::SameDomain(config.kubernetes.unwrap_or_default()));
        }
        check(&config)?;
        let bound = bind::all(&config.listen, config.limits.workers())?;
        let addresses: Vec<SocketAddr> = bound.iter().map(|b| b.address).collect();
        let forwarder = Arc::new(Forwarder::start(&config, &addresses, registry)?);
        let metrics = Metrics::register(registry)?;
        let options = AnswerOptions {
            zone,
            ttl: config.ttl,
            negative_ttl: config.negative_ttl,
            name_servers: addresses.iter().map(SocketAddr::ip).collect(),
            local_reverse: config.local_reverse,
            kubernetes,
        };
        let view = DnsView::new(&snapshots.borrow().clone());
        show(&metrics, &view);
        let view = Arc::new(ArcSwap::from_pointee(view));
        let clients = Arc::new(Clients::new(&config.limits, Instant::now()));
        let mut responder = Responder::new(Arc::clone(&view), options, forwarder, metrics.clone(), clients);
        responder.log_every = config.query_log;
        let responder = Arc::new(responder);
        let mut tasks = JoinSet::new();
        let feed = follow(snapshots, Arc::clone(&view), metrics);
        tasks.spawn(async {
            feed.await;
            Part::Feed
        });
        let permits = Arc::new(Semaphore::new(config.limits.tcp_connections));
        let scopes = config.scopes.into_iter().map(Some).chain(std::iter::repeat(None));
        for (Bound { udp, tcp, .. }, scope) in bound.into_iter().zip(scopes) {
            let responder = scope.map_or_else(|| Arc::clone(&responder), |s| Arc::new(responder.within(s)));
            for socket in udp {
                let datagrams = udp::serve(socket, Arc::clone(&responder));
                tasks.spawn(async {
                    datagrams.await;
                    Part::Socket
                });
            }
            let connections =
                tcp::serve(tcp, Arc::clone(&responder), Arc::clone(&permits), config.limits.tcp_idle);
            tasks.spawn(async {
                connections.await;
                Part::Socket
            });
        }
        tracing::info!(?addresses, domain = %config.domain, "DNS answers");
        Ok(DnsHandle { addresses, view, responder, tasks: Supervised::new(tasks) })
    }
}

/// A running server. Dropping it stops the server as [`DnsHandle::shutdown`] does, without waiting.
#[derive(Debug)]
pub struct DnsHandle {
    addresses: Vec<SocketAddr>,
    view: Arc<ArcSwap<DnsView>>,
    responder: Arc<Responder>,
    tasks: Supervised,
}

impl DnsHandle {
    /// Where it listens, UDP and TCP, in the order of the configuration, port 0 resolved.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The revision of the snapshot that the very next query is answered from.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.view.load().revision()
    }

    /// Whether every address is still served and new snapshots are still taken; `false` only after a defect, which
    /// the log names. For a readiness check.
    #[must_use]
    pub fn is_serving(&self) -> bool {
        self.tasks.is_whole()
    }

    /// Answers like the server does, for people: our names from the view, others from the upstreams. A name without
    /// a dot is taken below the zone. `kind` is a type's mnemonic (`A`, `srv`) or `TYPE65`.
    ///
    /// # Errors
    /// [`LookupError`] when the name or type is none, or no upstream answered.
    pub async fn query(&self, name: &str, kind: &str) -> Result<LookupReply, LookupError> {
        lookup::query(&self.responder, name, kind).await
    }

    /// Stops listening and waits until every socket is closed; queries under way get no reply.
    pub async fn shutdown(mut self) {
        self.tasks.stop().await;
    }
}

/// Swaps in the view of each new snapshot.
async fn follow(
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
    live: Arc<ArcSwap<DnsView>>,
    metrics: Metrics,
) {
    loop {
        let snapshot = snapshots.borrow_and_update().clone();
        let current = live.load_full();
        if snapshot.revision != current.revision() {
            let next = if current.needs_rebuild(&snapshot) {
                // Everything anew takes a while with many services: not on a thread that answers queries.
                match tokio::task::spawn_blocking(move || DnsView::new(&snapshot)).await {
                    Ok(view) => view,
                    // The runtime ends: so does this.
                    Err(error) if error.is_cancelled() => return,
                    Err(error) => std::panic::resume_unwind(error.into_panic()),
                }
            } else {
                current.updated(&snapshot)
            };
            show(&metrics, &next);
            live.store(Arc::new(next));
        }
        if snapshots.changed().await.is_err() {
            // The control plane is gone; what was known last is answered on.
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            metrics.view_orphaned.set(i64::try_from(since).unwrap_or(i64::MAX));
            return;
        }
    }
}

fn show(metrics: &Metrics, view: &DnsView) {
    metrics.view_revision.set(i64::try_from(view.revision()).unwrap_or(i64::MAX));
    metrics.view_services.set(i64::try_from(view.services()).unwrap_or(i64::MAX));
}

fn check(config: &DnsConfig) -> Result<(), DnsError> {
    if config.listen.is_empty() {
        return Err(DnsError::NowhereToListen);
    }
    if let Some(wildcard) = config.listen.iter().find(|a| a.ip().is_unspecified()) {
        return Err(DnsError::Wildcard(*wildcard));
    }
    for (at, address) in config.listen.iter().enumerate().filter(|(_, a)| a.port() != 0) {
        if config.listen[..at].contains(address) {
            return Err(DnsError::Twice(*address));
        }
    }
    for (address, scope) in config.listen.iter().zip(&config.scopes) {
        let Some(visible) = &scope.namespaces else { continue };
        if visible.is_empty() {
            return Err(DnsError::EmptyScope(*address));
        }
        if let Some(namespace) = scope.default_namespace.as_ref().filter(|n| !visible.contains(n)) {
            return Err(DnsError::HiddenDefault { address: *address, namespace: namespace.to_string() });
        }
    }
    let Limits { tcp_connections, tcp_idle, forwards, forward_try, forward_total, .. } = config.limits;
    for (field, zero) in [
        ("tcp_connections", tcp_connections == 0),
        ("tcp_idle", tcp_idle.is_zero()),
        ("forwards", forwards == 0),
        ("forward_try", forward_try.is_zero()),
        ("forward_total", forward_total.is_zero()),
    ] {
        if zero {
            return Err(DnsError::Limit { field });
        }
    }
    Ok(())
}

/// A record type from its mnemonic or `TYPE65` (RFC 3597 section 5).
fn record_type(text: &str) -> Option<RecordType> {
    let text = text.to_ascii_uppercase();
    match text.strip_prefix("TYPE") {
        Some(number) => number.parse::<u16>().ok().map(RecordType::from),
        None => text.parse().ok(),
    }
}
