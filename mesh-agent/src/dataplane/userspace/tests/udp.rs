//! UDP sessions: stickiness, moves, ends.

use super::support::*;
use crate::{
    dataplane::userspace::UserspaceConfig,
    plan::{BackendState, Frontend, FrontendKey, Listen, Op},
};
use mesh_control::model::{
    Family, PortRange,
    Protocol::{Tcp, Udp},
};
use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use tokio::net::UdpSocket;

async fn client() -> UdpSocket {
    UdpSocket::bind("127.0.0.1:0").await.unwrap()
}

#[tokio::test]
async fn a_session_sticks_and_new_ones_are_balanced() {
    let mut rig = Rig::start();
    let frontend = rig.frontend(5300, Udp);
    rig.serve(&frontend, &[udp_backend("a").await, udp_backend("b").await]).await;
    let mut firsts = Vec::new();
    for _ in 0..8 {
        let socket = client().await;
        let first = ask(&socket, rig.at(5300), "1").await.unwrap();
        for _ in 0..5 {
            assert_eq!(ask(&socket, rig.at(5300), "1").await.unwrap(), first);
        }
        firsts.push(first);
    }
    assert_eq!(firsts.iter().filter(|f| *f == "a:1").count(), 4, "{firsts:?}");
    let counters = rig.counters("a", Udp);
    assert_eq!(
        (counters.established, counters.active, counters.bytes_in, counters.bytes_out),
        (4, 4, 24, 72)
    );
}

#[tokio::test]
async fn a_session_leaves_a_down_or_removed_backend_at_its_next_datagram() {
    let mut rig = Rig::start();
    let (a, b) = (udp_backend("a").await, udp_backend("b").await);
    let frontend = rig.frontend(5300, Udp);
    rig.serve(&frontend, &[a]).await;
    let socket = client().await;
    assert_eq!(ask(&socket, rig.at(5300), "1").await.unwrap(), "a:1");
    let down = in_state("a", a, BackendState::Down);
    rig.apply(&[put(frontend.key, down), put(frontend.key, backend("b", b))]).await;
    assert_eq!(ask(&socket, rig.at(5300), "2").await.unwrap(), "b:2");
    rig.apply(&[
        put(frontend.key, backend("a", a)),
        Op::RemoveBackend { frontend: frontend.key, backend: id("b") },
    ])
    .await;
    assert_eq!(ask(&socket, rig.at(5300), "3").await.unwrap(), "a:3");
    // Draining keeps the session until the deadline, then it moves.
    let draining = in_state("a", a, BackendState::Draining { deadline: None });
    rig.apply(&[put(frontend.key, draining), put(frontend.key, backend("b", b))]).await;
    assert_eq!(ask(&socket, rig.at(5300), "4").await.unwrap(), "a:4");
    let over = in_state("a", a, BackendState::Draining { deadline: Some(1) });
    rig.apply(&[put(frontend.key, over)]).await;
    eventually("the session is cut", || rig.counters("a", Udp).active == 0).await;
    assert_eq!(ask(&socket, rig.at(5300), "5").await.unwrap(), "b:5");
}

#[tokio::test]
async fn a_backend_that_is_unreachable_is_left() {
    let mut rig = Rig::start();
    let dead = {
        let socket = client().await;
        socket.local_addr().unwrap()
    };
    let frontend = rig.frontend(5300, Udp);
    rig.serve(&frontend, &[dead, udp_backend("b").await]).await;
    // Two clients: one of them meets the dead backend first; its datagram is lost, the next one is not.
    for _ in 0..2 {
        let socket = client().await;
        socket.send_to(b"lost", rig.at(5300)).await.unwrap();
    }
    eventually("the refusal is seen", || rig.counters("a", Udp).failed > 0).await;
    let socket = client().await;
    let mut buffer = [0; 100];
    let mut answered = false;
    for _ in 0..3 {
        socket.send_to(b"x", rig.at(5300)).await.unwrap();
        let got = tokio::time::timeout(Duration::from_secs(1), socket.recv_from(&mut buffer)).await;
        answered |= got.is_ok();
    }
    assert!(answered);
}

#[tokio::test]
async fn an_idle_session_is_forgotten() {
    let mut rig = Rig::with(UserspaceConfig { udp_idle: Duration::from_millis(100), ..Default::default() });
    let frontend = rig.frontend(5300, Udp);
    rig.serve(&frontend, &[udp_backend("a").await]).await;
    let socket = client().await;
    ask(&socket, rig.at(5300), "1").await.unwrap();
    eventually("the session ends", || rig.counters("a", Udp).active == 0).await;
    assert_eq!(rig.counters("a", Udp).reset, 0);
    assert_eq!(ask(&socket, rig.at(5300), "2").await.unwrap(), "a:2");
    assert_eq!(rig.counters("a", Udp).established, 2);
}

#[tokio::test]
async fn without_a_backend_the_kernel_refuses() {
    let mut rig = Rig::start();
    let a = udp_backend("a").await;
    let frontend = rig.frontend(5300, Udp);
    rig.serve(&frontend, &[]).await;
    let socket = client().await;
    socket.connect(rig.at(5300)).await.unwrap();
    let mut buffer = [0; 10];
    for _ in 0..2 {
        socket.send(b"x").await.unwrap();
        let error = within(socket.recv(&mut buffer)).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        // It comes back by itself.
        rig.apply(&[put(frontend.key, backend("a", a))]).await;
        socket.send(b"x").await.unwrap();
        assert_eq!(within(socket.recv(&mut buffer)).await.unwrap(), 3);
        rig.apply(&[Op::RemoveBackend { frontend: frontend.key, backend: id("a") }]).await;
    }
}

#[tokio::test]
async fn an_answer_comes_from_the_address_that_was_asked() {
    let mut rig = Rig::start();
    let port = client().await.local_addr().unwrap().port();
    let key = FrontendKey {
        listen: Listen::AnyLocal(Family::V4),
        ports: PortRange::single(port).unwrap(),
        protocol: Udp,
    };
    let frontend = Frontend { key, ..rig.frontend(5300, Udp) };
    let mut ops = vec![Op::PutFrontend(Arc::new(frontend))];
    ops.push(put(key, backend("a", udp_backend("a").await)));
    rig.apply(&ops).await;
    // The client is bound to every address, so the kernel would choose another source for the answer.
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await.unwrap();
    for address in [own_address(), own_address()] {
        assert_eq!(ask(&socket, SocketAddr::new(address, port), "1").await.unwrap(), "a:1");
    }
}

#[tokio::test]
async fn large_and_empty_datagrams_pass_whole() {
    let mut rig = Rig::start();
    let frontend = rig.frontend(5300, Udp);
    rig.serve(&frontend, &[udp_backend("a").await]).await;
    let socket = client().await;
    for size in [0, 1, 1500, 60_000] {
        let text = "y".repeat(size);
        assert_eq!(ask(&socket, rig.at(5300), &text).await.unwrap(), format!("a:{text}"));
    }
}

#[tokio::test]
async fn a_removed_frontend_takes_its_sessions_and_its_port_along() {
    let mut rig = Rig::start();
    let frontend = rig.frontend(5300, Udp);
    rig.serve(&frontend, &[udp_backend("a").await]).await;
    let socket = client().await;
    socket.connect(rig.at(5300)).await.unwrap();
    let mut buffer = [0; 10];
    socket.send(b"x").await.unwrap();
    assert_eq!(within(socket.recv(&mut buffer)).await.unwrap(), 3);
    rig.apply(&[Op::RemoveFrontend(frontend.key)]).await;
    socket.send(b"x").await.unwrap();
    let error = within(socket.recv(&mut buffer)).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    rig.serve(&frontend, &[udp_backend("b").await]).await;
    assert_eq!(rig.counters("a", Udp).active, 0);
    socket.send(b"x").await.unwrap();
    assert_eq!(within(socket.recv(&mut buffer)).await.unwrap(), 3);
    assert_eq!(&buffer[..3], b"b:x");
}

#[tokio::test]
async fn every_address_of_ipv6_is_served_and_ipv4_is_not() {
    let mut rig = Rig::start();
    let to = {
        let probe = std::net::TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
        probe.local_addr().unwrap()
    };
    for (protocol, backend) in [(Tcp, tcp_backend("a").await), (Udp, udp_backend("a").await)] {
        let key = FrontendKey {
            listen: Listen::AnyLocal(Family::V6),
            ports: PortRange::single(to.port()).unwrap(),
            protocol,
        };
        rig.serve(&Frontend { key, ..rig.frontend(1, protocol) }, &[backend]).await;
    }
    assert_eq!(open(to).await.unwrap().1, "a");
    let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).await.unwrap();
    assert_eq!(ask(&socket, to, "1").await.unwrap(), "a:1");
    let other = open(SocketAddr::new(rig.vip, to.port())).await.unwrap_err();
    assert_eq!(other.kind(), io::ErrorKind::ConnectionRefused);
}
