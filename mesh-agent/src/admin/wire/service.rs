//! Services and endpoints.

use super::words::{origin_text, word};
use crate::{
    admin::state::HealthResult,
    dataplane::{BackendCounters, Counters},
};
use mesh_control::model::{EndpointView, NodeName, ServiceKey, ServicePort, ServiceView, Snapshot};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// `GET /v1/services`.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct ServicesJson {
    /// The snapshot they come from.
    pub revision: u64,
    /// Sorted by namespace and name.
    pub services: Vec<ServiceJson>,
}

/// A service.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct ServiceJson {
    /// `web`, or `web.shop` outside the default namespace.
    pub service: String,
    /// Name alone.
    pub name: String,
    /// Namespace alone.
    pub namespace: String,
    /// `vip` or `dnsrr`.
    pub endpoint_mode: String,
    /// The virtual addresses it holds.
    pub vips: Vec<String>,
    /// Its ports.
    pub ports: Vec<PortJson>,
    /// `rr`, `wrr`, `lc`, `maglev` or `random`.
    pub scheduler: String,
    /// Client-IP affinity: seconds a choice is remembered.
    pub affinity_seconds: Option<f64>,
    /// `any`, `prefer-local`, `prefer-zone` or `local-only`.
    pub locality: String,
    /// `reject`, `drop` or `hold`.
    pub no_backend: String,
    /// How long old flows may stay on a draining endpoint.
    pub drain_seconds: f64,
    /// The health check in words, as `http :80/ every 2s`; absent without one.
    pub health: Option<String>,
    /// Idle time of a flow, when the service sets one.
    pub idle_timeout_seconds: Option<f64>,
    /// Most concurrent flows to one backend.
    pub max_connections: Option<u32>,
    /// Seconds a DNS answer may be kept, when the service sets it.
    pub ttl: Option<u32>,
    /// Seconds that DNS may be told nothing is there, when the service sets it.
    pub negative_ttl: Option<u32>,
    /// The domain name that DNS answers instead (CNAME).
    pub external_name: Option<String>,
    /// Further names.
    pub aliases: Vec<String>,
    /// Free labels.
    pub labels: BTreeMap<String, String>,
    /// Who declares it, the one in force first: `cluster` or `node:NAME`.
    pub origins: Vec<String>,
    /// Those whose declaration differs from the one in force.
    pub overruled: Vec<String>,
    /// Endpoints that take new flows.
    pub endpoints_ready: usize,
    /// Endpoints of nodes that are up.
    pub endpoints_total: usize,
    /// Endpoints hidden because their node is down.
    pub endpoints_hidden: usize,
}

/// A port of a service.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct PortJson {
    /// For SRV records.
    pub name: Option<String>,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// What clients dial on the VIP.
    pub port: String,
    /// The endpoint's port for the first one.
    pub target: u16,
    /// Where nodes open it.
    pub published: Option<PublishedJson>,
    /// Whether backends get a PROXY protocol v2 header.
    pub proxy_protocol: bool,
}

/// A published port.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct PublishedJson {
    /// The nodes' ports; absent while one out of the dynamic range is not claimed yet.
    pub port: Option<String>,
    /// `ingress` or `host`.
    pub mode: String,
    /// The service that holds the port with the better claim; then this one is closed.
    pub conflict: Option<String>,
}

/// `GET /v1/services/{name}`.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct ServiceDetail {
    /// The service.
    #[serde(flatten)]
    pub service: ServiceJson,
    /// Its endpoints on nodes that are up.
    pub endpoints: Vec<EndpointJson>,
}

/// `GET /v1/endpoints`.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct EndpointsJson {
    /// The snapshot they come from.
    pub revision: u64,
    /// Sorted by service, instance and node.
    pub endpoints: Vec<EndpointJson>,
}

/// An endpoint.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct EndpointJson {
    /// Its service.
    pub service: String,
    /// Its name.
    pub instance: String,
    /// The node that announces it.
    pub node: String,
    /// That node's zone.
    pub zone: Option<String>,
    /// Where it is reached.
    pub addresses: Vec<String>,
    /// Where it differs from the service's targets.
    pub ports: BTreeMap<u16, u16>,
    /// Share of new flows.
    pub weight: u16,
    /// `ready`, `draining` or `not-ready`.
    pub state: String,
    /// When old flows are reset.
    pub drain_until: Option<u64>,
    /// What its health check says; only on its own node.
    pub health: Option<HealthJson>,
    /// Flows through the data plane of the node that answers.
    pub connections: ConnectionsJson,
}

/// A health check's result.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct HealthJson {
    /// Absent before the first verdict.
    pub healthy: Option<bool>,
    /// The last result in words.
    pub detail: String,
}

/// Flows of one backend through one node's data plane.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ConnectionsJson {
    /// Open now.
    pub active: u64,
    /// Reached the backend.
    pub established: u64,
    /// Refused or unanswered by it.
    pub failed: u64,
    /// Reset by the data plane.
    pub reset: u64,
    /// Client to backend.
    pub bytes_in: u64,
    /// Backend to client.
    pub bytes_out: u64,
}

impl ConnectionsJson {
    fn add(&mut self, c: &BackendCounters) {
        self.active += c.active;
        self.established += c.established;
        self.failed += c.failed;
        self.reset += c.reset;
        self.bytes_in += c.bytes_in;
        self.bytes_out += c.bytes_out;
    }
}

/// Flows by backend, found in O(log n).
pub(crate) type Flows<'a> = BTreeMap<(&'a ServiceKey, &'a str, &'a NodeName), ConnectionsJson>;

/// Health checks by endpoint, found in O(log n).
pub(crate) type Checks<'a> = BTreeMap<(&'a ServiceKey, &'a str), &'a HealthResult>;

/// Indexes check results.
pub(crate) fn checks(results: &[HealthResult]) -> Checks<'_> {
    results.iter().map(|h| ((&h.service, h.instance.as_str()), h)).collect()
}

/// Sums counters over protocols and states.
pub(crate) fn flows(counters: &Counters) -> Flows<'_> {
    let mut map = Flows::new();
    for c in &counters.backends {
        map.entry((&c.service, c.backend.instance.as_str(), &c.backend.node)).or_default().add(c);
    }
    map
}

/// The word for an endpoint's state as a whole, its node's drain included.
pub(crate) fn endpoint_state(snapshot: &Snapshot, view: &EndpointView) -> &'static str {
    let node_drains = snapshot.nodes.get(&view.node).is_some_and(|n| n.info.draining);
    match &view.endpoint {
        e if e.terminating || node_drains => "draining",
        e if e.ready => "ready",
        _ => "not-ready",
    }
}

/// How many endpoints there are of each state; every state is present.
pub(crate) fn endpoint_counts(snapshot: &Snapshot) -> BTreeMap<String, usize> {
    let mut counts: BTreeMap<String, usize> =
        ["ready", "draining", "not-ready", "hidden"].map(|s| (s.to_owned(), 0)).into();
    for service in snapshot.services.values() {
        *counts.entry("hidden".to_owned()).or_default() += service.hidden_endpoints;
        for e in service.endpoints.iter() {
            *counts.entry(endpoint_state(snapshot, e).to_owned()).or_default() += 1;
        }
    }
    counts
}

impl ServiceJson {
    pub(crate) fn new(snapshot: &Snapshot, view: &ServiceView) -> Self {
        let spec = &view.spec;
        let seconds = |d: std::time::Duration| d.as_secs_f64();
        let ready = view.endpoints.iter().filter(|e| endpoint_state(snapshot, e) == "ready").count();
        ServiceJson {
            service: view.key.to_string(),
            name: view.key.name.to_string(),
            namespace: view.key.namespace.to_string(),
            endpoint_mode: word(&spec.endpoint_mode),
            vips: view.vips.iter().map(|a| a.to_string()).collect(),
            ports: spec.ports.iter().enumerate().map(|(i, p)| PortJson::new(view, i, p)).collect(),
            scheduler: spec.scheduler.to_string(),
            affinity_seconds: spec.affinity.map(|a| seconds(a.timeout)),
            locality: word(&spec.locality),
            no_backend: word(&spec.no_backend),
            drain_seconds: seconds(spec.drain),
            health: spec.health.as_ref().map(health_text),
            idle_timeout_seconds: spec.idle_timeout.map(seconds),
            max_connections: spec.max_connections,
            ttl: spec.ttl,
            negative_ttl: spec.negative_ttl,
            external_name: spec.external_name.clone(),
            aliases: spec.aliases.iter().map(ToString::to_string).collect(),
            labels: spec.labels.clone(),
            origins: view.origins.iter().map(origin_text).collect(),
            overruled: view
                .conflict
                .as_ref()
                .map(|c| c.overruled.iter().map(origin_text).collect())
                .unwrap_or_default(),
            endpoints_ready: ready,
            endpoints_total: view.endpoints.len(),
            endpoints_hidden: view.hidden_endpoints,
        }
    }
}

impl PortJson {
    fn new(view: &ServiceView, index: usize, port: &ServicePort) -> Self {
        let published = port.publish.as_ref().map(|wanted| {
            let held = view.published.iter().find(|p| p.index == index);
            PublishedJson {
                port: held.and_then(|p| p.port).or(wanted.port).map(|p| p.to_string()),
                mode: word(&wanted.mode),
                conflict: held.and_then(|p| p.conflict.as_ref()).map(ToString::to_string),
            }
        });
        PortJson {
            name: port.name.as_ref().map(ToString::to_string),
            protocol: port.protocol.to_string(),
            port: port.port.to_string(),
            target: port.target,
            published,
            proxy_protocol: port.proxy_protocol,
        }
    }
}

impl EndpointJson {
    pub(crate) fn new(
        snapshot: &Snapshot,
        key: &ServiceKey,
        view: &EndpointView,
        flows: &Flows<'_>,
        checks: &Checks<'_>,
    ) -> Self {
        let e = &view.endpoint;
        // Checks are this node's; another node may announce an instance of the same name.
        let checked = checks.get(&(key, e.instance.as_str())).filter(|_| view.node == snapshot.local);
        EndpointJson {
            service: key.to_string(),
            instance: e.instance.to_string(),
            node: view.node.to_string(),
            zone: view.zone.as_ref().map(ToString::to_string),
            addresses: e.addresses.iter().map(|a| a.to_string()).collect(),
            ports: e.ports.clone(),
            weight: e.weight,
            state: endpoint_state(snapshot, view).to_owned(),
            drain_until: e.drain_until,
            health: checked.map(|h| HealthJson { healthy: h.healthy, detail: h.detail.clone() }),
            connections: flows.get(&(key, e.instance.as_str(), &view.node)).cloned().unwrap_or_default(),
        }
    }
}

fn health_text(check: &mesh_control::model::HealthCheck) -> String {
    use mesh_control::model::CheckKind::{Http, Tcp};
    let port = |p: &Option<u16>| p.map(|p| format!(":{p}")).unwrap_or_default();
    let what = match &check.kind {
        Tcp { port: p } => format!("tcp {}", port(p)),
        Http { port: p, path, .. } => format!("http {}{path}", port(p)),
    };
    let every = humantime::format_duration(check.interval);
    format!("{} every {every}, rise {}, fall {}", what.trim_end(), check.rise, check.fall)
}
