//! The embedded DNS of the mesh.
//!
//! Data flows one way: a [`mesh_control::model::Snapshot`] becomes a [`DnsView`] (incrementally: one changed service
//! costs O(log n)); [`answer()`] is a pure function from view and question to the sections of a reply, and [`explain()`]
//! tells where they come from, out of the same lookups; [`DnsServer`] is the thin shell of sockets around it, and hands
//! every name that is not ours to a pass-through forwarder.
//!
//! # What names answer
//! Below the zone (`cluster.` by default), case-insensitively, with the question's case echoed:
//!
//! | name | answer |
//! |---|---|
//! | `NAME`, `NAME.NAMESPACE` | A/AAAA: the VIP; with `dnsrr` every ready endpoint of weight above 0, rotated, in the order `locality` asks for; TXT: namespace, mode, ports; aliases likewise |
//! | `tasks.NAME[.NAMESPACE]` | A/AAAA: every ready endpoint, rotated |
//! | `INSTANCE.NAME[.NAMESPACE]` | A/AAAA: that endpoint |
//! | `_PORT._PROTO.NAME[.NAMESPACE]` | SRV: `vip`: the service's own name and VIP port; `dnsrr`: each instance and its port. PORT is a port's name or number |
//! | `_PORT._PROTO.tasks.NAME[.NAMESPACE]` | SRV: each ready instance and its port, addresses in the additional section |
//! | a service with an external name | CNAME, followed as far as it is ours; [`Answer::rest`] where it leads out |
//! | the zone itself | SOA and NS (`ns.dns`, whose addresses are those the server listens on) |
//! | `in-addr.arpa`, `ip6.arpa` | PTR for VIPs and ready endpoints; NXDOMAIN for the rest of [`DnsConfig::local_reverse`] |
//!
//! `NAME` alone is in the namespace `default`. Where two readings fit, the service wins: `a.b` is service `a` of
//! namespace `b` if there is one, else instance `a` of service `b`; the long form `a.b.default` always means the
//! instance, and a service's own name beats an alias.
//!
//! What a client sees can be narrowed by a [`Scope`]: namespaces, the default one, and bare names without the zone.
//! Below [`DnsConfig::kubernetes`] the same services have the names of the Kubernetes DNS specification 1.1.0:
//! `NAME.NAMESPACE.svc`, `ENDPOINT.NAME.NAMESPACE.svc`, `_PORT._PROTO.NAME.NAMESPACE.svc`, `A-B-C-D.NAMESPACE.pod`,
//! `dns-version`; PTR records are then written so.
//!
//! A name that exists without records of the type asked is NOERROR without answer (also a namespace, `_tcp.NAME`,
//! `tasks.NAME` without a ready endpoint, an instance that is not ready); one that does not exist is NXDOMAIN; both
//! carry the SOA (RFC 2308). All other names are forwarded, or REFUSED when there is no upstream.
#![forbid(unsafe_code)]

mod address;
mod answer;
mod config;
mod encode;
mod explain;
mod fast;
mod forward;
#[cfg(test)]
mod fuzz;
mod index;
mod kubernetes;
mod metrics;
mod naming;
mod packet;
mod records;
mod resolve;
mod reverse;
mod scope;
mod server;
mod shards;
mod view;
mod zone;

pub use address::{HttpsHost, NoUpstream, UpstreamAddress};
pub use answer::{Answer, AnswerOptions, Question, answer};
pub use config::{DnsConfig, DnsError, Limits, Upstreams};
pub use explain::{
    Cached, Candidate, Explanation, ForwardPath, Origin, Outcome, Step, TtlOrigin, UpstreamState, explain,
};
pub use forward::ForwardError;
pub use scope::Scope;
pub use server::{
    AnswerSource, DnsHandle, DnsServer, Lookup, LookupError, LookupRecord, LookupReply, port_owner,
};
pub use view::DnsView;
pub use zone::{Zone, ZoneError};
