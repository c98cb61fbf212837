//! From the configuration to a running forwarder, and on to other upstreams.

use super::{
    cache::Cache,
    flights::Flights,
    forwarder::{Core, Forwarder},
    loops::Loops,
    metrics::ForwardMetrics,
    resolv_conf::{BEHIND_STUB, nameservers},
    routes::{Domain, Group, Routes, domain, plain},
    secure::trusting,
    upstream::{Terms, Upstream},
    watch::follow,
};
use crate::{
    address::UpstreamAddress,
    config::{DnsConfig, DnsError, Upstreams},
};
use arc_swap::ArcSwap;
use prometheus::{IntCounter, Registry};
use std::{
    collections::HashMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::{sync::Semaphore, task::JoinSet, time::Instant};
use tokio_rustls::rustls::ClientConfig;

impl Forwarder {
    /// Starts the forwarder of a server that listens on `own`, which no upstream may be: named in the configuration it
    /// is an error, found in a resolv.conf (a host that uses us as its resolver) it is left out.
    ///
    /// # Errors
    /// [`DnsError`] naming the upstream or the domain.
    pub(crate) fn start(
        config: &DnsConfig,
        own: &[SocketAddr],
        registry: &Registry,
        panics: IntCounter,
    ) -> Result<Forwarder, DnsError> {
        let limits = &config.limits;
        let (others, file) = match &config.upstreams {
            Upstreams::None => (Vec::new(), None),
            Upstreams::List(list) => (checked(list, own)?, None),
            Upstreams::ResolvConf(path) => {
                let found = nameservers(path, Path::new(BEHIND_STUB)).unwrap_or_else(|error| {
                    tracing::warn!(path = %path.display(), %error, "no upstreams: other names than the mesh's are refused");
                    Vec::new()
                });
                (not_own(&found, own), Some((path.clone(), found)))
            }
        };
        let mut domains: HashMap<Domain, Vec<UpstreamAddress>> = HashMap::new();
        for (name, list) in &config.domains {
            domains.insert(domain(name)?, checked(list, own)?);
        }
        let encrypted = others.iter().chain(domains.values().flatten()).any(UpstreamAddress::is_encrypted);
        let trust = if encrypted || config.upstream_ca.is_some() {
            Some(trusting(config.upstream_ca.as_deref()).map_err(|e| DnsError::Trust(e.to_string()))?)
        } else {
            None
        };
        let terms = Arc::new(Terms {
            started: Instant::now(),
            per_try: limits.forward_try,
            total: limits.forward_total,
            holdoff: limits.upstream_holdoff,
            metrics: ForwardMetrics::register(registry, panics)?,
        });
        let mut known = Vec::new();
        let domains = domains
            .into_iter()
            .map(|(name, list)| (name, group(&list, &mut known, trust.as_ref(), &terms)))
            .collect();
        let routes = Routes { others: group(&others, &mut known, trust.as_ref(), &terms), domains };
        let asked: Vec<_> = routes.all().iter().map(|upstream| Arc::clone(&upstream.label)).collect();
        tracing::info!(upstreams = ?asked, "other names are forwarded");
        let core = Arc::new(Core {
            terms,
            routes: ArcSwap::from_pointee(routes),
            cache: Cache::new(limits.cache_entries, limits.cache_bytes, limits.cache_stale),
            flights: Arc::new(Flights::default()),
            loops: Loops::new(),
            stale_after: limits.stale_after,
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(watch(Arc::clone(&core), file, own.to_vec()));
        Ok(Forwarder { core, permits: Arc::new(Semaphore::new(limits.forwards)), tasks: tasks.into() })
    }
}

/// Looks for loops, and follows `file`, whose servers were those, where there is one.
async fn watch(core: Arc<Core>, file: Option<(PathBuf, Vec<SocketAddr>)>, own: Vec<SocketAddr>) {
    let mut loops = look_for_loops(&core);
    let Some((path, found)) = file else {
        while loops.join_next().await.is_some() {}
        return;
    };
    let loops = std::sync::Mutex::new(loops);
    follow(path, BEHIND_STUB.into(), found, |found| {
        core.replace(&not_own(found, &own));
        *loops.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = look_for_loops(&core);
    })
    .await;
}

fn look_for_loops(core: &Arc<Core>) -> JoinSet<()> {
    let look = |upstream: Arc<Upstream>| {
        let core = Arc::clone(core);
        async move { core.loops.watch(&upstream, &core.terms).await }
    };
    core.routes.load().all().into_iter().map(look).collect()
}

impl Core {
    /// Asks these from now on for names of no domain of their own; what is known of those that stay is kept.
    fn replace(&self, others: &[UpstreamAddress]) {
        let former = self.routes.load_full();
        let mut known = former.all();
        let others = group(others, &mut known, None, &self.terms);
        let routes = Arc::new(Routes { others, domains: former.domains.clone() });
        let remaining = routes.all();
        for gone in former.all().iter().filter(|old| !remaining.iter().any(|new| Arc::ptr_eq(old, new))) {
            self.terms.metrics.gone(&gone.label);
        }
        self.routes.store(routes);
        self.terms.metrics.cache(self.cache.clear());
    }
}

/// The upstreams of `list`, each once; those in `known` already are the same in every group.
fn group(
    list: &[UpstreamAddress],
    known: &mut Vec<Arc<Upstream>>,
    trust: Option<&Arc<ClientConfig>>,
    terms: &Terms,
) -> Group {
    let mut group: Vec<Arc<Upstream>> = Vec::new();
    for address in list {
        let upstream = known.iter().find(|u| u.address == *address).cloned().unwrap_or_else(|| {
            let new = Arc::new(Upstream::new(address.clone(), trust, terms));
            known.push(Arc::clone(&new));
            new
        });
        if !group.iter().any(|u| Arc::ptr_eq(u, &upstream)) {
            group.push(upstream);
        }
    }
    group.into()
}

fn checked(list: &[UpstreamAddress], own: &[SocketAddr]) -> Result<Vec<UpstreamAddress>, DnsError> {
    let check = |upstream: &UpstreamAddress| match upstream {
        UpstreamAddress::Plain(address) => plain(*address, own).map(UpstreamAddress::Plain),
        other => match other.socket() {
            Some(address) => plain(address, own).map(|_| other.clone()),
            None => Ok(other.clone()),
        },
    };
    list.iter().map(check).collect()
}

/// The servers of a resolv.conf without this one.
fn not_own(found: &[SocketAddr], own: &[SocketAddr]) -> Vec<UpstreamAddress> {
    let (ours, others): (Vec<SocketAddr>, Vec<SocketAddr>) = found.iter().partition(|a| own.contains(a));
    if !ours.is_empty() {
        tracing::warn!(?ours, "left out as upstream: it is this server");
    }
    others.into_iter().map(UpstreamAddress::Plain).collect()
}
