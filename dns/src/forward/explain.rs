//! How a name would be asked now, for people: a look at the routes, the upstreams' health and the cache.

use super::{
    forwarder::{ForwardError, Forwarder},
    health::{Health, plan},
    upstream::Upstream,
    wire::Asked,
};
use crate::{
    explain::{Cached, ForwardPath, UpstreamState},
    metrics::code,
    packet::question_octets,
};
use hickory_proto::{op::ResponseCode, rr::Name, serialize::binary::BinDecodable};
use std::time::Instant;

impl Forwarder {
    /// How `query` would be answered at `now`. Sends and changes nothing.
    pub(crate) fn explain(&self, query: &[u8], now: Instant) -> ForwardPath {
        let Some(question) = question_octets(query) else { return ForwardPath::default() };
        let routes = self.core.routes.load();
        let (domain, group) = routes.route(question);
        // Who leads back here is not asked: it comes last, for the reader only.
        let (looped, asked): (Vec<_>, Vec<_>) = group.iter().partition(|upstream| upstream.is_looped());
        let health: Vec<Health> = asked.iter().map(|upstream| upstream.health()).collect();
        let order = plan(&health).into_iter().map(|at| asked[at]);
        let cached = Asked::read(query).and_then(|asked| self.core.cache.look(&asked, now));
        ForwardPath {
            domain: domain.and_then(|wire| Name::from_bytes(wire).ok()).map(|name| name.to_string()),
            upstreams: order.chain(looped).map(|upstream| state(upstream)).collect(),
            cached: cached.map(|(rcode, age, ttl)| Cached {
                fresh: age < ttl,
                seconds: age.abs_diff(ttl).into(),
                rcode: code(rcode).to_owned(),
            }),
            answered_by: None,
            problem: None,
        }
    }
}

fn state(upstream: &Upstream) -> UpstreamState {
    let health = upstream.health();
    let state = match health {
        _ if upstream.is_looped() => "looped",
        health if health.is_down() => "failing",
        health if health.is_good() => "good",
        _ => "doubtful",
    };
    UpstreamState {
        address: upstream.label.to_string(),
        state: state.to_owned(),
        failures: health.failures(),
        rtt_seconds: health.rtt().map(|rtt| rtt.as_secs_f64()),
    }
}

impl ForwardError {
    /// What a client gets.
    pub(crate) fn rcode(&self) -> ResponseCode {
        match self {
            ForwardError::NotAQuery => ResponseCode::FormErr,
            ForwardError::NoUpstream | ForwardError::Loop => ResponseCode::Refused,
            ForwardError::Unanswered(_) => ResponseCode::ServFail,
        }
    }
}
