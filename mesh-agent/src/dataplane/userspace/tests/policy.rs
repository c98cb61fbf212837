//! What happens to a new flow that may not or cannot go anywhere.

use super::support::*;
use crate::{
    dataplane::{DataPlane, userspace::UserspaceConfig},
    plan::{BackendState, Frontend, Op},
};
use mesh_control::model::{NoBackend, Protocol::Tcp};
use std::{io, time::Duration};
use tokio::net::TcpStream;

#[tokio::test]
async fn reject_refuses_the_connection() {
    let mut rig = Rig::start();
    let a = tcp_backend("a").await;
    let frontend = rig.frontend(8080, Tcp);
    rig.serve(&frontend, &[]).await;
    for _ in 0..3 {
        let error = open(rig.at(8080)).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(rig.plane.observe().await.unwrap().len(), 1, "it is still there");
        rig.apply(&[put(frontend.key, backend("a", a))]).await;
        let (_old, _) = open(rig.at(8080)).await.unwrap();
        rig.apply(&[put(frontend.key, in_state("a", a, BackendState::Down))]).await;
    }
}

#[tokio::test]
async fn drop_answers_nothing_until_there_is_a_backend() {
    let mut rig = Rig::start();
    let frontend = Frontend { no_backend: NoBackend::Drop, ..rig.frontend(8080, Tcp) };
    rig.serve(&frontend, &[]).await;
    let attempt = TcpStream::connect(rig.at(8080));
    tokio::pin!(attempt);
    let early = tokio::time::timeout(Duration::from_millis(300), &mut attempt).await;
    assert!(early.is_err(), "answered: {early:?}");
    rig.apply(&[put(frontend.key, backend("a", tcp_backend("a").await))]).await;
    // The kernel repeats the SYN.
    let stream = within(attempt).await.unwrap();
    assert_eq!(named(stream).await.unwrap().1, "a");
}

#[tokio::test]
async fn hold_waits_for_a_backend_and_not_for_ever() {
    let mut rig = Rig::with(UserspaceConfig { hold_wait: Duration::from_millis(400), ..Default::default() });
    let frontend = Frontend { no_backend: NoBackend::Hold, ..rig.frontend(8080, Tcp) };
    rig.serve(&frontend, &[]).await;
    let mut in_vain = within(TcpStream::connect(rig.at(8080))).await.unwrap();
    assert_reset(&mut in_vain).await;
    assert_eq!(rig.plane.counters().frontends[0].no_backend, 1);
    drop(rig);

    let mut rig = Rig::with(UserspaceConfig { hold_wait: DEADLINE, ..Default::default() });
    let frontend = Frontend { no_backend: NoBackend::Hold, ..rig.frontend(8080, Tcp) };
    rig.serve(&frontend, &[]).await;
    let waiting = within(TcpStream::connect(rig.at(8080))).await.unwrap();
    rig.apply(&[put(frontend.key, backend("a", tcp_backend("a").await))]).await;
    assert_eq!(named(waiting).await.unwrap().1, "a");
}

#[tokio::test]
async fn the_wait_has_few_places() {
    let mut rig = Rig::with(UserspaceConfig { max_held: 2, hold_wait: DEADLINE, ..Default::default() });
    let frontend = Frontend { no_backend: NoBackend::Hold, ..rig.frontend(8080, Tcp) };
    rig.serve(&frontend, &[]).await;
    let mut streams = Vec::new();
    for _ in 0..20 {
        streams.push(within(TcpStream::connect(rig.at(8080))).await);
    }
    // Two workers with one place each.
    eventually("the others are turned away", || rig.plane.counters().frontends[0].no_backend >= 18).await;
}

#[tokio::test]
async fn sources_that_are_not_allowed_are_reset() {
    let mut rig = Rig::start();
    let allowed = own_address();
    let frontend = Frontend { allow: vec![allowed.into()], ..rig.frontend(8080, Tcp) };
    rig.serve(&frontend, &[tcp_backend("a").await]).await;
    let stream = connect_from(allowed, rig.at(8080)).await.unwrap();
    assert_eq!(named(stream).await.unwrap().1, "a");
    assert_turned_away(connect_from(own_address(), rig.at(8080)).await).await;
    assert_eq!(rig.plane.counters().frontends[0].denied, 1);
}

#[tokio::test]
async fn a_backend_gets_no_more_flows_than_it_may() {
    let mut rig = Rig::start();
    let frontend = Frontend { max_connections: Some(2), ..rig.frontend(8080, Tcp) };
    rig.serve(&frontend, &[tcp_backend("a").await, tcp_backend("b").await]).await;
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(open(rig.at(8080)).await.unwrap_or_else(|e| panic!("{e}: {:#?}", rig.plane.counters())));
    }
    assert_turned_away(TcpStream::connect(rig.at(8080)).await).await;
    assert_eq!(rig.plane.counters().frontends[0].limited, 1);
    held.pop();
    eventually("a place is free", || rig.counters("a", Tcp).active + rig.counters("b", Tcp).active == 3)
        .await;
    open(rig.at(8080)).await.unwrap();
}

#[tokio::test]
async fn at_the_flow_limit_new_ones_wait() {
    let mut rig = Rig::with(UserspaceConfig { max_flows: 2, ..Default::default() });
    let frontend = rig.frontend(8080, Tcp);
    rig.serve(&frontend, &[tcp_backend("a").await]).await;
    // Eight connections over two workers with one place each: whoever waits is served when others end.
    let mut tasks = Vec::new();
    for _ in 0..8 {
        let to = rig.at(8080);
        tasks.push(tokio::spawn(async move { open(to).await.map(|(_, name)| name) }));
    }
    for task in tasks {
        assert_eq!(within(task).await.unwrap().unwrap(), "a");
    }
    rig.apply(&[Op::RemoveFrontend(frontend.key)]).await;
}
