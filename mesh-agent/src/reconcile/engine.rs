//! One step at a time: compile, diff, apply, remember what did not work. The task decides when.

use super::{
    metrics::{Pass, ReconcileMetrics},
    retry::Faults,
    status::LastSync,
};
use crate::{
    dataplane::{AnyDataPlane, ApplyReport, DataPlane, PlaneError},
    plan::{Desired, FrontendKey, NodeFacts, Op, Policy, Table, apply_ops, diff, diff_keys},
};
use mesh_control::model::{Changes, ServiceKey, Snapshot};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{SystemTime, UNIX_EPOCH},
};
use tokio::time::Instant;

/// Drift repairs that are kept by name.
const LAST_DRIFT: usize = 16;

pub(super) struct Engine {
    pub(super) plane: AnyDataPlane,
    node: NodeFacts,
    policy: Policy,
    metrics: ReconcileMetrics,
    desired: Desired,
    /// What the plane was last known to hold; shares its structure with `desired` where the two are equal.
    realized: Table,
    /// Backends in `realized`, summed over frontends.
    pub(super) backends: usize,
    /// Revision of the snapshot that `desired` was compiled from; absent before the first.
    pub(super) revision: Option<u64>,
    pub(super) faults: Faults,
    /// Whether what nobody wants may be removed.
    pub(super) may_remove: bool,
    pub(super) last_sync: Option<LastSync>,
    pub(super) drift: BTreeMap<String, u64>,
    pub(super) last_drift: VecDeque<String>,
}

impl Engine {
    pub(super) fn new(
        plane: AnyDataPlane,
        node: NodeFacts,
        policy: Policy,
        faults: Faults,
        metrics: ReconcileMetrics,
    ) -> Engine {
        Engine {
            plane,
            node,
            policy,
            metrics,
            desired: Desired::default(),
            realized: Table::new(),
            backends: 0,
            revision: None,
            faults,
            may_remove: false,
            last_sync: None,
            drift: BTreeMap::new(),
            last_drift: VecDeque::new(),
        }
    }

    pub(super) fn frontends(&self) -> usize {
        self.realized.len()
    }

    /// Takes another policy: the next snapshot, which may be the same, is compiled whole.
    pub(super) fn choose(&mut self, policy: Policy) {
        self.policy = policy;
        self.revision = None;
    }

    /// Reads the plane for the first time.
    pub(super) async fn observe(&mut self) -> Result<(), PlaneError> {
        self.realized = self.plane.observe().await.inspect_err(|_| self.metrics.errors.inc())?;
        self.recount();
        Ok(())
    }

    /// Brings the plane to a snapshot: what changed since the last one, or everything at the first.
    pub(super) async fn follow(&mut self, snapshot: &Snapshot, now: Instant) {
        let first = self.revision.is_none();
        let touched = self.compile(snapshot);
        self.revision = Some(snapshot.revision);
        let (ops, pass) = match first {
            true => (diff(&self.realized, &self.desired.table), Pass::Full),
            false => (diff_keys(&self.realized, &self.desired.table, &touched), Pass::Partial),
        };
        self.bring(ops, touched, pass, now).await;
    }

    /// Compares everything with what the plane is believed to hold.
    pub(super) async fn full(&mut self, now: Instant) {
        let ops = diff(&self.realized, &self.desired.table);
        let failing = self.faults.keys().into_iter().collect();
        self.bring(ops, failing, Pass::Full, now).await;
    }

    /// Tries again what failed and is due.
    pub(super) async fn retry(&mut self, now: Instant) {
        let due = self.faults.due(now);
        if !due.is_empty() {
            let ops = diff_keys(&self.realized, &self.desired.table, &due);
            self.bring(ops, due.into_iter().collect(), Pass::Partial, now).await;
        }
    }

    /// Reads the plane, repairs every difference and counts those that nobody ordered.
    pub(super) async fn audit(&mut self, now: Instant) -> Result<(), PlaneError> {
        let observed = self.plane.observe().await.inspect_err(|_| self.metrics.errors.inc())?;
        let drift = diff(&observed, &self.realized);
        let named: Vec<Drift> = drift.iter().map(|op| Drift::new(op, &observed)).collect();
        if !drift.is_empty() {
            self.realized = observed;
            self.recount();
        }
        self.full(now).await;
        for drift in named.into_iter().filter(|d| !self.faults.contains(&d.frontend)) {
            tracing::warn!(plane = self.plane.name(), object = %drift.name, kind = drift.kind, "drift repaired");
            self.metrics.repaired(drift.object);
            *self.drift.entry(format!("{} {}", drift.object, drift.kind)).or_default() += 1;
            self.last_drift.push_back(format!("{} {}", drift.name, drift.kind));
            while self.last_drift.len() > LAST_DRIFT {
                self.last_drift.pop_front();
            }
        }
        Ok(())
    }

    /// The operations that would bring the plane to `snapshot`, without sending them.
    pub(super) fn pending(&self, snapshot: &Snapshot) -> Vec<Op> {
        let mut desired = self.desired.clone();
        let changed = changed(&desired, snapshot, self.revision);
        desired.update(snapshot, &changed, &self.node, &self.policy);
        let mut ops = diff(&self.realized, &desired.table);
        if !self.may_remove {
            ops.retain(|op| !removes(op));
        }
        ops
    }

    /// Whether the plane holds exactly what it should.
    pub(super) fn is_settled(&self) -> bool {
        self.may_remove && self.faults.len() == 0
    }

    fn compile(&mut self, snapshot: &Snapshot) -> BTreeSet<FrontendKey> {
        let changed = changed(&self.desired, snapshot, self.revision);
        self.desired.update(snapshot, &changed, &self.node, &self.policy)
    }

    /// Applies `ops` and notes the outcome for the frontends they are about and those in `looked_at`.
    async fn bring(
        &mut self,
        mut ops: Vec<Op>,
        looked_at: BTreeSet<FrontendKey>,
        pass: Pass,
        since: Instant,
    ) {
        let mut held_back = BTreeSet::new();
        if !self.may_remove {
            ops.retain(|op| {
                let removes = removes(op);
                if removes {
                    held_back.insert(op.frontend());
                }
                !removes
            });
        }
        let report = match ops.is_empty() {
            true => ApplyReport::default(),
            false => self.plane.apply(&ops).await,
        };
        let sent = ops.len();
        let whole = pass == Pass::Full && self.may_remove && report.failed.is_empty();
        self.note(&ops, looked_at, &held_back, &report);
        if whole {
            self.realized = self.desired.table.clone();
            self.recount();
        }
        let duration = since.elapsed();
        if sent > 0 || pass == Pass::Full {
            self.metrics.pass(self.plane.name(), pass, duration);
            self.last_sync = Some(LastSync { at: unix_ms(), duration, ops: sent });
        }
        self.metrics.revision.set(i64::try_from(self.revision.unwrap_or(0)).unwrap_or(i64::MAX));
        self.metrics.frontends.set(i64::try_from(self.frontends()).unwrap_or(i64::MAX));
        self.metrics.backends.set(i64::try_from(self.backends).unwrap_or(i64::MAX));
        self.metrics.failing.set(i64::try_from(self.faults.len()).unwrap_or(i64::MAX));
    }

    /// Works out what the plane holds now. A frontend of which every operation was sent and worked is as desired, and
    /// then the two tables share its entry, so that both cost the memory of one; only the others are worked out from
    /// their operations.
    fn note(
        &mut self,
        ops: &[Op],
        looked_at: BTreeSet<FrontendKey>,
        held_back: &BTreeSet<FrontendKey>,
        report: &ApplyReport,
    ) {
        let mut errors: BTreeMap<FrontendKey, String> = BTreeMap::new();
        let mut bad = BTreeSet::new();
        for (index, error) in &report.failed {
            bad.insert(*index);
            if let Some(op) = ops.get(*index) {
                // The first is the cause, the rest follow from it.
                errors.entry(op.frontend()).or_insert_with(|| error.to_string());
            }
        }
        let sent: BTreeSet<FrontendKey> = ops.iter().map(Op::frontend).collect();
        let mut keys = looked_at;
        keys.extend(&sent);
        let count = |table: &Table| -> usize {
            keys.iter().filter_map(|key| table.get(key)).map(|e| e.backends.len()).sum()
        };
        let before = count(&self.realized);
        let partly = |key: &FrontendKey| errors.contains_key(key) || held_back.contains(key);
        let good: Vec<Op> = ops
            .iter()
            .enumerate()
            .filter(|(i, op)| partly(&op.frontend()) && !bad.contains(i))
            .map(|(_, op)| op.clone())
            .collect();
        apply_ops(&mut self.realized, &good);
        for key in sent.iter().filter(|key| !partly(key)) {
            match self.desired.table.get(key) {
                Some(want) => drop(self.realized.insert(*key, want.clone())),
                None => drop(self.realized.remove(key)),
            }
        }
        let after = count(&self.realized);
        self.backends = (self.backends + after).saturating_sub(before);
        let now = Instant::now();
        self.metrics.errors.inc_by(u64::try_from(bad.len()).unwrap_or(u64::MAX));
        for key in keys {
            if let Some(error) = errors.remove(&key) {
                tracing::warn!(plane = self.plane.name(), frontend = %key, %error, "frontend failed, will retry");
                self.faults.failed(key, error, now);
                continue;
            }
            // Share what is equal, so that the two tables cost the memory of one.
            match (self.realized.get(&key), self.desired.table.get(&key)) {
                (Some(have), Some(want)) if have == want => {
                    self.realized.insert(key, want.clone());
                    self.faults.clear(&key);
                }
                (None, None) => self.faults.clear(&key),
                _ => {}
            }
        }
    }

    fn recount(&mut self) {
        self.backends = self.realized.values().map(|e| e.backends.len()).sum();
    }
}

/// The services to recompile; all of them, those that are gone included, when the log does not say.
fn changed(desired: &Desired, snapshot: &Snapshot, since: Option<u64>) -> BTreeSet<ServiceKey> {
    match since.map(|revision| snapshot.changed_since(revision)) {
        Some(Changes::Services(changed)) => changed,
        Some(Changes::All) | None => {
            desired.by_service.keys().chain(snapshot.services.keys()).cloned().collect()
        }
    }
}

fn removes(op: &Op) -> bool {
    matches!(op, Op::RemoveBackend { .. } | Op::RemoveFrontend(_))
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A difference that nobody ordered, named after the operation that repairs it.
struct Drift {
    frontend: FrontendKey,
    object: &'static str,
    kind: &'static str,
    name: String,
}

impl Drift {
    fn new(repair: &Op, observed: &Table) -> Drift {
        let frontend = repair.frontend();
        let held = observed.get(&frontend);
        let (object, kind, name) = match repair {
            Op::PutFrontend(_) if held.is_none() => ("frontend", "missing", frontend.to_string()),
            Op::PutFrontend(_) => ("frontend", "changed", frontend.to_string()),
            Op::RemoveFrontend(_) => ("frontend", "extra", frontend.to_string()),
            Op::PutBackend { backend, .. } => {
                let there = held.is_some_and(|e| e.backends.iter().any(|b| b.id == backend.id));
                let kind = if there { "changed" } else { "missing" };
                ("backend", kind, format!("{} of {frontend}", backend.id))
            }
            Op::RemoveBackend { backend, .. } => ("backend", "extra", format!("{backend} of {frontend}")),
        };
        Drift { frontend, object, kind, name }
    }
}
