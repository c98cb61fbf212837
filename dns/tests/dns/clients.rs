//! What a single client gets: its share, and replies from the address it asked.

use crate::{
    client::{PATIENCE, Server, query, tcp, udp},
    mesh,
    upstreams::Upstream,
};
use hickory_proto::{
    op::{Message, ResponseCode},
    rr::RecordType,
};
use mesh_dns::{DnsConfig, DnsServer, Limits, Upstreams};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    net::{TcpStream, UdpSocket},
    sync::watch,
    time::timeout,
};

const REFUSED: ResponseCode = ResponseCode::Refused;

/// One count for all that a client asks, over whichever transport, and each refusal is counted.
#[tokio::test]
async fn a_client_that_asks_too_much_is_refused_over_both_transports() {
    let limits = Limits { client_queries: 1, client_burst: 6, ..Limits::default() };
    let server = Server::start(mesh::example(), &[], limits).await;
    let packets = [("web.cluster", None), ("nothing.cluster", None), ("WEB.cluster", Some(1232))]
        .map(|(name, payload)| query(name, RecordType::A, payload));
    let mut stream = TcpStream::connect(server.at()).await.unwrap();
    let (mut refused, mut answered, mut asked) = ([0, 0], 0, 0);
    // A slow machine earns some queries in between, so it is not certain how many it takes.
    while refused.contains(&0) {
        for (packet, over_tcp) in packets.iter().flat_map(|packet| [(packet, false), (packet, true)]) {
            let reply = match over_tcp {
                true => tcp(&mut stream, packet).await.unwrap(),
                false => udp(server.at(), packet).await.unwrap(),
            };
            asked += 1;
            assert_eq!((reply.metadata.id, reply.queries.len()), (4711, 1), "{reply}");
            assert_eq!(reply.edns.is_some(), packet[11] == 1, "RFC 6891 section 7, refused or not");
            if reply.metadata.response_code == REFUSED {
                assert!(asked > 6, "the burst is the client's");
                assert!(reply.answers.is_empty() && !reply.metadata.authoritative);
                refused[usize::from(over_tcp)] += 1;
            } else {
                answered += 1;
            }
        }
    }
    assert!(answered >= 6);
    let refused = refused.iter().sum::<u64>();
    assert_eq!(server.metric("mesh_dns_client_limited_total", &[("limit", "queries")]), refused);
    assert_eq!(server.metric("mesh_dns_responses_total", &[("rcode", "REFUSED")]), refused);
    assert_eq!(server.metric("mesh_dns_requests_total", &[]), asked);
    let other = UdpSocket::bind("127.0.0.2:0").await.unwrap();
    assert_ne!(exchange(&other, server.at(), &packets[0]).await.0, REFUSED, "others are not concerned");
}

/// A client whose names nobody answers does not take all forwards.
#[tokio::test]
async fn a_client_has_its_share_of_the_forwards() {
    let silent = Upstream::answering(|_| Vec::new(), |_| Vec::new()).await;
    let long = Duration::from_secs(60);
    let limits = Limits { client_forwards: 3, forward_try: long, forward_total: long, ..Limits::default() };
    let server = Server::start(mesh::example(), &[silent.at], limits).await;
    let outside = |i: usize| query(&format!("x{i}.example.org"), RecordType::A, None);
    let (one, other) =
        (UdpSocket::bind("127.0.0.1:0").await.unwrap(), UdpSocket::bind("127.0.0.2:0").await.unwrap());
    for i in 0..10 {
        one.send_to(&outside(i), server.at()).await.unwrap();
    }
    let mut buffer = [0u8; 512];
    for _ in 0..7 {
        let length = timeout(PATIENCE, one.recv(&mut buffer)).await.expect("refused at once").unwrap();
        assert_eq!(Message::from_vec(&buffer[..length]).unwrap().metadata.response_code, REFUSED);
    }
    let limited = || server.metric("mesh_dns_client_limited_total", &[("limit", "forwards")]);
    assert_eq!(limited(), 7);
    let mut stream = TcpStream::connect(server.at()).await.unwrap();
    assert_eq!(tcp(&mut stream, &outside(10)).await.unwrap().metadata.response_code, REFUSED);
    assert_eq!(limited(), 8);
    for i in 11..14 {
        other.send_to(&outside(i), server.at()).await.unwrap();
    }
    let ours = query("web.cluster", RecordType::A, None);
    assert_eq!(exchange(&other, server.at(), &ours).await.0, ResponseCode::NoError);
    assert_eq!(limited(), 8, "others are not concerned");
    assert_eq!(server.metric("mesh_dns_forward_overload_total", &[]), 0);
}

/// coredns#3097: the reply leaves from the address that was asked, whatever other addresses the interface has, else
/// the client does not take it. Also for what does not go the fast way, and what an upstream answers.
#[tokio::test]
async fn coredns_3097_the_reply_comes_from_the_address_asked() {
    let upstream = Upstream::answering(
        |asked| {
            vec![Message::response(asked.metadata.id, asked.metadata.op_code)]
                .into_iter()
                .map(|mut reply| {
                    reply.queries = asked.queries.clone();
                    reply.to_vec().unwrap()
                })
                .collect()
        },
        |_| Vec::new(),
    )
    .await;
    let config = DnsConfig {
        listen: ["127.0.0.1:0", "127.0.0.3:0", "127.1.2.3:0", "[::1]:0"].map(|a| a.parse().unwrap()).into(),
        upstreams: Upstreams::List(vec![upstream.at.into()]),
        ..DnsConfig::default()
    };
    let (_keep, feed) = watch::channel(Arc::new(mesh::example()));
    let server = DnsServer::start(config, feed, &prometheus::Registry::new()).await.unwrap();
    for at in server.addresses() {
        // Not bound to the address asked, nor connected, so that a reply from anywhere comes in.
        let local = if at.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(local).await.unwrap();
        for (name, kind) in [
            ("web.cluster", RecordType::A),
            ("web.cluster", RecordType::MX),
            ("nothing.cluster", RecordType::A),
            ("web.cluster", RecordType::ANY),
            ("example.org", RecordType::A),
        ] {
            let (_, from) = exchange(&socket, *at, &query(name, kind, None)).await;
            assert_eq!(from, *at, "{name} {kind}");
        }
    }
    server.shutdown().await;
}

/// Asks and waits; the reply's code and where it comes from.
async fn exchange(socket: &UdpSocket, at: SocketAddr, packet: &[u8]) -> (ResponseCode, SocketAddr) {
    socket.send_to(packet, at).await.unwrap();
    let mut buffer = [0u8; 4096];
    let (length, from) = timeout(PATIENCE, socket.recv_from(&mut buffer)).await.expect("a reply").unwrap();
    (Message::from_vec(&buffer[..length]).unwrap().metadata.response_code, from)
}
