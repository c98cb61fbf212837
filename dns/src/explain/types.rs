//! The shape of an explanation, which is also its JSON.

use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// Where an answer comes from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// The snapshot that the mesh's own names are answered from.
    pub revision: u64,
    /// The address asked, as `10.0.0.1:53`; absent when the question is the host's own, which sees every namespace.
    pub listen: Option<String>,
    /// The namespaces that exist for who asks there; all when absent.
    pub namespaces: Option<Vec<String>>,
    /// The namespace of a name that names none.
    pub default_namespace: String,
    /// How the name as written became the name asked, in words.
    pub completed: Option<String>,
    /// The name asked, and then each that a CNAME led to.
    pub steps: Vec<Step>,
    /// How the last of them is asked elsewhere, when it is not ours.
    pub forward: Option<ForwardPath>,
}

/// One name on the way to an answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// The name, fully qualified.
    pub name: String,
    /// Whose it is.
    pub origin: Origin,
    /// The zone it is in, when it is ours.
    pub zone: Option<String>,
    /// What the name stands for, in words.
    pub meaning: String,
    /// The service it belongs to, as `web` or `web.shop`.
    pub service: Option<String>,
    /// What came of it.
    pub outcome: Outcome,
    /// Why, one sentence each.
    pub reasons: Vec<String>,
    /// Names that were perhaps meant, when there is none like it, the nearest first.
    pub nearest: Vec<String>,
    /// How long the answer may be kept, when it is ours.
    pub ttl: Option<TtlOrigin>,
    /// Whose addresses could be in the answer, and why each is or is not.
    pub candidates: Vec<Candidate>,
    /// Further ones that are not listed.
    pub more_candidates: usize,
    /// Endpoints of the service that are hidden because their node is down.
    pub hidden_endpoints: usize,
}

/// Whose a name is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// The mesh's, below its domain.
    Mesh,
    /// The mesh's, without the domain, where the address asked allows that.
    Bare,
    /// The mesh's, as Kubernetes writes it.
    Kubernetes,
    /// That of an address of the mesh.
    Reverse,
    /// Somebody else's: upstreams are asked.
    #[default]
    Forwarded,
}

/// What came of a name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Records.
    Answer,
    /// Another name stands for it: the next step.
    Alias,
    /// It exists, and has no record of the type: NOERROR without an answer.
    NoData,
    /// NXDOMAIN.
    NoSuchName,
    /// REFUSED.
    Refused,
    /// SERVFAIL.
    Failed,
    /// Upstreams are asked.
    #[default]
    Forwarded,
}

/// How long an answer may be kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TtlOrigin {
    /// Seconds.
    pub seconds: u32,
    /// The setting that says so, as `dns.ttl`.
    pub from: String,
}

/// Something whose address could be answered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// `VIP`, or an instance; of an address, its service or `INSTANCE.SERVICE`.
    pub name: String,
    /// The instance's node.
    pub node: Option<String>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Whether one of them, or its name, is in the answer.
    pub answered: bool,
    /// Why, in words.
    pub why: String,
}

/// How a name that is not ours is asked.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ForwardPath {
    /// The domain of `dns.domains` that it is in; absent when `dns.upstreams` are asked.
    pub domain: Option<String>,
    /// The upstreams in the order in which they are asked, as they stood before this question.
    pub upstreams: Vec<UpstreamState>,
    /// What the cache held before this question.
    pub cached: Option<Cached>,
    /// Who answered: an upstream, `cache` or `stale cache`.
    pub answered_by: Option<String>,
    /// Why nobody did.
    pub problem: Option<String>,
}

/// How an upstream is doing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct UpstreamState {
    /// As it is written.
    pub address: String,
    /// `good`; `doubtful`: it was silent or outrun; `failing`; `looped`: it leads back here and is left out.
    pub state: String,
    /// Failures in a row.
    pub failures: u32,
    /// Smoothed time to a reply, in seconds, once there was one.
    pub rtt_seconds: Option<f64>,
}

/// A reply in the cache.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cached {
    /// Whether it may be given without asking.
    pub fresh: bool,
    /// Seconds it stays fresh, or, when it is not, since it was.
    pub seconds: u64,
    /// Its response code.
    pub rcode: String,
}
