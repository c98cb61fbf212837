//! What the checks found, for `status`, `endpoint ls` and metrics.

use mesh_control::model::{Name, ServiceKey};
use prometheus::{IntCounterVec, Opts, Registry};
use serde::Serialize;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The state of a check.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckState {
    /// No verdict yet.
    Waiting,
    /// Takes new flows.
    Healthy,
    /// Does not.
    Unhealthy,
}

/// One endpoint's check.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct CheckResult {
    /// The service.
    pub service: ServiceKey,
    /// The instance.
    pub instance: Name,
    /// The state now.
    pub state: CheckState,
    /// Unix time in milliseconds since when.
    pub since: u64,
    /// Why the last check failed; absent when it did not.
    pub last_error: Option<String>,
    /// What the last command wrote, at most 4 KiB; absent for others.
    pub output: Option<String>,
}

/// By endpoint, with the number of the check that may write there: a check that was stopped may have a last word left.
type Table = BTreeMap<(ServiceKey, Name), (u64, CheckResult)>;

/// Results of the checks that run, and how many ran.
#[derive(Clone, Debug)]
pub(super) struct Results {
    all: Arc<Mutex<Table>>,
    pub(super) total: IntCounterVec,
}

impl Results {
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let options = Opts::new("mesh_health_checks_total", "Health checks run by this node, by result");
        let total = IntCounterVec::new(options, &["result"])?;
        registry.register(Box::new(total.clone()))?;
        for result in ["success", "failure", "timeout"] {
            total.with_label_values(&[result]);
        }
        Ok(Results { all: Arc::default(), total })
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // Each change is one insert or remove, so a panic elsewhere leaves the map whole.
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the place that check `number` may write to.
    pub(super) fn open(&self, number: u64, result: CheckResult) {
        self.lock().insert((result.service.clone(), result.instance.clone()), (number, result));
    }

    /// Writes the newest result of check `number`, unless it was stopped.
    pub(super) fn put(&self, number: u64, result: CheckResult) {
        let key = (result.service.clone(), result.instance.clone());
        if let Some((_, held)) = self.lock().get_mut(&key).filter(|(n, _)| *n == number) {
            *held = result;
        }
    }

    /// Removes the place of check `number`.
    pub(super) fn close(&self, number: u64, service: &ServiceKey, instance: &Name) {
        let key = (service.clone(), instance.clone());
        let mut all = self.lock();
        if all.get(&key).is_some_and(|(n, _)| *n == number) {
            all.remove(&key);
        }
    }

    pub(super) fn all(&self) -> Vec<CheckResult> {
        self.lock().values().map(|(_, result)| result.clone()).collect()
    }
}
