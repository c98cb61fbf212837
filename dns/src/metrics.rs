//! What the server counts. Every label has a bounded set of values, whatever clients send.

use hickory_proto::{op::ResponseCode, rr::RecordType};
use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry};
use std::{net::IpAddr, time::Duration};

/// The transport of a client's query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Udp,
    Tcp,
}

/// The record types that are counted under their own name.
pub(crate) const TYPES: [(RecordType, &str); 12] = [
    (RecordType::A, "A"),
    (RecordType::AAAA, "AAAA"),
    (RecordType::SRV, "SRV"),
    (RecordType::PTR, "PTR"),
    (RecordType::TXT, "TXT"),
    (RecordType::SOA, "SOA"),
    (RecordType::NS, "NS"),
    (RecordType::CNAME, "CNAME"),
    (RecordType::MX, "MX"),
    (RecordType::HTTPS, "HTTPS"),
    (RecordType::SVCB, "SVCB"),
    (RecordType::ANY, "ANY"),
];

/// How a query that got no reply ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dropped {
    /// Shorter than a header, or itself a response.
    NotAQuery,
    /// A TCP connection above the limit.
    TooManyConnections,
    /// The socket took no reply.
    SendFailed,
    /// The task that had to answer it panicked.
    Defect,
}

impl Dropped {
    fn as_str(self) -> &'static str {
        match self {
            Dropped::NotAQuery => "not_a_query",
            Dropped::TooManyConnections => "too_many_connections",
            Dropped::SendFailed => "send_failed",
            Dropped::Defect => "defect",
        }
    }
}

/// Which limit a client has reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limited {
    /// Its queries a second.
    Queries,
    /// Its forwards under way.
    Forwards,
    /// Its TCP connections.
    Connections,
}

/// The server's metrics.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    requests: IntCounterVec,
    responses: IntCounterVec,
    duration: Histogram,
    dropped: IntCounterVec,
    pub(crate) panics: IntCounter,
    limited: IntCounterVec,
    pub(crate) tcp_connections: IntGauge,
    pub(crate) view_revision: IntGauge,
    pub(crate) view_services: IntGauge,
    /// Unix time, seconds; 0 while new snapshots may come.
    pub(crate) view_orphaned: IntGauge,
    /// 1 once the last known state is too old to be answered.
    pub(crate) view_expired: IntGauge,
    /// Queries with DO.
    pub(crate) do_requests: IntCounter,
}

impl Metrics {
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let metric = IntCounterVec::new(Opts::new(format!("mesh_dns_{name}"), help), labels)?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let gauge = |name: &str, help: &str| {
            let metric = IntGauge::new(format!("mesh_dns_{name}"), help)?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let counter = |name: &str, help: &str| {
            let metric = IntCounter::new(format!("mesh_dns_{name}"), help)?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let buckets = prometheus::exponential_buckets(0.000_025, 4.0, 10)?;
        let duration = Histogram::with_opts(
            HistogramOpts::new(
                "mesh_dns_request_duration_seconds",
                "Time from a query's arrival to its reply, forwarded ones included.",
            )
            .buckets(buckets),
        )?;
        registry.register(Box::new(duration.clone()))?;
        Ok(Metrics {
            requests: counters(
                "requests_total",
                "Queries by transport, address family and type.",
                &["protocol", "family", "type"],
            )?,
            responses: counters("responses_total", "Replies by response code.", &["rcode"])?,
            duration,
            dropped: counters("dropped_total", "Packets and connections without a reply.", &["reason"])?,
            panics: counter("panics_total", "Queries whose answering panicked: a defect.")?,
            do_requests: counter("do_requests_total", "Queries with the DO bit set.")?,
            limited: counters(
                "client_limited_total",
                "Queries refused, or connections closed, because their client had reached a limit.",
                &["limit"],
            )?,
            tcp_connections: gauge("tcp_connections", "Open TCP connections.")?,
            view_revision: gauge("view_revision", "Revision of the snapshot that is answered from.")?,
            view_services: gauge("view_services", "Services that have names.")?,
            view_orphaned: gauge(
                "view_orphaned_since_seconds",
                "When the control plane went away, in Unix time; answers are the last known since. 0 while it is there.",
            )?,
            view_expired: gauge(
                "view_expired",
                "1 once the last known state is too old: the mesh's names are then SERVFAIL.",
            )?,
        })
    }

    /// Counts a query. `kind` is absent when the question could not be read.
    pub(crate) fn request(&self, transport: Transport, client: IpAddr, kind: Option<RecordType>) {
        self.requests_of(transport, client, kind).inc();
    }

    /// The counter of such queries.
    pub(crate) fn requests_of(
        &self,
        transport: Transport,
        client: IpAddr,
        kind: Option<RecordType>,
    ) -> IntCounter {
        let protocol = match transport {
            Transport::Udp => "udp",
            Transport::Tcp => "tcp",
        };
        let family = if client.is_ipv4() { "ipv4" } else { "ipv6" };
        let kind = TYPES.iter().find(|(t, _)| Some(*t) == kind).map_or("other", |(_, name)| name);
        self.requests.with_label_values(&[protocol, family, kind])
    }

    pub(crate) fn response(&self, rcode: ResponseCode, took: Duration) {
        self.responses_of(rcode).inc();
        self.duration.observe(took.as_secs_f64());
    }

    /// The counter of replies with this code.
    pub(crate) fn responses_of(&self, rcode: ResponseCode) -> IntCounter {
        self.responses.with_label_values(&[code(rcode)])
    }

    /// How long replies take.
    pub(crate) fn duration(&self) -> &Histogram {
        &self.duration
    }

    pub(crate) fn dropped(&self, reason: Dropped) {
        self.dropped.with_label_values(&[reason.as_str()]).inc();
        if reason == Dropped::Defect {
            self.panics.inc();
        }
    }

    pub(crate) fn limited(&self, limit: Limited) {
        let limit = match limit {
            Limited::Queries => "queries",
            Limited::Forwards => "forwards",
            Limited::Connections => "connections",
        };
        self.limited.with_label_values(&[limit]).inc();
    }
}

/// A response code as `dig` writes it.
pub(crate) fn code(rcode: ResponseCode) -> &'static str {
    match rcode {
        ResponseCode::NoError => "NOERROR",
        ResponseCode::FormErr => "FORMERR",
        ResponseCode::ServFail => "SERVFAIL",
        ResponseCode::NXDomain => "NXDOMAIN",
        ResponseCode::NotImp => "NOTIMP",
        ResponseCode::Refused => "REFUSED",
        ResponseCode::NotAuth => "NOTAUTH",
        ResponseCode::BADVERS | ResponseCode::BADSIG => "BADVERS",
        _ => "other",
    }
}
