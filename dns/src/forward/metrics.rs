//! What the forwarder and its cache count. Labels are upstreams, which the configuration bounds, and fixed words.

use super::cache::Change;
use crate::metrics::code;
use hickory_proto::op::ResponseCode;
use prometheus::{
    HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    core::Collector,
};
use std::time::Duration;

#[derive(Clone, Debug)]
pub(crate) struct ForwardMetrics {
    forwards: IntCounterVec,
    failures: IntCounterVec,
    duration: HistogramVec,
    strays: IntCounterVec,
    pub(super) healthcheck_failures: IntCounterVec,
    pub(super) healthy: IntGaugeVec,
    pub(super) loops: IntGaugeVec,
    pub(super) broken: IntCounter,
    pub(super) overload: IntCounter,
    pub(super) hedges: IntCounter,
    pub(super) coalesced: IntCounter,
    pub(super) hits: IntCounter,
    pub(super) negative_hits: IntCounter,
    pub(super) misses: IntCounter,
    pub(super) stale: IntCounter,
    evictions: IntCounter,
    entries: IntGauge,
    octets: IntGauge,
    pub(super) panics: IntCounter,
}

impl ForwardMetrics {
    /// `panics` is the server's own, which counts those of the forwarder too.
    pub(crate) fn register(registry: &Registry, panics: IntCounter) -> Result<Self, prometheus::Error> {
        let opts = |name: &str, help: &str| Opts::new(format!("mesh_dns_{name}"), help);
        let counters = |name: &str, help: &str, labels: &[&str]| {
            added(registry, IntCounterVec::new(opts(name, help), labels)?)
        };
        let counter = |name: &str, help: &str| added(registry, IntCounter::with_opts(opts(name, help))?);
        let gauges =
            |name: &str, help: &str| added(registry, IntGaugeVec::new(opts(name, help), &["upstream"])?);
        let gauge = |name: &str, help: &str| added(registry, IntGauge::with_opts(opts(name, help))?);
        let duration = HistogramOpts::new(
            "mesh_dns_forward_duration_seconds",
            "Time from a try of an upstream to its reply.",
        );
        let duration = duration.buckets(prometheus::exponential_buckets(0.000_25, 2.0, 14)?);
        let hits = counters("cache_hits_total", "Answers from the cache, by type.", &["type"])?;
        Ok(ForwardMetrics {
            forwards: counters(
                "forwards_total",
                "Replies of upstreams by response code.",
                &["upstream", "rcode"],
            )?,
            failures: counters(
                "forward_failures_total",
                "Tries of an upstream that brought no reply.",
                &["upstream", "reason"],
            )?,
            duration: added(registry, HistogramVec::new(duration, &["upstream"])?)?,
            strays: counters(
                "forward_strays_total",
                "Datagrams from an upstream's address that do not fit the query: spoofed, late or broken.",
                &["upstream", "reason"],
            )?,
            healthcheck_failures: counters(
                "forward_healthcheck_failures_total",
                "Probes of a doubtful upstream that brought no reply.",
                &["upstream"],
            )?,
            healthy: gauges("forward_healthy", "1 while an upstream is asked in its turn, 0 while skipped.")?,
            loops: gauges("forward_loops", "1 for an upstream that leads back to this server.")?,
            broken: counter(
                "forward_healthcheck_broken_total",
                "Queries for which no upstream was healthy; they were asked nonetheless.",
            )?,
            overload: counter(
                "forward_overload_total",
                "Queries refused because too many were being forwarded.",
            )?,
            hedges: counter(
                "forward_hedges_total",
                "Second and further upstreams asked while one was slow.",
            )?,
            coalesced: counter("forward_coalesced_total", "Queries that shared the reply to an equal one.")?,
            negative_hits: hits.with_label_values(&["denial"]),
            hits: hits.with_label_values(&["success"]),
            misses: counter("cache_misses_total", "Forwarded queries that the cache had no answer to.")?,
            stale: counter("cache_served_stale_total", "Expired answers given because no upstream replied.")?,
            evictions: counter("cache_evictions_total", "Entries dropped for want of room.")?,
            entries: gauge("cache_entries", "Replies in the cache.")?,
            octets: gauge("cache_bytes", "Memory that the cache takes, about.")?,
            panics,
        })
    }

    pub(super) fn forwarded(&self, upstream: &str, rcode: ResponseCode, took: Duration) {
        self.forwards.with_label_values(&[upstream, code(rcode)]).inc();
        self.duration.with_label_values(&[upstream]).observe(took.as_secs_f64());
    }

    pub(super) fn failed(&self, upstream: &str, reason: &str) {
        self.failures.with_label_values(&[upstream, reason]).inc();
    }

    pub(super) fn stray(&self, upstream: &str, reason: &str) {
        self.strays.with_label_values(&[upstream, reason]).inc();
    }

    pub(super) fn cache(&self, change: Change) {
        self.entries.add(change.entries);
        self.octets.add(change.octets);
        self.evictions.inc_by(change.evicted);
    }

    /// Forgets the gauges of an upstream that is asked no more.
    pub(super) fn gone(&self, upstream: &str) {
        // One that was never set is gone already.
        drop(self.healthy.remove_label_values(&[upstream]));
        drop(self.loops.remove_label_values(&[upstream]));
    }
}

fn added<C: Collector + Clone + 'static>(registry: &Registry, metric: C) -> Result<C, prometheus::Error> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}
