//! The server: sockets around the pure parts.
//!
//! UDP has a loop of our own, a thread for each worker, that answers what is ours in place and gives only forwards a
//! task, within a bound (hickory's UDP server spawns a task for each packet, without one). TCP has an accept loop of
//! our own too, because hickory's has no cap on connections and reads whatever length a client announces for a
//! message; requests are parsed and replies built by hickory-server on both.

mod batch;
mod bind;
mod clients;
mod contain;
mod feed;
mod follow;
mod lookup;
mod owner;
mod query_log;
mod quick;
mod respond;
mod supervise;
mod tally;
mod tcp;
mod together;
mod udp;

pub use lookup::{AnswerSource, Lookup, LookupError, LookupRecord, LookupReply};
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
use feed::Feed;
use hickory_proto::rr::RecordType;
use mesh_control::model::Snapshot;
use respond::Responder;
use std::{net::SocketAddr, sync::Arc, time::Instant};
use supervise::{Part, Supervised};
use tokio::{
    sync::{Semaphore, oneshot, watch},
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
        let sockets = bind::all(&config.listen, config.limits.workers())?;
        let addresses: Vec<SocketAddr> = sockets.iter().map(|b| b.address).collect();
        let metrics = Metrics::register(registry)?;
        let forwarder = Forwarder::start(&config, &addresses, registry, metrics.panics.clone())?;
        let options = AnswerOptions {
            zone,
            ttl: config.ttl,
            negative_ttl: config.negative_ttl,
            name_servers: addresses.iter().map(SocketAddr::ip).collect(),
            local_reverse: config.local_reverse,
            kubernetes,
        };
        let view = DnsView::new(&snapshots.borrow().clone());
        feed::show(&metrics, &view);
        let view = Arc::new(ArcSwap::from_pointee(view));
        let clients = Arc::new(Clients::new(&config.limits, Instant::now()));
        let (forwarder, panics) = (Arc::new(forwarder), metrics.panics.clone());
        let mut responder = Responder::new(Arc::clone(&view), options, forwarder, metrics.clone(), clients);
        responder.log_every = config.query_log;
        let responder = Arc::new(responder);
        let mut tasks = JoinSet::new();
        let (alive, followed) = oneshot::channel();
        let feed = Feed::new(snapshots, Arc::clone(&view), metrics.clone());
        let following = feed::follow(feed.clone(), alive);
        tasks.spawn(async {
            following.await;
            Part::Feed
        });
        let bound = config.limits.last_known;
        let expiry = feed::expire(followed, Arc::clone(&view), metrics, bound, tokio::time::sleep);
        tasks.spawn(async {
            expiry.await;
            Part::Feed
        });
        let permits = Arc::new(Semaphore::new(config.limits.tcp_connections));
        let mut responders = Vec::new();
        let mut workers: Vec<Vec<_>> = (0..config.limits.workers()).map(|_| Vec::new()).collect();
        let scopes = config.scopes.into_iter().map(Some).chain(std::iter::repeat(None));
        for (Bound { udp, tcp, .. }, scope) in sockets.into_iter().zip(scopes) {
            let responder = scope.map_or_else(|| Arc::clone(&responder), |s| Arc::new(responder.within(s)));
            responders.push(Arc::clone(&responder));
            for (sockets, socket) in workers.iter_mut().zip(udp) {
                sockets.push((socket, Arc::clone(&responder)));
            }
            let connections =
                tcp::serve(tcp, Arc::clone(&responder), Arc::clone(&permits), config.limits.tcp_idle);
            tasks.spawn(async {
                connections.await;
                Part::Socket
            });
        }
        for (at, sockets) in workers.into_iter().enumerate() {
            let (name, together) = (format!("dns-udp-{at}"), config.limits.udp_gso);
            let worker =
                udp::Worker::start(name, sockets, feed.clone(), together).map_err(DnsError::Thread)?;
            tasks.spawn(async {
                worker.ended().await;
                Part::Socket
            });
        }
        tracing::info!(?addresses, domain = %config.domain, "DNS answers");
        Ok(DnsHandle { addresses, view, responder, responders, tasks: Supervised::new(tasks, panics) })
    }
}

/// A running server. Dropping it stops the server as [`DnsHandle::shutdown`] does, without waiting.
#[derive(Debug)]
pub struct DnsHandle {
    addresses: Vec<SocketAddr>,
    view: Arc<ArcSwap<DnsView>>,
    /// That of the host itself.
    responder: Arc<Responder>,
    /// Those of the clients of each address.
    responders: Vec<Arc<Responder>>,
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
        let (name, kind) = (name.to_owned(), kind.to_owned());
        self.lookup(&Lookup { name, kind, ..Lookup::default() }).await
    }

    /// The same, as a client of one address sees it, or with where the answer comes from.
    ///
    /// # Errors
    /// As [`DnsHandle::query`], or nobody listens at the address.
    pub async fn lookup(&self, asked: &Lookup) -> Result<LookupReply, LookupError> {
        let Some(listen) = &asked.listen else { return lookup::query(&self.responder, asked).await };
        let at = self.addresses.iter().position(|a| listen.parse() == Ok(*a) || listen.parse() == Ok(a.ip()));
        let found = at.and_then(|at| Some((self.addresses.get(at)?, self.responders.get(at)?)));
        let (address, responder) = found.ok_or_else(|| LookupError::Listen {
            asked: listen.chars().take(80).collect(),
            known: self.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        })?;
        let mut reply = lookup::query(responder, asked).await?;
        if let Some(explanation) = &mut reply.explanation {
            explanation.listen = Some(address.to_string());
        }
        Ok(reply)
    }

    /// Stops listening and waits until every socket is closed; queries under way get no reply.
    pub async fn shutdown(mut self) {
        self.tasks.stop().await;
    }
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
