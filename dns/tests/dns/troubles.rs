//! Upstreams that lead back here, that do not keep the case of a question, and that send whatever comes to their mind.

use crate::{
    client::{PATIENCE, Server, data, own_address, query, udp_octets},
    mesh,
    upstreams::{Upstream, found, good, is_probe},
};
use hickory_proto::{
    op::{Message, ResponseCode},
    rr::RecordType,
};
use mesh_dns::{DnsConfig, Limits, Upstreams};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    net::{TcpListener, UdpSocket},
    task::JoinSet,
    time::timeout,
};

/// Another resolver, whose upstream is `server`: hands queries there and replies back.
struct Relay {
    at: SocketAddr,
    queries: Arc<AtomicUsize>,
    _task: JoinSet<()>,
}

impl Relay {
    async fn start(server: SocketAddr) -> Relay {
        let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let at = socket.local_addr().unwrap();
        let (queries, mut task) = (Arc::new(AtomicUsize::new(0)), JoinSet::new());
        let count = Arc::clone(&queries);
        task.spawn(async move {
            let mut under_way = JoinSet::new();
            let mut buffer = [0u8; 4096];
            while let Ok((length, client)) = socket.recv_from(&mut buffer).await {
                let packet = buffer[..length].to_vec();
                if !is_probe(&Message::from_vec(&packet).unwrap()) {
                    count.fetch_add(1, Ordering::Relaxed);
                }
                let socket = Arc::clone(&socket);
                under_way.spawn(async move {
                    if let Ok(reply) = udp_octets(server, &packet).await {
                        // Who asked may have given up.
                        let _ = socket.send_to(&reply, client).await;
                    }
                });
            }
        });
        Relay { at, queries, _task: task }
    }
}

/// The upstream is another resolver that asks this server in turn.
#[tokio::test]
async fn coredns_2087_a_loop_through_another_resolver_is_left_out() {
    let own = own_address();
    let (relay, alive) = (Relay::start(own).await, Upstream::start(good).await);
    for (upstreams, expected) in
        [(vec![relay.at, alive.at], ResponseCode::NoError), (vec![relay.at], ResponseCode::Refused)]
    {
        let config = DnsConfig {
            listen: vec![own],
            upstreams: Upstreams::List(upstreams.into_iter().map(Into::into).collect()),
            ..DnsConfig::default()
        };
        let server = Server::with(mesh::example(), config).await;
        let found = async {
            while server.metric("mesh_dns_forward_loops", &[("upstream", &relay.at.to_string())]) == 0 {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, found).await.expect("the loop is found");
        assert_eq!(server.metric("mesh_dns_forward_loops", &[]), 1, "and no other");
        for name in ["a.example.org", "b.example.org"] {
            assert_eq!(server.ask(name, RecordType::A).await.metadata.response_code, expected);
        }
        assert_eq!(relay.queries.load(Ordering::Relaxed), 0);
        server.handle.shutdown().await;
    }
}

/// A fake that notes the names it is asked for, as they are written.
async fn noting(
    answer: impl Fn(&Message) -> Vec<Vec<u8>> + Send + 'static,
) -> (Upstream, Arc<Mutex<Vec<String>>>) {
    let names = Arc::new(Mutex::new(Vec::new()));
    let notes = Arc::clone(&names);
    let upstream = Upstream::start(move |m: &Message| {
        if !is_probe(m) {
            notes.lock().unwrap().push(m.queries[0].name().to_ascii());
        }
        answer(m)
    });
    (upstream.await, names)
}

fn in_lower_case(asked: &Message) -> Message {
    let mut lower = asked.clone();
    lower.queries[0].set_name(asked.queries[0].name().to_lowercase());
    lower
}

/// draft-vixie-dnsext-dns0x20.
#[tokio::test]
async fn the_case_of_questions_is_mixed_for_upstreams_that_keep_it() {
    let (keeps, kept) = noting(good).await;
    let (lowers, lowered) = noting(|m| good(&in_lower_case(m))).await;
    for (upstream, names, mixes) in [(keeps, kept, true), (lowers, lowered, false)] {
        let server = Server::start(mesh::example(), &[upstream.at], Limits::default()).await;
        for i in 0..20 {
            let name = format!("some-long-name-{i}.example.org");
            let answer = server.ask(&name, RecordType::A).await;
            assert_eq!(data(&answer), ["192.0.2.1"]);
            assert_eq!(answer.queries[0].name().to_ascii(), format!("{name}."), "the client's own case");
        }
        let names = names.lock().unwrap().clone();
        // The first may by chance prove nothing; that the last ten of all were lower by chance is past belief.
        let mixed = names[10..].iter().any(|name| *name != name.to_ascii_lowercase());
        assert_eq!(mixed, mixes, "{names:?}");
    }
}

#[tokio::test]
async fn a_reply_in_another_case_is_ignored_once_the_upstream_has_kept_it() {
    let upstream = Upstream::start(|m: &Message| {
        if is_probe(m)
            || m.queries[0].name().iter().next().is_some_and(|l| l.eq_ignore_ascii_case(b"first-of-all"))
        {
            return good(m);
        }
        vec![found(&in_lower_case(m), [6; 4]), found(m, [192, 0, 2, 1])]
    })
    .await;
    let server = Server::start(mesh::example(), &[upstream.at], Limits::default()).await;
    for name in ["first-of-all.example.org", "second-of-all.example.org", "third-of-all.example.org"] {
        assert_eq!(data(&server.ask(name, RecordType::A).await), ["192.0.2.1"], "{name}");
    }
    assert!(server.metric("mesh_dns_forward_strays_total", &[("reason", "case")]) >= 1);
}

/// Many a firewall drops TCP to port 53: the truncated reply is better than none, and no reason to avoid the upstream.
#[tokio::test]
async fn when_tcp_is_dropped_the_truncated_reply_stands() {
    let truncated = Upstream::start(|m: &Message| {
        let mut answer = Message::from_vec(&found(m, [192, 0, 2, 1])).unwrap();
        answer.metadata.truncation = true;
        vec![answer.to_vec().unwrap()]
    })
    .await;
    // The kernel accepts connections here, and nobody ever reads from them.
    let (udp, _tcp) = loop {
        let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
            break (udp, tcp);
        }
    };
    let at = udp.local_addr().unwrap();
    let mut relay = JoinSet::new();
    relay.spawn(async move {
        let mut buffer = [0u8; 4096];
        while let Ok((length, client)) = udp.recv_from(&mut buffer).await {
            let reply = udp_octets(truncated.at, &buffer[..length]).await.unwrap();
            // Who asked may have given up.
            let _ = udp.send_to(&reply, client).await;
        }
    });
    let limits = Limits { forward_try: Duration::from_millis(500), ..Limits::default() };
    let server = Server::start(mesh::example(), &[at], limits).await;
    let answer = server.ask("example.org", RecordType::A).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
    assert!(answer.metadata.truncation);
    assert_eq!(server.metric("mesh_dns_forward_healthy", &[("upstream", &at.to_string())]), 1);
    assert_eq!(server.metric("mesh_dns_cache_entries", &[]), 0, "what is truncated is not kept");
}

/// Mutants of the right reply, hundreds of them: every client hears either SERVFAIL or a reply to its own question with
/// its own id; nothing panics, and our own names are answered all the while.
#[tokio::test]
async fn any_replies() {
    const SEED: u64 = 11;
    println!("any replies: seed {SEED}");
    let seeds = AtomicUsize::new(0);
    let upstream = Upstream::start(move |m: &Message| {
        let seed = u64::try_from(seeds.fetch_add(1, Ordering::Relaxed)).unwrap();
        let mut rng = StdRng::seed_from_u64(SEED ^ seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let whole = found(m, [192, 0, 2, 1]);
        let mutants = (0..rng.random_range(1..=100)).map(|_| {
            let mut octets = whole.clone();
            for _ in 0..rng.random_range(1..=4) {
                let at = rng.random_range(0..octets.len());
                match rng.random_range(0..5) {
                    0 => octets[at] ^= 1 << rng.random_range(0..8),
                    1 => octets[at] = rng.random(),
                    2 => octets.truncate(at.max(1)),
                    3 => octets.extend_from_within(at..),
                    // A giant: no more than a datagram holds.
                    _ => octets.resize(rng.random_range(4000..60_000), 0xc0),
                }
            }
            octets
        });
        mutants.collect()
    })
    .await;
    let limits = Limits {
        forward_try: Duration::from_millis(20),
        forward_total: Duration::from_millis(40),
        upstream_holdoff: Duration::from_millis(1),
        ..Limits::default()
    };
    let server = Server::start(mesh::example(), &[upstream.at], limits).await;
    let at = server.at();
    let (mut answered, mut failed) = (0, 0);
    for round in 0..40u16 {
        let mut clients = JoinSet::new();
        for client in 0..8u16 {
            let name = format!("host-{}.example.org", round * 4 + client);
            let mut packet = query(&name, RecordType::A, (client % 2 == 0).then_some(1232));
            let id = (round * 8 + client).to_be_bytes();
            packet[..2].copy_from_slice(&id);
            clients.spawn(async move { (id, packet.clone(), udp_octets(at, &packet).await.unwrap()) });
        }
        while let Some(client) = clients.join_next().await {
            let (id, packet, reply) = client.unwrap();
            assert!(reply[..2] == id && reply[2] & 0xf8 == 0x80, "{reply:02x?}");
            // A bare header, of a server that could not read the query, has no question.
            if reply[4..].iter().any(|octet| *octet != 0) {
                let end = packet.iter().skip(12).position(|octet| *octet == 0).unwrap() + 12 + 5;
                assert_eq!(reply.get(4..6), Some(&[0, 1][..]));
                assert_eq!(reply.get(12..end), packet.get(12..end), "{reply:02x?}");
            }
            if reply[3] & 0x0f == 2 { failed += 1 } else { answered += 1 }
        }
        assert_eq!(server.ask("web.cluster", RecordType::A).await.answers.len(), 1);
    }
    println!("{answered} answered, {failed} failed");
    assert!(answered > 0 && server.handle.is_serving());
    assert!(server.metric("mesh_dns_forward_strays_total", &[]) > 100);
}
