//! TCP flows: balance, bytes, ends.

use super::support::*;
use crate::{
    dataplane::{DataPlane, Flow},
    plan::{Backend, Frontend},
};
use mesh_control::model::{Affinity, Protocol::Tcp, Scheduler};
use rustix::net::sockopt::set_socket_linger;
use std::{collections::BTreeMap, net::IpAddr, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

async fn count(rig: &Rig, n: usize) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for _ in 0..n {
        let (_, name) = open(rig.at(8080)).await.unwrap();
        *counts.entry(name).or_default() += 1;
    }
    counts
}

#[tokio::test]
async fn flows_are_balanced_by_scheduler_and_weight() {
    let mut rig = Rig::start();
    let addresses = [tcp_backend("a").await, tcp_backend("b").await, tcp_backend("c").await];
    let rr = rig.frontend(8080, Tcp);
    rig.serve(&rr, &addresses).await;
    let even = count(&rig, 30).await;
    assert_eq!(even.into_values().collect::<Vec<_>>(), [10, 10, 10]);
    // A changed policy takes effect without a new socket.
    rig.serve(&Frontend { scheduler: Scheduler::Wrr, ..rr.clone() }, &addresses).await;
    rig.apply(&[put(rr.key, Backend { weight: 4, ..backend("b", addresses[1]) })]).await;
    let weighted = count(&rig, 30).await;
    assert_eq!(weighted.into_values().collect::<Vec<_>>(), [5, 20, 5]);
    rig.serve(&Frontend { scheduler: Scheduler::Maglev, ..rr.clone() }, &addresses).await;
    let one = count(&rig, 10).await;
    assert_eq!(one.len(), 1, "one client address, one backend: {one:?}");
    let flow = Flow { client: Some([127, 0, 0, 1].into()), destination: rig.at(8080), protocol: Tcp };
    let said = rig.plane.explain(&flow);
    let certain = said.candidates.iter().find(|c| c.probability == 1.0).unwrap();
    assert_eq!(certain.backend.instance.as_str(), one.keys().next().unwrap());
    assert_eq!(said.objects.len(), 2, "{:?}", said.objects);
    eventually("all flows end", || rig.counters("a", Tcp).active == 0).await;
}

#[tokio::test]
async fn affinity_holds_per_service_and_expires() {
    let mut rig = Rig::start();
    let addresses = [tcp_backend("a").await, tcp_backend("b").await];
    let timeout = Duration::from_millis(300);
    let sticky = Frontend { affinity: Some(Affinity { timeout }), ..rig.frontend(8080, Tcp) };
    rig.serve(&sticky, &addresses).await;
    let second = Frontend { key: rig.frontend(8081, Tcp).key, ..sticky.clone() };
    rig.serve(&second, &addresses).await;
    let me: IpAddr = own_address();
    let (_, first) = named(connect_from(me, rig.at(8080)).await.unwrap()).await.unwrap();
    // Another client moves round robin on.
    for port in [8081, 8080, 8081, 8081] {
        let begun = std::time::Instant::now();
        let (_, again) = named(connect_from(me, rig.at(port)).await.unwrap()).await.unwrap();
        // A machine that stalls past the timeout proves nothing.
        assert!(again == first || begun.elapsed() > timeout / 2, "{again} after {first}");
    }
    let flow = Flow { client: Some(me), destination: rig.at(8080), protocol: Tcp };
    eventually("affinity is forgotten", || rig.plane.explain(&flow).affinity.is_none()).await;
}

#[tokio::test]
async fn bulk_goes_both_ways_unharmed() {
    const SIZE: usize = 16 << 20;
    let mut rig = Rig::start();
    let address = tcp_backend("a").await;
    let frontend = rig.frontend(8080, Tcp);
    rig.serve(&frontend, &[address]).await;
    let (stream, _) = open(rig.at(8080)).await.unwrap();
    let data: Vec<u8> = (0u64..).flat_map(|n| crate::plan::maglev::mix(n).to_le_bytes()).take(SIZE).collect();
    let (mut read, mut write) = stream.into_split();
    let sent = data.clone();
    let writer = tokio::spawn(async move {
        write.write_all(&sent).await.unwrap();
        write.shutdown().await.unwrap();
        write
    });
    let mut got = Vec::with_capacity(SIZE);
    within(read.read_to_end(&mut got)).await.unwrap();
    let _write = writer.await.unwrap();
    assert!(got == data, "{} bytes of {SIZE}, or other ones", got.len());
    eventually("the flow ends", || rig.counters("a", Tcp).active == 0).await;
    let counters = rig.counters("a", Tcp);
    let expected = (SIZE as u64, SIZE as u64 + 1, 1, 0, 0);
    let seen = (counters.bytes_in, counters.bytes_out, counters.established, counters.failed, counters.reset);
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn half_close_is_passed_on() {
    let mut rig = Rig::start();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let frontend = rig.frontend(8080, Tcp);
    rig.serve(&frontend, &[listener.local_addr().unwrap()]).await;
    let mut client = TcpStream::connect(rig.at(8080)).await.unwrap();
    client.write_all(b"question").await.unwrap();
    client.shutdown().await.unwrap();
    let (mut backend, _) = within(listener.accept()).await.unwrap();
    let mut question = String::new();
    within(backend.read_to_string(&mut question)).await.unwrap();
    assert_eq!(question, "question");
    backend.write_all(b"answer").await.unwrap();
    drop(backend);
    let mut answer = String::new();
    within(client.read_to_string(&mut answer)).await.unwrap();
    assert_eq!(answer, "answer");
}

#[tokio::test]
async fn a_reset_is_passed_on_in_both_directions() {
    let mut rig = Rig::start();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let frontend = rig.frontend(8080, Tcp);
    rig.serve(&frontend, &[listener.local_addr().unwrap()]).await;
    for client_resets in [true, false] {
        let mut client = TcpStream::connect(rig.at(8080)).await.unwrap();
        client.write_all(b"x").await.unwrap();
        let (mut backend, _) = within(listener.accept()).await.unwrap();
        backend.read_exact(&mut [0]).await.unwrap();
        let (one, mut other) = if client_resets { (client, backend) } else { (backend, client) };
        set_socket_linger(&one, Some(Duration::ZERO)).unwrap();
        drop(one);
        assert_reset(&mut other).await;
    }
    eventually("both flows end", || rig.counters("a", Tcp).active == 0).await;
    assert_eq!(rig.counters("a", Tcp).reset, 0, "the ends reset, not we");
}

#[tokio::test]
async fn a_backend_that_refuses_is_passed_over_and_counted() {
    let mut rig = Rig::start();
    let dead = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    let frontend = rig.frontend(8080, Tcp);
    rig.serve(&frontend, &[dead, tcp_backend("b").await]).await;
    for _ in 0..10 {
        assert_eq!(open(rig.at(8080)).await.unwrap().1, "b");
    }
    let counters = rig.counters("a", Tcp);
    assert!(counters.failed >= 5 && counters.established == 0, "{counters:?}");
}

#[tokio::test]
async fn the_backend_sees_the_client_in_a_proxy_header() {
    let mut rig = Rig::start();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let frontend = Frontend { proxy_protocol: true, ..rig.frontend(8080, Tcp) };
    rig.serve(&frontend, &[listener.local_addr().unwrap()]).await;
    let mut client = connect_from(own_address(), rig.at(8080)).await.unwrap();
    client.write_all(b"hello").await.unwrap();
    let (mut backend, _) = within(listener.accept()).await.unwrap();
    let mut got = vec![0; 28 + 5];
    within(backend.read_exact(&mut got)).await.unwrap();
    let header =
        crate::dataplane::userspace::proxy_protocol::header(client.local_addr().unwrap(), rig.at(8080));
    assert_eq!((&got[..28], &got[28..]), (&header[..], &b"hello"[..]));
}

#[tokio::test]
async fn a_reader_that_stops_holds_the_sender_back() {
    let mut rig = Rig::start();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let frontend = rig.frontend(8080, Tcp);
    rig.serve(&frontend, &[listener.local_addr().unwrap()]).await;
    let client = TcpStream::connect(rig.at(8080)).await.unwrap();
    let (backend, _) = within(listener.accept()).await.unwrap();
    // Write until nothing more is taken: the buffers on the way are bounded.
    let block = vec![7; 1 << 20];
    let mut sent = 0;
    loop {
        let stalled = tokio::time::timeout(Duration::from_millis(500), client.writable()).await.is_err();
        if stalled {
            break;
        }
        match client.try_write(&block) {
            Ok(n) => sent += n,
            Err(e) => assert_eq!(e.kind(), std::io::ErrorKind::WouldBlock),
        }
        assert!(sent < 256 << 20, "no back-pressure after {sent} bytes");
    }
    drop((client, backend));
}

#[tokio::test]
async fn an_idle_flow_is_closed_and_a_busy_one_is_not() {
    let mut rig = Rig::start();
    // Far longer than a loaded machine keeps the busy flow waiting between two bytes.
    let idle = Duration::from_secs(2);
    let frontend = Frontend { idle_timeout: Some(idle), ..rig.frontend(8080, Tcp) };
    rig.serve(&frontend, &[tcp_backend("a").await]).await;
    let (mut busy, _) = open(rig.at(8080)).await.unwrap();
    let (mut quiet, _) = open(rig.at(8080)).await.unwrap();
    let begun = std::time::Instant::now();
    let mut end = [0];
    let ended = quiet.read(&mut end);
    tokio::pin!(ended);
    loop {
        busy.write_all(b"x").await.unwrap();
        busy.read_exact(&mut [0]).await.unwrap();
        tokio::select! {
            n = &mut ended => { assert_eq!(n.unwrap(), 0); break }
            () = tokio::time::sleep(Duration::from_millis(20)) => {}
        }
        assert!(begun.elapsed() < DEADLINE, "the idle flow was never closed");
    }
    assert!(begun.elapsed() >= idle);
}
