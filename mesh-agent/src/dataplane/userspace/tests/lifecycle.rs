//! Frontends and backends that come, change and go under traffic.

use super::support::*;
use crate::{
    dataplane::{ApplyError, DataPlane},
    plan::{BackendState, Frontend, FrontendKey, Op, apply_ops},
};
use mesh_control::model::{PortRange, Protocol::Tcp, Scheduler};
use std::{
    io,
    net::TcpListener as StdListener,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn draining_keeps_old_flows_until_the_deadline_and_then_resets() {
    let mut rig = Rig::start();
    let (a, b) = (tcp_backend("a").await, tcp_backend("b").await);
    let frontend = rig.frontend(8080, Tcp);
    rig.serve(&frontend, &[a]).await;
    let (mut old, _) = open(rig.at(8080)).await.unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
    let deadline = Some(u64::try_from(now).unwrap() + 600);
    let draining = in_state("a", a, BackendState::Draining { deadline });
    rig.apply(&[put(frontend.key, draining), put(frontend.key, backend("b", b))]).await;
    old.write_all(b"x").await.unwrap();
    within(old.read_exact(&mut [0])).await.unwrap();
    for _ in 0..4 {
        assert_eq!(open(rig.at(8080)).await.unwrap().1, "b");
    }
    assert_reset(&mut old).await;
    let after = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
    assert!(after >= now + 600, "{} ms too early", now + 600 - after);
    eventually("the flow ends", || rig.counters("a", Tcp).active == 0).await;
    assert_eq!((rig.counters("a", Tcp).reset, rig.counters("a", Tcp).state), (1, "draining"));
}

#[tokio::test]
async fn removal_resets_and_down_does_not() {
    let mut rig = Rig::start();
    let (a, b) = (tcp_backend("a").await, tcp_backend("b").await);
    let frontend = rig.frontend(8080, Tcp);
    rig.serve(&frontend, &[a, b]).await;
    let (mut first, name) = open(rig.at(8080)).await.unwrap();
    let (mut second, _) = open(rig.at(8080)).await.unwrap();
    assert_eq!(name, "a");
    rig.apply(&[put(frontend.key, in_state("b", b, BackendState::Down))]).await;
    second.write_all(b"x").await.unwrap();
    within(second.read_exact(&mut [0])).await.unwrap();
    rig.apply(&[Op::RemoveBackend { frontend: frontend.key, backend: id("a") }]).await;
    assert_reset(&mut first).await;
    eventually("the flow ends", || rig.counters("a", Tcp).active == 0).await;
    assert_eq!((rig.counters("a", Tcp).reset, rig.counters("a", Tcp).state), (1, "removed"));
    // Counters go on where they were when it returns.
    rig.apply(&[put(frontend.key, backend("a", a))]).await;
    assert_eq!(open(rig.at(8080)).await.unwrap().1, "a");
    assert_eq!(rig.counters("a", Tcp).established, 2);
    rig.apply(&[Op::RemoveFrontend(frontend.key)]).await;
    assert_reset(&mut second).await;
    assert_eq!(open(rig.at(8080)).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn a_policy_change_keeps_flows_and_sockets() {
    let mut rig = Rig::start();
    let frontend = rig.frontend(8080, Tcp);
    rig.serve(&frontend, &[tcp_backend("a").await]).await;
    let (mut old, _) = open(rig.at(8080)).await.unwrap();
    let flow = crate::dataplane::Flow { client: None, destination: rig.at(8080), protocol: Tcp };
    let sockets = rig.plane.explain(&flow).objects;
    for (scheduler, service) in [(Scheduler::Lc, "web"), (Scheduler::Random, "web"), (Scheduler::Rr, "other")]
    {
        let changed = Frontend { scheduler, service: service.parse().unwrap(), ..frontend.clone() };
        rig.apply(&[Op::PutFrontend(Arc::new(changed))]).await;
        old.write_all(b"x").await.unwrap();
        within(old.read_exact(&mut [0])).await.unwrap();
        open(rig.at(8080)).await.unwrap();
    }
    assert_eq!(rig.plane.explain(&flow).objects, sockets);
    // The flow that began under the old service is still cut with its backend.
    rig.apply(&[Op::RemoveBackend { frontend: frontend.key, backend: id("a") }]).await;
    assert_reset(&mut old).await;
}

#[tokio::test]
async fn a_taken_address_is_an_error_of_its_operation_only() {
    let mut rig = Rig::start();
    let taken = StdListener::bind(rig.at(8081)).unwrap();
    let (good, bad) = (rig.frontend(8080, Tcp), rig.frontend(8081, Tcp));
    let a = tcp_backend("a").await;
    let ops = [
        Op::PutFrontend(Arc::new(bad.clone())),
        Op::PutFrontend(Arc::new(good.clone())),
        put(bad.key, backend("a", a)),
        put(good.key, backend("a", a)),
    ];
    let report = rig.plane.apply(&ops).await;
    assert_eq!(report.applied, 2);
    let [(0, refused), (2, ApplyError::NoSuchFrontend(_))] = &report.failed[..] else {
        panic!("{:?}", report.failed)
    };
    let text = refused.to_string();
    assert!(text.contains(&rig.at(8081).to_string()) && text.contains("bind"), "{text}");
    assert_eq!(open(rig.at(8080)).await.unwrap().1, "a");
    assert_eq!(rig.plane.observe().await.unwrap().keys().collect::<Vec<_>>(), [&good.key]);
    drop(taken);
    rig.apply(&ops).await;
    assert_eq!(open(rig.at(8081)).await.unwrap().1, "a");
}

#[tokio::test]
async fn ports_that_stay_lose_no_connection_while_others_come_and_go() {
    let mut rig = Rig::start();
    let a = tcp_backend("a").await;
    let stays = rig.frontend(8080, Tcp);
    rig.serve(&stays, &[a]).await;
    let to = rig.at(8080);
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let traffic = tokio::spawn(async move {
        let mut served = 0;
        while !*stopped.borrow() {
            assert_eq!(open(to).await.unwrap().1, "a");
            served += 1;
        }
        served
    });
    for _ in 0..40 {
        rig.serve(&rig.frontend(9000, Tcp), &[a]).await;
        rig.apply(&[Op::RemoveFrontend(rig.frontend(9000, Tcp).key)]).await;
    }
    stop.send(true).unwrap();
    let served: usize = within(traffic).await.unwrap();
    assert!(served > 0);
}

#[tokio::test]
async fn a_port_that_moves_between_ranges_keeps_its_sockets() {
    let mut rig = Rig::start();
    let a = tcp_backend("a").await;
    let frontend = rig.frontend(8080, Tcp);
    rig.serve(&frontend, &[a]).await;
    let flow = crate::dataplane::Flow { client: None, destination: rig.at(8080), protocol: Tcp };
    let sockets = rig.plane.explain(&flow).objects;
    let range = |first, last| FrontendKey { ports: PortRange::new(first, last).unwrap(), ..frontend.key };
    let ranges = [range(8080, 8080), range(8079, 8081), range(8080, 8085), range(8070, 8080)];
    for round in 0..8 {
        let (old, new) = (ranges[round % 4], ranges[(round + 1) % 4]);
        let first = std::net::SocketAddr::new(a.ip(), a.port() - (8080 - new.ports.first()));
        rig.apply(&[
            Op::PutFrontend(Arc::new(Frontend { key: new, ..frontend.clone() })),
            put(new, backend("a", first)),
            Op::RemoveFrontend(old),
        ])
        .await;
        assert_eq!(open(rig.at(8080)).await.unwrap().1, "a");
        assert_eq!(rig.plane.explain(&flow).objects, sockets);
        assert_eq!(rig.plane.observe().await.unwrap().keys().collect::<Vec<_>>(), [&new]);
        let gone = old.ports.iter().find(|port| !new.ports.contains(*port));
        if let Some(port) = gone {
            assert_eq!(open(rig.at(port)).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        }
    }
}

#[tokio::test]
async fn a_thousand_frontends_are_applied_observed_and_removed() {
    let mut rig = Rig::start();
    let a = tcp_backend("a").await;
    let frontends: Vec<_> = (10_000..11_000).map(|port| rig.frontend(port, Tcp)).collect();
    let mut ops: Vec<_> = frontends.iter().map(|f| Op::PutFrontend(Arc::new(f.clone()))).collect();
    ops.extend(frontends.iter().map(|f| put(f.key, backend("a", a))));
    rig.apply(&ops).await;
    let mut wanted = crate::plan::Table::new();
    apply_ops(&mut wanted, &ops);
    assert_eq!(rig.plane.observe().await.unwrap(), wanted);
    rig.apply(&ops).await;
    assert_eq!(rig.plane.observe().await.unwrap(), wanted);
    for port in [10_000, 10_500, 10_999] {
        assert_eq!(open(rig.at(port)).await.unwrap().1, "a");
    }
    rig.plane.teardown().await.unwrap();
    assert!(rig.plane.observe().await.unwrap().is_empty());
    assert_eq!(open(rig.at(10_500)).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    // It can be used again.
    rig.apply(&ops[..1]).await;
    tokio::time::timeout(Duration::from_secs(20), rig.plane.teardown()).await.unwrap().unwrap();
}

#[tokio::test]
async fn two_agents_share_a_port_and_one_goes() {
    let mut rig = Rig::start();
    let mut other = Rig::start();
    other.vip = rig.vip;
    let a = tcp_backend("a").await;
    let frontend = rig.frontend(8080, Tcp);
    rig.serve(&frontend, &[a]).await;
    other.serve(&frontend, &[a]).await;
    for _ in 0..40 {
        open(rig.at(8080)).await.unwrap();
    }
    let share = other.counters("a", Tcp).established;
    assert!((1..40).contains(&share), "the kernel gave {share} of 40 to the second");
    // With no backend left in one, the kernel gives all to the other.
    other.apply(&[Op::RemoveBackend { frontend: frontend.key, backend: id("a") }]).await;
    for _ in 0..40 {
        open(rig.at(8080)).await.unwrap();
    }
    drop(other);
    open(rig.at(8080)).await.unwrap();
}

/// An agent that stops under constant load: who comes is refused at once and goes elsewhere, who is there stays.
#[tokio::test]
async fn a_stopping_plane_refuses_new_connections_and_keeps_old_ones() {
    let mut rig = Rig::start();
    let mut other = Rig { vip: rig.vip, ..Rig::start() };
    let frontend = rig.frontend(8080, Tcp);
    rig.serve(&frontend, &[tcp_backend("a").await]).await;
    let (mut old, _) = open(rig.at(8080)).await.unwrap();
    rig.plane.refuse_new().await;
    for _ in 0..20 {
        assert_eq!(open(rig.at(8080)).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }
    // Another agent of this host that holds the same address gets all of them.
    other.serve(&frontend, &[tcp_backend("b").await]).await;
    for _ in 0..20 {
        assert_eq!(open(rig.at(8080)).await.unwrap().1, "b");
    }
    old.write_all(b"x").await.unwrap();
    within(old.read_exact(&mut [0])).await.unwrap();
    rig.plane.teardown().await.unwrap();
    assert_reset(&mut old).await;
}
