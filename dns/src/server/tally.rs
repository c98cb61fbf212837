//! Counts of the fast path, gathered for a batch and then added to the metrics at once: exact, and cheap.

use crate::{
    fast::Query,
    metrics::{Metrics, TYPES, Transport},
};
use hickory_proto::{op::ResponseCode, rr::RecordType};
use prometheus::{IntCounter, local::LocalHistogram};
use std::{net::SocketAddr, time::Duration};

/// One worker's counts.
pub(super) struct Tally {
    /// By family and type, the last type being all others.
    requests: Vec<(IntCounter, u64)>,
    /// NOERROR and NXDOMAIN, the only ones here.
    responses: [(IntCounter, u64); 2],
    /// Queries with DO.
    dnssec: (IntCounter, u64),
    duration: LocalHistogram,
    /// Replies of this batch.
    replies: u64,
}

const KINDS: usize = TYPES.len() + 1;

impl Tally {
    pub(super) fn new(metrics: &Metrics, transport: Transport) -> Tally {
        let kinds = || TYPES.iter().map(|(kind, _)| Some(*kind)).chain([None]);
        let families = ["127.0.0.1", "::1"].map(|text| text.parse().ok());
        let requests = families
            .into_iter()
            .flatten()
            .flat_map(|family| kinds().map(move |kind| (metrics.requests_of(transport, family, kind), 0)));
        Tally {
            requests: requests.collect(),
            responses: [ResponseCode::NoError, ResponseCode::NXDomain]
                .map(|code| (metrics.responses_of(code), 0)),
            dnssec: (metrics.do_requests.clone(), 0),
            duration: metrics.duration().local(),
            replies: 0,
        }
    }

    /// Notes a query and its reply.
    pub(super) fn note(&mut self, client: SocketAddr, query: &Query<'_>, code: ResponseCode) {
        let kind = RecordType::from(query.kind);
        let place = TYPES.iter().position(|(known, _)| *known == kind).unwrap_or(TYPES.len());
        if let Some((_, count)) = self.requests.get_mut(usize::from(client.is_ipv6()) * KINDS + place) {
            *count += 1;
        }
        self.responses[usize::from(code == ResponseCode::NXDomain)].1 += 1;
        self.dnssec.1 += u64::from(query.edns == Some(true));
        self.replies += 1;
    }

    /// Adds the batch to the metrics; each reply took as long as the batch.
    pub(super) fn flush(&mut self, took: Duration) {
        for (counter, count) in self.requests.iter_mut().chain(&mut self.responses).chain([&mut self.dnssec])
        {
            if *count > 0 {
                counter.inc_by(std::mem::take(count));
            }
        }
        for _ in 0..std::mem::take(&mut self.replies) {
            self.duration.observe(took.as_secs_f64());
        }
        self.duration.flush();
    }
}
