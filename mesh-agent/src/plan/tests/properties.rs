//! What must hold for every pair of tables and every history of changes.

use super::{key, n1, name, port};
use crate::plan::{
    compile::compile_service,
    desired::{Desired, compile},
    diff::{apply_ops, diff, diff_keys},
    facts::Policy,
    ops::Table,
};
use mesh_control::model::{
    Addresses, Endpoint, EndpointView, Locality, Name, Protocol, Publish, PublishMode, PublishedView,
    Scheduler, ServiceKey, ServicePort, ServiceSpec, ServiceView, Snapshot,
};
use proptest::{collection::vec, prelude::*};
use std::{collections::BTreeSet, sync::Arc};

fn any_endpoint() -> impl Strategy<Value = EndpointView> {
    let conditions = (any::<bool>(), any::<bool>(), any::<bool>());
    let shape = (0_u8..4, 1_u8..4, 0_u8..3, 0_u16..3, prop::option::of(8080_u16..8084));
    (shape, conditions).prop_map(|((i, node, family, weight, own_port), (ready, serving, terminating))| {
        let mut addresses = Addresses::default();
        if family != 1 {
            addresses.set([10, 0, node, i].into());
        }
        if family != 0 {
            addresses.set(format!("fd00::{node}:{i}").parse().unwrap());
        }
        let mut endpoint = Endpoint::new(name(&format!("i{i}")), addresses);
        (endpoint.weight, endpoint.ready, endpoint.serving) = (weight, ready, serving);
        (endpoint.terminating, endpoint.drain_until) = (terminating, terminating.then_some(5));
        endpoint.ports = own_port.map(|p| (p, 9000)).into_iter().collect();
        let zone: Option<Name> = (node < 3).then(|| name("z1"));
        EndpointView { node: name(&format!("n{node}")), zone, endpoint }
    })
}

fn any_port() -> impl Strategy<Value = ServicePort> {
    // Few numbers, so that services collide on purpose.
    (0_u8..3, any::<bool>(), prop::option::of((0_u8..3, any::<bool>()))).prop_map(|(n, tcp, publish)| {
        let mut p = port(["80", "80-83", "443"][usize::from(n)], 8080);
        p.protocol = if tcp { Protocol::Tcp } else { Protocol::Udp };
        p.publish = publish.map(|(n, host)| Publish {
            port: Some(["8080", "8081", "8080-8083"][usize::from(n)].parse().unwrap()),
            mode: if host { PublishMode::Host } else { PublishMode::Ingress },
            address: None,
            allow: Vec::new(),
        });
        p
    })
}

fn any_view() -> impl Strategy<Value = ServiceView> {
    let locality = prop::sample::select(vec![
        Locality::Any,
        Locality::PreferLocal,
        Locality::PreferZone,
        Locality::LocalOnly,
    ]);
    let parts = (0_u8..5, vec(any_port(), 0..3), vec(any_endpoint(), 0..6), locality, 0_u8..3, 0_usize..5);
    parts.prop_map(|(service, ports, mut endpoints, locality, vip, scheduler)| {
        endpoints.sort_by(|a, b| (&a.endpoint.instance, &a.node).cmp(&(&b.endpoint.instance, &b.node)));
        endpoints.dedup_by(|a, b| (&a.endpoint.instance, &a.node) == (&b.endpoint.instance, &b.node));
        let published = ports.iter().enumerate().filter_map(|(index, p)| {
            let Publish { port, mode, .. } = *p.publish.as_ref()?;
            Some(PublishedView { index, protocol: p.protocol, port, mode, conflict: None })
        });
        let published = published.collect();
        let scheduler = Scheduler::ALL[scheduler].0;
        // VIPs collide too: two services may hold one for a moment after a partition.
        let vips = Addresses { v4: (vip > 0).then(|| [10, 96, 0, vip].into()), v6: None };
        ServiceView {
            key: key(&format!("s{service}")),
            spec: Arc::new(ServiceSpec { ports, locality, scheduler, ..ServiceSpec::default() }),
            origins: Vec::new(),
            conflict: None,
            vips,
            published,
            endpoints: endpoints.into(),
            hidden_endpoints: 0,
        }
    })
}

fn snapshot(views: Vec<ServiceView>) -> Snapshot {
    let mut snapshot = Snapshot::empty(name("n1"));
    for view in views {
        snapshot.set_service(view.key.clone(), Some(Arc::new(view)));
    }
    snapshot
}

/// A step: several services put or removed at once.
fn any_step() -> impl Strategy<Value = Vec<(ServiceKey, Option<ServiceView>)>> {
    let change = (any_view(), any::<bool>()).prop_map(|(v, put)| (v.key.clone(), put.then_some(v)));
    vec(change, 1..4)
}

fn full(snapshot: &Snapshot) -> Desired {
    compile(snapshot, &n1(), &Policy::default())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn applying_the_difference_gives_the_other(a in vec(any_view(), 0..5), b in vec(any_view(), 0..5)) {
        let (a, b) = (full(&snapshot(a)).table, full(&snapshot(b)).table);
        let ops = diff(&a, &b);
        let mut c = a.clone();
        prop_assert!(apply_ops(&mut c, &ops).is_empty(), "every operation has its place");
        prop_assert_eq!(&c, &b);
        prop_assert!(apply_ops(&mut c, &ops).is_empty() && c == b, "again changes nothing");
        prop_assert!(diff(&a, &a).is_empty() && diff(&c, &b).is_empty());
        let keys: BTreeSet<_> = a.keys().chain(b.keys()).copied().collect();
        prop_assert_eq!(diff_keys(&a, &b, &keys), ops);
        // One operation at a time comes to the same as the batch.
        let mut d = a;
        for op in diff(&d.clone(), &b) {
            apply_ops(&mut d, &[op]);
        }
        prop_assert_eq!(d, b);
    }

    #[test]
    fn no_frontend_that_stays_is_empty_on_the_way(a in vec(any_view(), 0..5), b in vec(any_view(), 0..5)) {
        let (a, b) = (full(&snapshot(a)).table, full(&snapshot(b)).table);
        let mut now = a.clone();
        for op in diff(&a, &b) {
            apply_ops(&mut now, &[op]);
            for (key, entry) in &now {
                let both = a.get(key).zip(b.get(key));
                let had = both.is_some_and(|(a, b)| !a.backends.is_empty() && !b.backends.is_empty());
                prop_assert!(!had || !entry.backends.is_empty(), "{} ran empty", key);
            }
        }
    }

    #[test]
    fn compile_is_the_union_of_its_services_and_deterministic(views in vec(any_view(), 0..6)) {
        let snapshot = snapshot(views);
        let desired = full(&snapshot);
        prop_assert_eq!(&desired, &full(&snapshot));
        let mut union = Table::new();
        for view in snapshot.services.values().rev_sorted() {
            for entry in compile_service(&view, &n1(), &Policy::default()) {
                union.insert(entry.frontend.key, entry);
            }
        }
        prop_assert_eq!(&desired.table, &union, "the least service wins a frontend");
        for entry in desired.table.values() {
            prop_assert!(entry.backends.is_sorted_by(|a, b| a.id < b.id));
            let family = entry.frontend.key.listen.family();
            prop_assert!(entry.backends.iter().all(|b| mesh_control::model::Family::of(&b.address) == family));
        }
    }

    #[test]
    fn updating_step_by_step_equals_compiling_anew(steps in vec(any_step(), 1..8)) {
        let mut snapshot = Snapshot::empty(name("n1"));
        let mut desired = Desired::default();
        for step in steps {
            let changed: Vec<ServiceKey> = step.iter().map(|(key, _)| key.clone()).collect();
            for (key, view) in step {
                snapshot.set_service(key, view.map(Arc::new));
            }
            let before = desired.table.clone();
            let touched = desired.update(&snapshot, &changed, &n1(), &Policy::default());
            prop_assert_eq!(&desired, &full(&snapshot));
            prop_assert_eq!(
                diff(&before, &desired.table),
                diff_keys(&before, &desired.table, &touched),
                "every frontend that changed is named"
            );
        }
    }
}

/// Services from the greatest key to the least, so that the least is inserted last.
trait RevSorted {
    fn rev_sorted(self) -> Vec<Arc<ServiceView>>;
}

impl<'a, I: Iterator<Item = &'a Arc<ServiceView>>> RevSorted for I {
    fn rev_sorted(self) -> Vec<Arc<ServiceView>> {
        let mut all: Vec<_> = self.cloned().collect();
        all.sort_by(|a, b| b.key.cmp(&a.key));
        all
    }
}

#[test]
fn an_update_keeps_what_stays_equal() {
    let view =
        super::service(vec![port("80", 80), port("81", 81)], vec![super::endpoint("a", "n2", &["10.0.0.1"])]);
    let mut snapshot = snapshot(vec![view.clone()]);
    let mut desired = full(&snapshot);
    let before = desired.table.clone();
    let mut more = view;
    Arc::make_mut(&mut more.spec).ports.push(port("82", 82));
    snapshot.set_service(more.key.clone(), Some(Arc::new(more.clone())));
    desired.update(&snapshot, [&more.key], &n1(), &Policy::default());
    assert_eq!(desired.table.len(), 3);
    for (key, old) in &before {
        let new = desired.table.get(key).unwrap();
        assert!(Arc::ptr_eq(&old.frontend, &new.frontend) && Arc::ptr_eq(&old.backends, &new.backends));
    }
}
