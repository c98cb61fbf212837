//! The reconciler on the reference plane.

use super::{
    handle::ReconcileHandle,
    metrics::ReconcileMetrics,
    status::ReconcileStatus,
    task::{ReconcileConfig, spawn},
};
use crate::{
    dataplane::{
        AnyDataPlane, Flow,
        fake::{FakePlane, Opening},
    },
    plan::{FrontendKey, NodeFacts, Op, Policy, compile},
};
use mesh_control::model::{
    Addresses, Endpoint, EndpointView, Family, Name, Protocol, ServiceKey, ServicePort, ServiceSpec,
    ServiceView, Snapshot,
};
use prometheus::{Encoder, Registry, TextEncoder};
use std::{sync::Arc, time::Duration};
use tokio::sync::watch;

/// Longest wait for any condition; only a broken build gets there.
const PATIENCE: Duration = Duration::from_secs(20);

fn node() -> NodeFacts {
    NodeFacts { name: Name::new("n1").unwrap(), zone: None }
}

fn policy() -> Policy {
    Policy { publish: None, families: vec![Family::V4] }
}

/// Service `sN` with VIP 10.96.0.N, port 80 and that many endpoints.
fn service(n: u8, endpoints: u8) -> Arc<ServiceView> {
    let port = ServicePort {
        name: None,
        protocol: Protocol::Tcp,
        port: "80".parse().unwrap(),
        target: 8080,
        publish: None,
        proxy_protocol: false,
    };
    let endpoint = |i: u8| EndpointView {
        node: Name::new("n1").unwrap(),
        zone: None,
        endpoint: Endpoint::new(
            Name::new(&format!("i{i}")).unwrap(),
            Addresses { v4: Some([10, 0, n, i].into()), v6: None },
        ),
    };
    Arc::new(ServiceView {
        key: key(n),
        spec: Arc::new(ServiceSpec { ports: vec![port], ..ServiceSpec::default() }),
        origins: Vec::new(),
        conflict: None,
        vips: Addresses { v4: Some([10, 96, 0, n].into()), v6: None },
        published: Vec::new(),
        endpoints: (0..endpoints).map(endpoint).collect(),
        hidden_endpoints: 0,
    })
}

fn key(n: u8) -> ServiceKey {
    ServiceKey::in_default(&format!("s{n}")).unwrap()
}

fn vip(n: u8) -> FrontendKey {
    let mut snapshot = Snapshot::empty(node().name);
    snapshot.set_service(key(n), Some(service(n, 0)));
    *compile(&snapshot, &node(), &policy()).table.keys().next().unwrap()
}

/// A reconciler, its plane and what feeds it.
struct World {
    plane: FakePlane,
    snapshots: watch::Sender<Arc<Snapshot>>,
    synced: watch::Sender<bool>,
    reconciler: ReconcileHandle,
    registry: Registry,
}

impl World {
    fn start(
        plane: FakePlane,
        snapshot: Snapshot,
        synced: bool,
        edit: impl FnOnce(&mut ReconcileConfig),
    ) -> World {
        let (snapshots, follow) = watch::channel(Arc::new(snapshot));
        let (synced, told) = watch::channel(synced);
        let mut config = ReconcileConfig::new(node(), policy());
        config.retry_min = Duration::from_millis(5);
        edit(&mut config);
        let registry = Registry::new();
        let metrics = ReconcileMetrics::new(&registry).unwrap();
        let reconciler = spawn(AnyDataPlane::from(plane.clone()), follow, told, config, metrics);
        World { plane, snapshots, synced, reconciler, registry }
    }

    fn set(&self, n: u8, view: Option<Arc<ServiceView>>) {
        self.snapshots.send_modify(|s| Arc::make_mut(s).set_service(key(n), view));
    }

    async fn until(&self, what: &str, condition: impl FnMut(&ReconcileStatus) -> bool) -> ReconcileStatus {
        let mut status = self.reconciler.watch();
        let reached = tokio::time::timeout(PATIENCE, status.wait_for(condition)).await;
        let Ok(Ok(status)) = reached.map(|r| r.map(|s| s.clone())) else {
            panic!("never {what}: {:?}", self.reconciler.status());
        };
        status
    }

    /// Until the newest snapshot is applied in full.
    async fn settle(&self) -> ReconcileStatus {
        let revision = self.snapshots.borrow().revision;
        self.until("settled", |s| s.settled && s.applied_revision >= revision).await
    }

    fn wanted(&self) -> crate::plan::Table {
        compile(&self.snapshots.borrow(), &node(), &policy()).table
    }

    fn metrics(&self) -> String {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text).unwrap();
        String::from_utf8(text).unwrap()
    }
}

fn many(services: u8) -> Snapshot {
    let mut snapshot = Snapshot::empty(node().name);
    for n in 1..=services {
        snapshot.set_service(key(n), Some(service(n, 3)));
    }
    snapshot
}

#[tokio::test]
async fn a_change_sends_only_what_changed() {
    let w = World::start(FakePlane::new(), many(50), true, |_| {});
    let status = w.settle().await;
    assert_eq!((status.frontends, status.backends, status.synced), (50, 150, true));
    assert_eq!(w.plane.table(), w.wanted());
    let sent = w.plane.received();
    w.set(7, Some(service(7, 4)));
    assert_eq!(w.settle().await.backends, 151);
    assert_eq!(w.plane.received() - sent, 1, "one endpoint more is one operation");
    w.set(7, None);
    let status = w.settle().await;
    assert_eq!((status.frontends, status.backends), (49, 147));
    assert_eq!(w.plane.received() - sent, 2, "a removed service is one operation");
    assert_eq!(w.plane.table(), w.wanted());
    let text = w.metrics();
    for line in [
        "mesh_frontends 49",
        "mesh_backends 147",
        "mesh_snapshot_revision 52",
        "mesh_sync_errors_total 0",
        "mesh_sync_duration_seconds_count{kind=\"partial\",plane=\"fake\"} 2",
    ] {
        assert!(text.contains(line), "{line} is missing in\n{text}");
    }
}

#[tokio::test]
async fn another_policy_changes_what_it_is_about_without_a_new_snapshot() {
    let (policies, chosen) = watch::channel(policy());
    let w = World::start(FakePlane::new(), many(3), true, |config| config.policy = chosen);
    assert_eq!(w.settle().await.frontends, 3);
    policies.send_replace(Policy { families: vec![Family::V6], ..policy() });
    let status = w.until("without frontends", |s| s.frontends == 0 && s.settled).await;
    assert_eq!((status.applied_revision, w.plane.table().len()), (w.snapshots.borrow().revision, 0));
    policies.send_replace(policy());
    w.until("with all", |s| s.frontends == 3 && s.settled).await;
    assert_eq!(w.plane.table(), w.wanted());
}

#[tokio::test]
async fn a_burst_is_gathered() {
    let w = World::start(FakePlane::new(), many(1), true, |c| c.coalesce = Duration::from_millis(500));
    w.settle().await;
    let sent = w.plane.received();
    for endpoints in 0..40 {
        w.set(1, Some(service(1, endpoints)));
        tokio::task::yield_now().await;
    }
    w.set(1, Some(service(1, 3)));
    w.settle().await;
    assert_eq!(w.plane.received(), sent, "forty changes that cancel out send nothing");
}

#[tokio::test]
async fn a_failed_frontend_is_named_and_retried_and_stops_nobody_else() {
    let plane = FakePlane::new();
    plane.fail_frontend(vip(2), 3);
    let w = World::start(plane, many(3), true, |_| {});
    let status = w.until("failing", |s| s.errors.iter().any(|e| e.attempts >= 2)).await;
    assert_eq!((status.errors.len(), status.errors[0].frontend, status.settled), (1, vip(2), false));
    assert!(
        status.errors[0].error.contains("injected failure"),
        "the cause, not what follows from it: {status:?}"
    );
    assert!(w.plane.table().contains_key(&vip(1)) && w.plane.table().contains_key(&vip(3)));
    assert!(w.settle().await.errors.is_empty());
    assert_eq!(w.plane.table(), w.wanted());
    assert!(w.metrics().contains("mesh_frontends_failing 0"));
}

#[tokio::test]
async fn a_failure_is_forgotten_with_its_service() {
    let plane = FakePlane::new();
    plane.fail_frontend(vip(2), u32::MAX);
    let w = World::start(plane, many(3), true, |c| c.retry_min = Duration::from_secs(3600));
    w.until("failing", |s| !s.errors.is_empty()).await;
    assert!(w.reconciler.plan().await.unwrap().iter().all(|op| op.frontend() == vip(2)));
    w.set(2, None);
    assert!(w.settle().await.errors.is_empty());
}

#[tokio::test]
async fn a_single_operation_that_fails_is_repeated_alone() {
    let w = World::start(FakePlane::new(), many(3), true, |_| {});
    w.settle().await;
    w.plane.fail_op(1);
    w.set(1, Some(service(1, 6)));
    w.until("failing", |s| s.errors.len() == 1 || s.backends == 12).await;
    w.settle().await;
    assert_eq!(w.plane.table(), w.wanted());
    assert_eq!(w.plane.received(), 12 + 3 + 1);
}

#[tokio::test]
async fn drift_is_repaired_counted_and_named() {
    let w = World::start(FakePlane::new(), many(3), true, |c| c.audit_interval = Duration::from_millis(20));
    w.settle().await;
    let sent = w.plane.received();
    let quiet = w.until("looked at", |s| s.last_sync.is_some_and(|l| l.ops == 0)).await;
    assert!(quiet.drift.is_empty() && w.plane.received() == sent, "an audit without drift sends nothing");
    w.plane.tamper(|table| {
        table.remove(&vip(1));
        let mut entry = table.get(&vip(2)).unwrap().clone();
        entry.backends = entry.backends.iter().skip(1).cloned().collect();
        table.insert(vip(2), entry);
        let mut foreign = table.get(&vip(3)).unwrap().clone();
        let mut frontend = (*foreign.frontend).clone();
        frontend.key = vip(9);
        foreign.frontend = Arc::new(frontend);
        table.insert(vip(9), foreign);
    });
    let status = w.until("repaired", |s| s.drift.values().sum::<u64>() == 6).await;
    let drift: Vec<(&str, u64)> = status.drift.iter().map(|(k, v)| (k.as_str(), *v)).collect();
    assert_eq!(drift, [("backend missing", 4), ("frontend extra", 1), ("frontend missing", 1)]);
    assert!(status.last_drift.contains(&"i0@n1 of 10.96.0.2:80/tcp missing".to_owned()), "{status:?}");
    assert_eq!(w.plane.table(), w.wanted());
    assert_eq!((status.frontends, status.backends), (3, 9));
    let text = w.metrics();
    assert!(text.contains("mesh_drift_repairs_total{object=\"backend\"} 4"), "{text}");
    assert!(text.contains("mesh_drift_repairs_total{object=\"frontend\"} 2"), "{text}");
}

#[tokio::test]
async fn nothing_is_removed_before_the_sources_have_spoken() {
    let plane = FakePlane::new();
    World::start(plane.clone(), many(3), true, |_| {}).settle().await;
    let mut late = Snapshot::empty(node().name);
    late.set_service(key(4), Some(service(4, 1)));
    let w = World::start(plane, late, false, |_| {});
    w.until("applied", |s| s.frontends == 4).await;
    assert!(!w.reconciler.status().settled);
    assert!(w.reconciler.plan().await.unwrap().is_empty(), "what is held back is not announced");
    w.set(1, Some(service(1, 3)));
    w.until("applied", |s| s.applied_revision == 2).await;
    assert_eq!(w.plane.table().len(), 4);
    w.synced.send(true).unwrap();
    assert_eq!(w.settle().await.frontends, 2);
    assert_eq!(w.plane.table(), w.wanted());
}

#[tokio::test]
async fn sources_that_never_speak_are_not_waited_for_for_ever() {
    let plane = FakePlane::new();
    World::start(plane.clone(), many(3), true, |_| {}).settle().await;
    let w = World::start(plane, many(1), false, |c| c.sync_timeout = Duration::from_millis(30));
    assert_eq!(w.settle().await.frontends, 1);
}

#[tokio::test]
async fn a_restart_with_unchanged_state_writes_nothing() {
    let plane = FakePlane::new();
    let w = World::start(plane.clone(), many(20), true, |_| {});
    w.settle().await;
    w.reconciler.shutdown(false).await.unwrap();
    let sent = plane.received();
    let w = World::start(plane.clone(), many(20), false, |_| {});
    w.reconciler.wait_reconciled(20).await.unwrap();
    w.synced.send(true).unwrap();
    assert_eq!(w.settle().await.backends, 60);
    assert_eq!(plane.received(), sent);
}

#[tokio::test]
async fn a_plane_that_cannot_be_read_is_tried_again_before_anything_is_written() {
    let plane = FakePlane::new();
    plane.fail_observe(3);
    let w = World::start(plane, many(2), true, |_| {});
    let status = w.until("unreadable", |s| s.plane_error.is_some()).await;
    assert!(!status.settled && status.plane_error.unwrap().contains("injected failure"));
    let status = w.settle().await;
    assert_eq!((status.plane_error, status.frontends), (None, 2));
    assert!(w.metrics().contains("mesh_sync_errors_total 3"));
}

#[tokio::test]
async fn the_plane_is_asked_through_the_handle_and_torn_down_on_demand() {
    let w = World::start(FakePlane::new(), many(2), true, |_| {});
    w.settle().await;
    let destination = "10.96.0.2:80".parse().unwrap();
    w.plane.open("192.0.2.1:4000".parse().unwrap(), destination, Protocol::Tcp);
    let counters = w.reconciler.counters().await.unwrap();
    assert_eq!(counters.backends.iter().map(|b| b.established).sum::<u64>(), 1);
    let flow = Flow { client: None, destination, protocol: Protocol::Tcp };
    let explanation = w.reconciler.explain(flow).await.unwrap();
    assert_eq!((explanation.frontend, explanation.candidates.len()), (Some(vip(2)), 3));
    w.plane.tamper(|table| drop(table.remove(&vip(1))));
    w.reconciler.audit().await.unwrap();
    assert_eq!(w.reconciler.status().drift.values().sum::<u64>(), 4);
    w.reconciler.shutdown(true).await.unwrap();
    assert!(w.plane.table().is_empty());
    tokio::time::timeout(PATIENCE, w.reconciler.ended()).await.unwrap();
    assert!(w.reconciler.counters().await.is_err() && w.reconciler.shutdown(true).await.is_ok());
}

#[tokio::test]
async fn the_plan_is_a_dry_run() {
    let w = World::start(FakePlane::new(), many(2), true, |c| c.coalesce = Duration::from_secs(3600));
    w.settle().await;
    w.set(3, Some(service(3, 1)));
    let plan = w.reconciler.plan().await.unwrap();
    assert!(
        matches!(plan.as_slice(), [Op::PutFrontend(f), Op::PutBackend { .. }] if f.key == vip(3)),
        "{plan:?}"
    );
    assert_eq!(w.plane.table().len(), 2, "nothing was sent");
}

#[tokio::test]
async fn a_stopping_reconciler_takes_no_new_flow_and_leaves_the_plane_alone() {
    let w = World::start(FakePlane::new(), many(3), true, |c| c.audit_interval = Duration::from_millis(20));
    w.settle().await;
    w.reconciler.refuse_new().await.unwrap();
    let (client, destination) = ("10.9.0.1:5".parse().unwrap(), "10.96.0.1:80".parse().unwrap());
    assert!(matches!(w.plane.open(client, destination, Protocol::Tcp), Opening::NoListener));
    let sent = w.plane.received();
    w.set(1, None);
    // Whatever it would do it had done by the time that commands are answered.
    w.reconciler.audit().await.unwrap();
    w.reconciler.counters().await.unwrap();
    assert_eq!(w.plane.received(), sent);
    w.reconciler.shutdown(true).await.unwrap();
    assert!(w.plane.table().is_empty());
}
