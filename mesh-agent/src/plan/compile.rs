//! From one service of a snapshot to its frontends and backends.
//!
//! - A VIP port becomes one frontend per address family the service holds a VIP of.
//! - A published port becomes one frontend per address it is open on: `Publish::address` if the service names one,
//!   else each of [`Policy::publish`], else every local address of each family in use. It is left out while its
//!   number is not claimed yet and when another service holds it.
//! - `mode: host` exists only where this node has an endpoint of the service, and has only this node's backends.
//! - Backends have the family of their frontend; an endpoint without such an address is no backend of it.
//! - A range stays one frontend unless an endpoint maps ports inside it to others: then it is split there, because
//!   a backend's ports follow its first one by one.
//! - State: ready → `Active`; terminating and serving → `Draining`; anything else → `Down`. A draining endpoint
//!   takes no new flow even when nothing else is left (unlike a Kubernetes Service, whose proxies fall back to
//!   terminating endpoints): a drain promises its end, and `no_backend: hold` bridges the gap.
//! - Locality decides over the backends that take new flows, per family. While a preferred one is there, the others
//!   stay with weight 0, so that their old flows live on; with `local-only` others are not there at all.
//! - A drained *node* needs no rule here: its sources announce its endpoints as terminating.

use super::{
    backend::{Backend, BackendId, BackendState},
    facts::{NodeFacts, Policy},
    frontend::{Frontend, FrontendKey, Listen},
    ops::Entry,
};
use ipnetwork::IpNetwork;
use mesh_control::model::{
    Endpoint, EndpointView, Family, Locality, PortRange, Protocol, PublishMode, ServicePort, ServiceView,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

/// The entries one service asks for on this node, sorted by frontend without duplicates.
///
/// Pure and deterministic. Entries of equal backends share one slice.
#[must_use]
pub fn compile_service(view: &ServiceView, node: &NodeFacts, policy: &Policy) -> Vec<Entry> {
    let mut compiler = Compiler { view, node, slices: BTreeMap::new(), entries: BTreeMap::new() };
    for port in &view.spec.ports {
        for address in view.vips.iter().filter(|a| policy.families.contains(&Family::of(a))) {
            compiler.add(Listen::Vip(address), port, port.port, &[], false);
        }
    }
    for published in &view.published {
        let port = view.spec.ports.get(published.index);
        let (Some(port), Some(range), None) = (port, published.port, &published.conflict) else { continue };
        let host = published.mode == PublishMode::Host;
        if host && !view.endpoints.iter().any(|e| e.node == node.name) {
            continue;
        }
        let (address, allow) =
            port.publish.as_ref().map_or((None, &[][..]), |p| (p.address, p.allow.as_slice()));
        for listen in open_on(address, policy) {
            compiler.add(listen, port, range, allow, host);
        }
    }
    compiler.entries.into_values().collect()
}

/// Where a published port is open. The unspecified address means every local address of its family.
fn open_on(address: Option<IpAddr>, policy: &Policy) -> Vec<Listen> {
    let wanted = |listen: &Listen| policy.families.contains(&listen.family());
    let one = |a: IpAddr| {
        if a.is_unspecified() { Listen::AnyLocal(Family::of(&a)) } else { Listen::Address(a) }
    };
    let all: Vec<Listen> = match (address, &policy.publish) {
        (Some(a), _) => vec![one(a)],
        (None, None) => policy.families.iter().copied().map(Listen::AnyLocal).collect(),
        (None, Some(publish)) => publish.iter().copied().map(one).collect(),
    };
    all.into_iter().filter(wanted).collect()
}

/// What decides a slice of backends: family, the target of the first port, and whether only own ones count.
type SliceKey = (Family, u16, bool);

struct Compiler<'a> {
    view: &'a ServiceView,
    node: &'a NodeFacts,
    /// Slices made so far, so that equal ones are shared.
    slices: BTreeMap<SliceKey, Arc<[Backend]>>,
    entries: BTreeMap<FrontendKey, Entry>,
}

impl Compiler<'_> {
    /// Adds the frontends of `range` at `listen`; `range.first()` leads to `port.target`.
    fn add(&mut self, listen: Listen, port: &ServicePort, range: PortRange, allow: &[IpNetwork], own: bool) {
        for (ports, target) in segments(range, port.target, &self.view.endpoints) {
            let key = FrontendKey { listen, ports, protocol: port.protocol };
            if self.entries.contains_key(&key) {
                continue;
            }
            let spec = &self.view.spec;
            let frontend = Frontend {
                key,
                service: self.view.key.clone(),
                scheduler: spec.scheduler,
                affinity: spec.affinity,
                no_backend: spec.no_backend,
                proxy_protocol: port.proxy_protocol && port.protocol == Protocol::Tcp,
                idle_timeout: spec.idle_timeout,
                max_connections: spec.max_connections,
                allow: allow.to_vec(),
            };
            let backends = self.backends((listen.family(), target, own));
            self.entries.insert(key, Entry { frontend: Arc::new(frontend), backends });
        }
    }

    fn backends(&mut self, key: SliceKey) -> Arc<[Backend]> {
        let (view, node) = (self.view, self.node);
        let make = || backends(&view.endpoints, node, view.spec.locality, key);
        Arc::clone(self.slices.entry(key).or_insert_with(make))
    }
}

/// The backends of one service port: sorted by id, without duplicates, locality applied.
fn backends(
    endpoints: &[EndpointView],
    node: &NodeFacts,
    locality: Locality,
    (family, target, own): SliceKey,
) -> Arc<[Backend]> {
    let own = own || locality == Locality::LocalOnly;
    let seen = |e: &&EndpointView| !own || e.node == node.name;
    let preferred = |e: &EndpointView| match locality {
        Locality::PreferLocal => e.node == node.name,
        Locality::PreferZone => e.zone.is_some() && e.zone == node.zone,
        Locality::Any | Locality::LocalOnly => true,
    };
    let mut all: Vec<(Backend, bool)> = endpoints
        .iter()
        .filter(seen)
        .filter_map(|e| {
            let backend = Backend {
                id: BackendId { instance: e.endpoint.instance.clone(), node: e.node.clone() },
                address: e.endpoint.addresses.get(family)?,
                port: e.endpoint.port_for(target),
                weight: e.endpoint.weight,
                state: state_of(&e.endpoint),
            };
            Some((backend, preferred(e)))
        })
        .collect();
    if !all.is_sorted_by(|(a, _), (b, _)| a.id < b.id) {
        all.sort_by(|(a, _), (b, _)| a.id.cmp(&b.id));
        all.dedup_by(|(a, _), (b, _)| a.id == b.id);
    }
    let standby = all.iter().any(|(b, preferred)| *preferred && b.takes_new_flows());
    all.into_iter()
        .map(|(b, preferred)| if standby && !preferred { Backend { weight: 0, ..b } } else { b })
        .collect()
}

fn state_of(endpoint: &Endpoint) -> BackendState {
    if endpoint.ready && !endpoint.terminating {
        BackendState::Active
    } else if endpoint.terminating && endpoint.serving {
        BackendState::Draining { deadline: endpoint.drain_until }
    } else {
        BackendState::Down
    }
}

/// Cuts `range` where an endpoint's own ports stop following one by one; yields each part with its first target.
fn segments(range: PortRange, target: u16, endpoints: &[EndpointView]) -> Vec<(PortRange, u16)> {
    let length = u16::try_from(range.count()).unwrap_or(u16::MAX);
    let last = target.saturating_add(length - 1);
    let mut cuts = BTreeSet::from([0]);
    if length > 1 {
        for e in endpoints.iter().map(|e| &e.endpoint) {
            for port in e.ports.range(target..=last).map(|(port, _)| *port) {
                let follows = |p: u16| u32::from(e.port_for(p)) == u32::from(e.port_for(p - 1)) + 1;
                if port > target && !follows(port) {
                    cuts.insert(port - target);
                }
                if port < last && !follows(port + 1) {
                    cuts.insert(port - target + 1);
                }
            }
        }
    }
    let ends = cuts.iter().skip(1).copied().chain([length]);
    let parts = cuts.iter().zip(ends).filter_map(|(from, to)| {
        let ports = PortRange::new(range.first() + from, range.first() + (to - 1)).ok()?;
        Some((ports, target + from))
    });
    parts.collect()
}
