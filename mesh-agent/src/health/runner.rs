//! Starts and stops checks as endpoints and specs come and go.

use super::{
    check::{Shared, run, waiting},
    plan::{Plan, plans},
    results::{CheckResult, Results},
};
use crate::source::{Health, LocalState, StateWriter};
use imbl::ordmap::DiffItem;
use mesh_control::model::{Changes, Name, ServiceKey, Snapshot};
use prometheus::Registry;
use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    sync::Arc,
};
use tokio::{sync::watch, task::JoinHandle};

/// The health checks of this node. Dropping it ends them; verdicts stay as they are.
#[derive(Debug)]
pub struct HealthHandle {
    results: Results,
    task: JoinHandle<()>,
}

impl HealthHandle {
    /// Starts checking what the writer's sources have, by the specs in force in the snapshots.
    ///
    /// # Errors
    /// When `mesh_health_checks_total` is registered already.
    pub fn spawn(
        writer: StateWriter,
        snapshot: watch::Receiver<Arc<Snapshot>>,
        registry: &Registry,
    ) -> Result<Self, prometheus::Error> {
        let results = Results::new(registry)?;
        let shared = Shared::new(writer, results.clone());
        let runner = Runner {
            shared,
            snapshot,
            seen: LocalState::new(),
            revision: 0,
            started: 0,
            running: BTreeMap::new(),
        };
        Ok(HealthHandle { results, task: tokio::spawn(runner.run()) })
    }

    /// Every check that runs, by service and instance.
    #[must_use]
    pub fn results(&self) -> Vec<CheckResult> {
        self.results.all()
    }
}

impl Drop for HealthHandle {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A check that runs; it ends with this.
struct Running {
    number: u64,
    plan: Plan,
    task: JoinHandle<()>,
    results: Results,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
        self.results.close(self.number, &self.plan.service, &self.plan.process.instance);
    }
}

struct Runner {
    shared: Shared,
    snapshot: watch::Receiver<Arc<Snapshot>>,
    seen: LocalState,
    revision: u64,
    started: u64,
    running: BTreeMap<ServiceKey, BTreeMap<Name, Running>>,
}

impl Runner {
    async fn run(mut self) {
        let mut local = self.shared.local.clone();
        loop {
            let now = local.borrow_and_update().clone();
            let snapshot = self.snapshot.borrow_and_update().clone();
            for key in self.changed(&now, &snapshot) {
                self.renew(&key, &now, &snapshot).await;
            }
            self.seen = now;
            self.revision = snapshot.revision;
            tokio::select! {
                changed = local.changed() => if changed.is_err() { return },
                changed = self.snapshot.changed() => if changed.is_err() { return },
            }
        }
    }

    /// The services of this node that may need other checks.
    fn changed(&self, now: &LocalState, snapshot: &Snapshot) -> BTreeSet<ServiceKey> {
        let mut keys: BTreeSet<ServiceKey> = match snapshot.changed_since(self.revision) {
            Changes::All => now.keys().cloned().collect(),
            Changes::Services(keys) => keys.into_iter().filter(|k| now.contains_key(k)).collect(),
        };
        for item in self.seen.diff(now) {
            match item {
                DiffItem::Add(key, _) | DiffItem::Remove(key, _) => keys.insert(key.clone()),
                DiffItem::Update { new: (key, _), .. } => keys.insert(key.clone()),
            };
        }
        keys
    }

    async fn renew(&mut self, key: &ServiceKey, now: &LocalState, snapshot: &Snapshot) {
        let in_force = snapshot.services.get(key).map(|view| view.spec.as_ref());
        let view = now.get(key);
        let wanted = view.map(|v| plans(key, v, in_force)).unwrap_or_default();
        let mut old = self.running.remove(key).unwrap_or_default();
        // Ended before others begin: the results of both have one place.
        old.retain(|name, running| wanted.iter().any(|p| p.process.instance == *name && *p == running.plan));
        for plan in wanted {
            let Entry::Vacant(place) = old.entry(plan.process.instance.clone()) else { continue };
            self.started += 1;
            self.shared.results.open(self.started, waiting(&plan));
            place.insert(Running {
                number: self.started,
                task: tokio::spawn(run(self.started, plan.clone(), self.shared.clone())),
                results: self.shared.results.clone(),
                plan,
            });
        }
        let unchecked = view.into_iter().flat_map(|v| &v.endpoints);
        for (endpoint, health) in unchecked {
            if *health != Health::Unchecked && !old.contains_key(&endpoint.instance) {
                // A refusal is the writer's to repeat.
                let _later = self.shared.writer.set_verdict(key, endpoint.into(), None).await;
            }
        }
        if !old.is_empty() {
            self.running.insert(key.clone(), old);
        }
    }
}
