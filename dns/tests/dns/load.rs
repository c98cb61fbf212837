//! Under load and garbage: nothing stale, nothing that grows, nothing that ends.

use crate::{
    client::{PATIENCE, Server, data, query, tcp, udp},
    garbage::packet,
    mesh,
    upstreams::{Upstream, found},
};
use hickory_proto::{op::ResponseCode, rr::RecordType};
use mesh_dns::Limits;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    task::JoinSet,
    time::timeout,
};

const SEED: u64 = 0xf1a7;

/// Every client reads the revision before it asks: what that revision has withdrawn must not be in the answer. Each
/// round has an endpoint of its own and withdraws the one before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_client_ever_hears_of_a_withdrawn_endpoint() {
    const ROUNDS: usize = 60;
    let round = |i: usize| {
        format!(
            "service web ports=80/tcp>80 vip=10.96.0.1\nendpoint web i{i} n1 10.0.{}.{} ready",
            i / 250,
            i % 250
        )
    };
    let mut snapshot = mesh::read("service other vip=10.96.0.2");
    let mut revisions = Vec::new();
    let mut snapshots = Vec::new();
    for i in 0..ROUNDS {
        mesh::change(&mut snapshot, &round(i));
        revisions.push(snapshot.revision);
        snapshots.push(Arc::new(snapshot.clone()));
    }
    let server = Arc::new(Server::start(snapshots[0].as_ref().clone(), &[], Limits::default()).await);
    let (revisions, stop) = (Arc::new(revisions), Arc::new(AtomicBool::new(false)));
    let mut clients = JoinSet::new();
    for client in 0..4 {
        let (server, revisions, stop) = (Arc::clone(&server), Arc::clone(&revisions), Arc::clone(&stop));
        clients.spawn(async move {
            let packet = query("tasks.web.cluster", RecordType::A, None);
            let mut stream = TcpStream::connect(server.at()).await.unwrap();
            let mut asked = 0;
            while !stop.load(Ordering::Relaxed) || asked == 0 {
                let known = server.handle.revision();
                let answer = match client % 2 {
                    0 => udp(server.at(), &packet).await.unwrap(),
                    _ => tcp(&mut stream, &packet).await.unwrap(),
                };
                let [address] = &data(&answer)[..] else { panic!("{:?}", data(&answer)) };
                let octets: Vec<usize> = address.split('.').map(|o| o.parse().unwrap()).collect();
                let i = octets[2] * 250 + octets[3];
                assert!(revisions[i] >= known, "i{i} of revision {} at revision {known}", revisions[i]);
                asked += 1;
            }
            asked
        });
    }
    for next in snapshots {
        let revision = next.revision;
        server.snapshots.send_replace(next);
        let follows = async {
            while server.handle.revision() < revision {
                tokio::task::yield_now().await;
            }
            // Somebody is answered from it before the next one comes.
            server.ask("tasks.web.cluster", RecordType::A).await
        };
        timeout(PATIENCE, follows).await.expect("the view follows");
    }
    stop.store(true, Ordering::Relaxed);
    let asked = timeout(PATIENCE, clients.join_all()).await.expect("the clients end");
    assert!(asked.iter().all(|n| *n > 0), "{asked:?}");
    assert!(server.handle.is_serving());
}

/// An upstream that answers with noise and with mutated replies: clients get a reply of some kind, and the server
/// goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_may_say_anything() {
    eprintln!("seed {SEED:#x}");
    let liar = Upstream::answering(
        |asked| {
            // The id is random, and so a seed that is not needed to be the same twice.
            let mut rng = StdRng::seed_from_u64(SEED ^ u64::from(asked.metadata.id));
            let mut lies: Vec<Vec<u8>> = (0..4).map(|_| packet(&mut rng)).collect();
            for _ in 0..4 {
                let mut bytes = found(asked, [192, 0, 2, 1]);
                for _ in 0..rng.random_range(1..4) {
                    let at = rng.random_range(2..bytes.len());
                    bytes[at] = rng.random();
                }
                bytes.truncate(rng.random_range(0..=bytes.len()));
                lies.push(bytes);
            }
            lies.push(found(asked, [192, 0, 2, 1]));
            lies
        },
        |_| vec![0xff; 40],
    )
    .await;
    let server = Server::start(mesh::example(), &[liar.at], Limits::default()).await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(server.at()).await.unwrap();
    let mut buffer = [0u8; 4096];
    for i in 0..300 {
        socket.send(&query(&format!("x{i}.example.org"), RecordType::A, None)).await.unwrap();
        let length =
            timeout(PATIENCE, socket.recv(&mut buffer)).await.expect("a reply of some kind").unwrap();
        assert_eq!(buffer[..2], 4711u16.to_be_bytes(), "with the client's id ({length} octets)");
        server.handle.query("example.net", "A").await.ok();
    }
    assert_eq!(server.ask("web.cluster", RecordType::A).await.answers.len(), 1);
    assert!(server.handle.is_serving());
}

/// Resident memory of this process in KiB; nextest gives every test a process of its own.
pub(crate) fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Garbage, half-open connections, lengths that never come and forwards nobody answers: what they hold has a bound.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_is_bounded() {
    eprintln!("seed {SEED:#x}");
    let mut rng = StdRng::seed_from_u64(SEED);
    let silent = Upstream::answering(|_| Vec::new(), |_| Vec::new()).await;
    // One client stands for many.
    let limits = Limits { client_forwards: 0, ..Limits::default() };
    let server = Server::start(mesh::example(), &[silent.at], limits).await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(server.at()).await.unwrap();
    let mut open = Vec::new();
    let mut first = 0;
    for round in 0..300 {
        for _ in 0..100 {
            socket.send(&packet(&mut rng)).await.unwrap();
        }
        for _ in 0..4 {
            let mut stream = TcpStream::connect(server.at()).await.unwrap();
            // The longest message is announced, and little of it comes.
            let _ = stream.write_all(&[0xff, 0xff, 1, 2, 3]).await;
            open.push(stream);
            let mut stream = TcpStream::connect(server.at()).await.unwrap();
            let _ = stream.write_all(&[0x0f]).await;
            open.push(stream);
        }
        if open.len() > 600 {
            open.drain(..300);
        }
        assert_eq!(server.ask("web.cluster", RecordType::A).await.answers.len(), 1, "round {round}");
        if round == 100 {
            first = resident();
        }
    }
    assert!(server.metric("mesh_dns_tcp_connections", &[]) <= 256);
    assert!(server.metric("mesh_dns_forward_overload_total", &[]) > 0, "the forwards were at their bound");
    let grown = resident().saturating_sub(first);
    eprintln!("{first} KiB after 100 rounds, {grown} KiB more after 300");
    assert!(grown < 32 * 1024, "{grown} KiB more after twice as much garbage");
    assert!(server.handle.is_serving());
}

/// The longest a connection may take for its next query holds for one that trickles octets as well.
#[tokio::test]
async fn a_trickling_client_is_hung_up_on() {
    let limits = Limits { tcp_idle: std::time::Duration::from_millis(300), ..Limits::default() };
    let server = Server::start(mesh::example(), &[], limits).await;
    let stream = TcpStream::connect(server.at()).await.unwrap();
    let (mut reader, mut writer) = stream.into_split();
    let mut trickle = JoinSet::new();
    trickle.spawn(async move {
        let mut ticks = tokio::time::interval(std::time::Duration::from_millis(20));
        let packet = query("web.cluster", RecordType::A, None);
        let announced = [&[0x0f, 0xff][..], &packet].concat();
        for octet in announced.iter().cycle() {
            ticks.tick().await;
            if writer.write_all(&[*octet]).await.is_err() {
                return;
            }
        }
    });
    let mut rest = [0u8; 1];
    let ended = timeout(PATIENCE, reader.read(&mut rest))
        .await
        .expect("it ends, though something comes all the time");
    assert!(matches!(ended, Ok(0) | Err(_)));
    assert_eq!(
        server.ask("nothing.cluster", RecordType::A).await.metadata.response_code,
        ResponseCode::NXDomain
    );
}
