//! Metric families as they are made at a scrape.

use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};
use std::collections::BTreeMap;

/// A family under construction: values by labels, equal labels summed, since equal series spoil a whole scrape.
pub(super) struct Family {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    labels: &'static [&'static str],
    series: BTreeMap<Vec<String>, f64>,
}

impl Family {
    pub(super) fn gauge(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Family {
        Family { name, help, kind: MetricType::GAUGE, labels, series: BTreeMap::new() }
    }

    pub(super) fn counter(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Family {
        Family { name, help, kind: MetricType::COUNTER, labels, series: BTreeMap::new() }
    }

    pub(super) fn add(&mut self, labels: &[&str], value: f64) {
        debug_assert_eq!(labels.len(), self.labels.len(), "{}", self.name);
        *self.series.entry(labels.iter().map(|l| (*l).to_owned()).collect()).or_default() += value;
    }

    pub(super) fn with(mut self, labels: &[&str], value: f64) -> Family {
        self.add(labels, value);
        self
    }

    pub(super) fn build(self) -> MetricFamily {
        let metric = |(values, value): (Vec<String>, f64)| {
            let pairs = self.labels.iter().zip(values).map(|(name, text)| {
                let mut pair = LabelPair::default();
                pair.set_name((*name).to_owned());
                pair.set_value(text);
                pair
            });
            let mut metric = Metric::default();
            metric.set_label(pairs.collect());
            if self.kind == MetricType::COUNTER {
                let mut counter = Counter::default();
                counter.set_value(value);
                metric.set_counter(counter);
            } else {
                let mut gauge = Gauge::default();
                gauge.set_value(value);
                metric.set_gauge(gauge);
            }
            metric
        };
        let mut family = MetricFamily::default();
        family.set_name(self.name.to_owned());
        family.set_help(self.help.to_owned());
        family.set_field_type(self.kind);
        family.set_metric(self.series.into_iter().map(metric).collect::<Vec<_>>());
        family
    }
}

#[expect(clippy::cast_precision_loss, reason = "Prometheus has floating-point values only")]
pub(super) fn number(value: u64) -> f64 {
    value as f64
}

pub(super) fn count(value: usize) -> f64 {
    number(value as u64)
}
