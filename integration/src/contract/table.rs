//! Holding a table: applying, reading back, restarting, in small and in large.

use super::{
    fixture::{Dialed, PlaneUnderTest},
    world::{BRIEF, World},
};
use mesh_agent::{
    dataplane::{ApplyError, DataPlane},
    plan::{Backend, BackendState, NodeFacts, Op, Policy, Table, compile_service, diff},
};
use mesh_control::model::{
    Addresses, Affinity, Endpoint, EndpointView, Family, Name, NoBackend, PortRange, Protocol, Publish,
    PublishMode, PublishedView, Scheduler, ServiceKey, ServicePort, ServiceSpec, ServiceView,
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use std::{net::SocketAddr, sync::Arc, time::Duration};

/// Whatever the policy becomes, what is connected stays connected.
pub async fn a_policy_change_keeps_flows<P: PlaneUnderTest>() {
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let mut w = World::<P>::start().await;
        let mut front = w.serving(protocol, &["a", "b"]).await;
        let mut flows = Vec::new();
        for _ in 0..4 {
            flows.push(w.reach(1, &front).await);
        }
        for scheduler in w.put.plane().capabilities().schedulers {
            front.frontend.scheduler = scheduler;
            front.frontend.affinity = Some(Affinity { timeout: Duration::from_secs(60) });
            front.frontend.no_backend = NoBackend::Drop;
            front.frontend.max_connections = Some(1000);
            front.backend("a").weight = 50;
            w.set(&front).await;
            for (flow, by) in &mut flows {
                w.still(flow, by).await;
            }
        }
        assert_eq!(w.observed().await, w.table);
    }
}

/// From the declaration on: a node that runs no instance serves the published port all the same.
pub async fn a_published_port_works_without_a_local_instance<P: PlaneUnderTest>() {
    let mut w = World::<P>::start().await;
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let (open, far) = (w.put.published(), w.put.serve("far", 1).await);
        let view = published(open, protocol, &far);
        let name = |text| Name::new(text).expect("a good name");
        let node = |text| NodeFacts { name: name(text), zone: None };
        let policy = Policy { publish: Some(vec![open.ip()]), families: vec![Family::of(&open.ip())] };
        assert_ne!(far.id.node, name("elsewhere"));
        let mut table = w.table.clone();
        table.extend(
            compile_service(&view, &node("elsewhere"), &policy).into_iter().map(|e| (e.frontend.key, e)),
        );
        w.become_table(table).await;
        let client = w.put.client(1);
        let dialed = w.put.dial(client, open, protocol, super::world::PATIENCE).await;
        assert!(matches!(&dialed, Dialed::Answered(_, by) if by == "far"), "{protocol}: {}", dialed.word());
    }
}

fn published(open: SocketAddr, protocol: Protocol, far: &Backend) -> ServiceView {
    let port = PortRange::single(open.port()).expect("a port");
    let publish = Publish { port: Some(port), mode: PublishMode::Ingress, address: None, allow: Vec::new() };
    let declared = ServicePort {
        name: None,
        protocol,
        port: PortRange::single(80).expect("a port"),
        target: far.port,
        publish: Some(publish),
        proxy_protocol: false,
    };
    let endpoint = Endpoint::new(far.id.instance.clone(), Addresses::from(far.address));
    ServiceView {
        key: ServiceKey::in_default("published").expect("a good name"),
        spec: Arc::new(ServiceSpec { ports: vec![declared], ..ServiceSpec::default() }),
        origins: Vec::new(),
        conflict: None,
        vips: Addresses::default(),
        published: vec![PublishedView {
            index: 0,
            protocol,
            port: Some(port),
            mode: PublishMode::Ingress,
            conflict: None,
        }],
        endpoints: [EndpointView { node: far.id.node.clone(), zone: None, endpoint }].into(),
        hidden_endpoints: 0,
    }
}

/// The third port of a range leads to the third port of the backend.
pub async fn a_range_leads_port_by_port<P: PlaneUnderTest>() {
    let mut w = World::<P>::start().await;
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let mut front = w.front_of(protocol, 3);
        front.backends.push(w.put.serve("a", 3).await);
        w.set(&front).await;
        for offset in 0..3 {
            let to = SocketAddr::new(front.address().ip(), front.address().port() + offset);
            assert_eq!(w.reach_at(1, &front, to).await.1, "a", "{protocol} port {offset}");
        }
        assert_eq!(w.observed().await, w.table);
    }
}

/// The same batch again is accepted, changes nothing and disturbs nobody.
pub async fn applying_twice_changes_nothing<P: PlaneUnderTest>() {
    let mut w = World::<P>::start().await;
    let tcp = w.serving(Protocol::Tcp, &["a", "b"]).await;
    let udp = w.serving(Protocol::Udp, &["c"]).await;
    let (mut one, by) = w.reach(1, &tcp).await;
    let (mut two, _) = w.reach(1, &udp).await;
    for _ in 0..2 {
        w.apply(&diff(&Table::new(), &w.table.clone())).await;
        assert_eq!(w.observed().await, w.table);
    }
    w.still(&mut one, &by).await;
    w.still(&mut two, "c").await;
    let gone = [Op::RemoveBackend { frontend: tcp.key(), backend: udp.backends[0].id.clone() }];
    w.apply(&gone).await;
    let (mut tables, key) = (w.table.clone(), udp.key());
    tables.remove(&key);
    for _ in 0..2 {
        w.apply(&[Op::RemoveFrontend(key)]).await;
        assert_eq!(w.observed().await, tables);
    }
}

/// One that fails is named by its index; the others take effect.
pub async fn an_operation_without_a_place_is_reported<P: PlaneUnderTest>() {
    let mut w = World::<P>::start().await;
    let front = w.serving(Protocol::Tcp, &["a"]).await;
    let nowhere = w.front(Protocol::Tcp).key();
    let late = w.put.serve("b", 1).await;
    let ops = [
        Op::PutBackend { frontend: nowhere, backend: late.clone() },
        Op::PutBackend { frontend: front.key(), backend: late },
    ];
    let report = w.put.plane().apply(&ops).await;
    assert_eq!((report.applied, report.failed.len()), (1, 1));
    let (index, error) = &report.failed[0];
    assert!(*index == 0 && matches!(error, ApplyError::NoSuchFrontend(key) if *key == nowhere), "{error}");
    let observed = w.observed().await;
    assert_eq!((observed.len(), observed.get(&front.key()).map(|e| e.backends.len())), (1, Some(2)));
}

/// A random history of tables: what is read back is what was asked for, after every step.
pub async fn observing_gives_what_was_applied<P: PlaneUnderTest>() {
    let seed =
        std::env::var("CONTRACT_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(rand::random::<u64>);
    println!("CONTRACT_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut w = World::<P>::start().await;
    let mut fronts = Vec::new();
    for i in 0..8_u16 {
        fronts.push(w.front_of(if i % 3 == 0 { Protocol::Udp } else { Protocol::Tcp }, 1 + i % 2));
    }
    let mut pool = Vec::new();
    for instance in ["a", "b", "c", "d"] {
        pool.push(w.put.serve(instance, 2).await);
    }
    let schedulers = w.put.plane().capabilities().schedulers;
    for step in 0..25 {
        let mut table = w.table.clone();
        for _ in 0..rng.random_range(1..4) {
            let mut front = fronts[rng.random_range(0..fronts.len())].clone();
            if rng.random_bool(0.25) {
                table.remove(&front.key());
                continue;
            }
            front.frontend.scheduler = schedulers[rng.random_range(0..schedulers.len())];
            let policies = [NoBackend::Reject, NoBackend::Drop, NoBackend::Hold];
            front.frontend.no_backend = policies[rng.random_range(0..3)];
            for backend in &pool {
                if rng.random_bool(0.6) {
                    let mut backend = backend.clone();
                    backend.weight = rng.random_range(0..3) * 50;
                    let deadline = Some(w.put.now() + 3_600_000);
                    let states =
                        [BackendState::Active, BackendState::Down, BackendState::Draining { deadline }];
                    backend.state = states[rng.random_range(0..3)];
                    front.backends.push(backend);
                }
            }
            let entry = mesh_agent::plan::Entry {
                frontend: Arc::new(front.frontend.clone()),
                backends: front.backends.into(),
            };
            table.insert(front.frontend.key, entry);
        }
        w.become_table(table).await;
        assert_eq!(w.observed().await, w.table, "step {step} of seed {seed}");
    }
}

/// Another run of the agent finds what the plane kept, brings it to the plan, and traffic flows. Where the plane
/// survives a restart, so do its flows, and there is nothing to write.
pub async fn restart_keeps_the_contract<P: PlaneUnderTest>() {
    let mut w = World::<P>::start().await;
    let survives = w.put.plane().capabilities().survives_restart;
    let tcp = w.serving(Protocol::Tcp, &["a", "b"]).await;
    let udp = w.serving(Protocol::Udp, &["c"]).await;
    let (mut one, by) = w.reach(1, &tcp).await;
    w.put.restart().await;
    let observed = w.observed().await;
    if survives {
        assert_eq!(observed, w.table, "nothing to write");
        w.still(&mut one, &by).await;
    }
    let wanted = std::mem::replace(&mut w.table, observed);
    w.become_table(wanted).await;
    assert_eq!(w.observed().await, w.table);
    w.reach(1, &tcp).await;
    assert_eq!(w.reach(1, &udp).await.1, "c");
}

/// After teardown there is nothing, and the plane can be filled again.
pub async fn teardown_leaves_nothing<P: PlaneUnderTest>() {
    let mut w = World::<P>::start().await;
    let front = w.serving(Protocol::Tcp, &["a"]).await;
    w.reach(1, &front).await;
    w.put.plane().teardown().await.expect("teardown leaves nothing");
    assert!(w.observed().await.is_empty());
    let dialed = w.try_reach(1, &front, BRIEF).await;
    assert!(matches!(dialed, Dialed::Refused), "{}", dialed.word());
    w.table = Table::new();
    w.set(&front).await;
    assert_eq!(w.reach(1, &front).await.1, "a");
}

/// Many services at once, then one change among them, then none.
pub async fn two_thousand_frontends<P: PlaneUnderTest>() {
    let mut w = World::<P>::start().await;
    let (a, b) = (w.put.serve("a", 1).await, w.put.serve("b", 1).await);
    let mut fronts = Vec::new();
    let mut table = Table::new();
    for i in 0..2000_u32 {
        let mut front = w.front(if i % 4 == 3 { Protocol::Udp } else { Protocol::Tcp });
        front.frontend.scheduler = Scheduler::Wrr;
        front.backends = vec![a.clone()];
        let entry = mesh_agent::plan::Entry {
            frontend: Arc::new(front.frontend.clone()),
            backends: front.backends.clone().into(),
        };
        table.insert(front.key(), entry);
        fronts.push(front);
    }
    w.become_table(table).await;
    assert_eq!(w.observed().await, w.table);
    for front in fronts.iter().step_by(199) {
        assert_eq!(w.reach(1, front).await.1, "a", "{}", front.key());
    }
    let mut changed = fronts[1234].clone();
    changed.backends = vec![b];
    w.set(&changed).await;
    assert_eq!(w.reach(1, &changed).await.1, "b");
    assert_eq!(w.reach(1, &fronts[1233]).await.1, "a");
    w.become_table(Table::new()).await;
    assert!(w.observed().await.is_empty());
}
