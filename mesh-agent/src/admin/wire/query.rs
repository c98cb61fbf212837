//! Nodes, DNS, explanations and plans.

use crate::{
    admin::state::DnsAnswer,
    dataplane::Explanation,
    plan::{BackendState, Op},
};
use mesh_control::{
    PeerStats,
    model::{NodeView, Snapshot},
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, time::Duration};

/// `GET /v1/nodes`.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct NodesJson {
    /// The node that answers.
    pub local: String,
    /// Every node known, sorted by name.
    pub nodes: Vec<NodeJson>,
}

/// A node.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct NodeJson {
    /// Its name.
    pub name: String,
    /// `alive`, `suspect`, `down` or `left`, as the answering node sees it.
    pub state: String,
    /// Whether an operator drains it.
    pub draining: bool,
    /// On the underlay.
    pub addresses: Vec<String>,
    /// Where its gossip listens.
    pub gossip: Option<String>,
    /// Its zone.
    pub zone: Option<String>,
    /// Its agent's version.
    pub version: String,
    /// The overlay subnets it holds; those of the answering node also while it may not use them yet.
    pub subnets: Vec<String>,
    /// Whether it answers outside clients of other nodes itself (`ebpf.return: direct`).
    #[serde(default)]
    pub direct: bool,
    /// Endpoints it announces; 0 while it is down, as they are hidden.
    pub endpoints: usize,
    /// Time of the last TCP handshake with it; absent for the answering node, and until there was one.
    pub rtt_seconds: Option<f64>,
    /// Its wall clock less the answering node's, as last heard.
    pub clock_offset_seconds: Option<f64>,
    /// Since it was last heard.
    pub heard_seconds: Option<f64>,
    /// What is wrong with it.
    pub trouble: Option<String>,
}

impl NodeJson {
    pub(crate) fn new(view: &NodeView, endpoints: usize, peer: Option<&PeerStats>) -> Self {
        let signed = |ms: i64| {
            let size = Duration::from_millis(ms.unsigned_abs()).as_secs_f64();
            if ms < 0 { -size } else { size }
        };
        NodeJson {
            name: view.name.to_string(),
            state: view.state.as_str().to_owned(),
            draining: view.info.draining,
            addresses: view.info.addresses.iter().map(|a| a.to_string()).collect(),
            gossip: view.gossip.map(|a| a.to_string()),
            zone: view.info.zone.as_ref().map(ToString::to_string),
            version: view.info.version.clone(),
            subnets: view.subnets.iter().map(ToString::to_string).collect(),
            direct: view.info.direct,
            endpoints,
            rtt_seconds: peer.and_then(|p| p.rtt).map(|us| f64::from(us) / 1e6),
            clock_offset_seconds: peer.and_then(|p| p.clock_offset).map(signed),
            heard_seconds: peer.and_then(|p| p.heard).map(|ms| Duration::from_millis(ms).as_secs_f64()),
            trouble: peer.and_then(|p| p.trouble.clone()),
        }
    }
}

impl NodesJson {
    pub(crate) fn new(snapshot: &Snapshot, peers: &[PeerStats]) -> Self {
        let peers: BTreeMap<_, _> = peers.iter().map(|p| (&p.node, p)).collect();
        let mut counts = BTreeMap::new();
        for e in snapshot.services.values().flat_map(|s| s.endpoints.iter()) {
            *counts.entry(&e.node).or_default() += 1;
        }
        let nodes = snapshot.nodes.iter();
        NodesJson {
            local: snapshot.local.to_string(),
            nodes: nodes
                .map(|(n, v)| NodeJson::new(v, counts.get(n).copied().unwrap_or(0), peers.get(n).copied()))
                .collect(),
        }
    }
}

/// `GET /v1/dns`.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct DnsJson {
    /// What was asked.
    pub name: String,
    /// The type that was asked for.
    #[serde(rename = "type")]
    pub record_type: String,
    /// `NOERROR`, `NXDOMAIN`, …
    pub rcode: String,
    /// Whether this node's own zone answers.
    pub authoritative: bool,
    /// The answer section.
    pub records: Vec<DnsRecordJson>,
    /// Where it comes from, when that was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub explanation: Option<mesh_dns::Explanation>,
}

/// A DNS record.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct DnsRecordJson {
    /// Owner.
    pub name: String,
    /// Type.
    #[serde(rename = "type")]
    pub record_type: String,
    /// Seconds.
    pub ttl: u32,
    /// Presentation format.
    pub data: String,
}

impl DnsJson {
    pub(crate) fn new(name: String, record_type: String, answer: DnsAnswer) -> Self {
        let records = answer.records.into_iter();
        DnsJson {
            name,
            record_type,
            rcode: answer.rcode,
            authoritative: answer.authoritative,
            records: records
                .map(|r| DnsRecordJson { name: r.name, record_type: r.record_type, ttl: r.ttl, data: r.data })
                .collect(),
            explanation: answer.explanation,
        }
    }
}

/// `GET /v1/explain`.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct ExplainJson {
    /// What the client dials.
    pub destination: String,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// The client, when it was given.
    pub client: Option<String>,
    /// The node that answers; others may prefer other backends.
    pub node: String,
    /// The frontend that matches, as `10.96.0.7:80/tcp`.
    pub frontend: Option<String>,
    /// Its service.
    pub service: Option<String>,
    /// Every backend.
    pub candidates: Vec<CandidateJson>,
    /// The backend that affinity remembers for this client.
    pub affinity: Option<String>,
    /// The objects that say so.
    pub objects: Vec<String>,
}

/// A backend in an explanation.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct CandidateJson {
    /// As `web-1@node-a`.
    pub backend: String,
    /// Where it is reached.
    pub address: String,
    /// Chance of the next flow, 0 to 1.
    pub probability: f64,
    /// Why it is not picked.
    pub excluded: Option<String>,
}

impl ExplainJson {
    pub(crate) fn new(node: &str, flow: &crate::dataplane::Flow, e: Explanation) -> Self {
        let candidates = e.candidates.into_iter();
        ExplainJson {
            destination: flow.destination.to_string(),
            protocol: flow.protocol.to_string(),
            client: flow.client.map(|c| c.to_string()),
            node: node.to_owned(),
            frontend: e.frontend.map(|f| f.to_string()),
            service: e.service.map(|s| s.to_string()),
            candidates: candidates
                .map(|c| CandidateJson {
                    backend: c.backend.to_string(),
                    address: c.address.to_string(),
                    probability: c.probability,
                    excluded: c.excluded,
                })
                .collect(),
            affinity: e.affinity.map(|b| b.to_string()),
            objects: e.objects,
        }
    }
}

/// `GET /v1/plan`.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct PlanJson {
    /// The snapshot it is computed from.
    pub revision: u64,
    /// What would be done, in order; empty when the data plane holds what it should.
    pub operations: Vec<OperationJson>,
    /// What would be done to the overlay, for people; empty when it is as it should be.
    #[serde(default)]
    pub overlay: Vec<String>,
}

/// One pending operation.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct OperationJson {
    /// `put-frontend`, `put-backend`, `remove-backend` or `remove-frontend`.
    pub op: String,
    /// As `10.96.0.7:80/tcp`.
    pub frontend: String,
    /// As `web-1@node-a`, for the two about backends.
    pub backend: Option<String>,
    /// What it is put to, in words.
    pub detail: Option<String>,
}

impl OperationJson {
    pub(crate) fn new(op: &Op) -> Self {
        let (word, backend, detail) = match op {
            Op::PutFrontend(f) => ("put-frontend", None, Some(format!("{} {}", f.service, f.scheduler))),
            Op::PutBackend { backend: b, .. } => {
                let until = match b.state {
                    BackendState::Draining { deadline: Some(ms) } => format!(" until {ms}"),
                    _ => String::new(),
                };
                let text = format!("{} weight {} {}{until}", b.socket(0), b.weight, b.state.as_str());
                ("put-backend", Some(b.id.to_string()), Some(text))
            }
            Op::RemoveBackend { backend, .. } => ("remove-backend", Some(backend.to_string()), None),
            Op::RemoveFrontend(_) => ("remove-frontend", None, None),
        };
        OperationJson { op: word.to_owned(), frontend: op.frontend().to_string(), backend, detail }
    }
}
