//! What Prometheus sees of the reconciler.

use prometheus::{
    HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry, exponential_buckets,
};
use std::time::Duration;

/// The reconciler's metrics, registered once a process.
#[derive(Clone, Debug)]
pub struct ReconcileMetrics {
    duration: HistogramVec,
    pub(super) errors: IntCounter,
    drift: IntCounterVec,
    pub(super) revision: IntGauge,
    pub(super) frontends: IntGauge,
    pub(super) backends: IntGauge,
    pub(super) failing: IntGauge,
}

/// Which kind of pass a duration belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Pass {
    /// Everything was compared.
    Full,
    /// Only what changed.
    Partial,
}

impl ReconcileMetrics {
    /// Registers the metrics.
    ///
    /// # Errors
    /// When one of their names is registered already.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let buckets = exponential_buckets(0.000_1, 4.0, 10)?;
        let duration = HistogramOpts::new(
            "mesh_sync_duration_seconds",
            "Time to bring the data plane to a snapshot: everything compared (full) or only what changed (partial).",
        );
        let gauge = |name, help| IntGauge::with_opts(Opts::new(name, help));
        let metrics = ReconcileMetrics {
            duration: HistogramVec::new(duration.buckets(buckets), &["plane", "kind"])?,
            errors: IntCounter::with_opts(Opts::new(
                "mesh_sync_errors_total",
                "Operations that the data plane refused, and reads of it that failed.",
            ))?,
            drift: IntCounterVec::new(
                Opts::new(
                    "mesh_drift_repairs_total",
                    "Differences between data plane and plan that nobody ordered, repaired by an audit.",
                ),
                &["object"],
            )?,
            revision: gauge(
                "mesh_snapshot_revision",
                "Snapshot revision that the data plane was brought to.",
            )?,
            frontends: gauge("mesh_frontends", "Frontends that the data plane holds.")?,
            backends: gauge(
                "mesh_backends",
                "Backends that the data plane holds, summed over its frontends.",
            )?,
            failing: gauge(
                "mesh_frontends_failing",
                "Frontends that are not as they should be and are retried.",
            )?,
        };
        for object in ["frontend", "backend"] {
            metrics.drift.with_label_values(&[object]);
        }
        registry.register(Box::new(metrics.duration.clone()))?;
        registry.register(Box::new(metrics.errors.clone()))?;
        registry.register(Box::new(metrics.drift.clone()))?;
        for gauge in [&metrics.revision, &metrics.frontends, &metrics.backends, &metrics.failing] {
            registry.register(Box::new(gauge.clone()))?;
        }
        Ok(metrics)
    }

    pub(super) fn pass(&self, plane: &str, pass: Pass, took: Duration) {
        let kind = match pass {
            Pass::Full => "full",
            Pass::Partial => "partial",
        };
        self.duration.with_label_values(&[plane, kind]).observe(took.as_secs_f64());
    }

    pub(super) fn repaired(&self, object: &str) {
        self.drift.with_label_values(&[object]).inc();
    }
}
