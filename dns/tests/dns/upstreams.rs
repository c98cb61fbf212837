//! Other names: what the forwarder makes of good, slow, dead and lying upstreams.

use crate::{
    client::{PATIENCE, Server, data, own_address, query, tcp, udp},
    mesh,
};
use hickory_proto::{
    op::{Message, MessageType, ResponseCode},
    rr::{Name, RData, Record, RecordType, rdata::A},
};
use mesh_dns::{DnsConfig, DnsServer, Limits, Upstreams};
use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::watch,
    task::JoinSet,
    time::timeout,
};

/// What a fake upstream does with a query over UDP; nothing means silence.
pub(crate) trait Behaviour: Fn(&Message) -> Vec<Vec<u8>> + Send + 'static {}
impl<F: Fn(&Message) -> Vec<Vec<u8>> + Send + 'static> Behaviour for F {}

/// A fake upstream: UDP by a behaviour, TCP answering 192.0.2.99 unless told otherwise.
pub(crate) struct Upstream {
    pub(crate) at: SocketAddr,
    asked: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Upstream {
    pub(crate) async fn start(behaviour: impl Behaviour) -> Upstream {
        Upstream::answering(behaviour, |asked| found(asked, [192, 0, 2, 99])).await
    }

    pub(crate) async fn answering(
        behaviour: impl Behaviour,
        over_tcp: impl Fn(&Message) -> Vec<u8> + Send + 'static,
    ) -> Upstream {
        // The same port for both; another test may take the TCP one in between, then the next is tried.
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
                break (udp, tcp);
            }
        };
        let at = udp.local_addr().unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let mut tasks = JoinSet::new();
        let count = Arc::clone(&asked);
        tasks.spawn(async move {
            let mut buffer = [0u8; 4096];
            while let Ok((length, client)) = udp.recv_from(&mut buffer).await {
                // Garbage of clients is forwarded as it is.
                let read = Message::from_vec(&buffer[..length]);
                if !read.as_ref().is_ok_and(is_probe) {
                    count.fetch_add(1, Ordering::Relaxed);
                }
                let Ok(asked) = read else { continue };
                for answer in behaviour(&asked) {
                    // Somebody may have had enough already.
                    let _ = udp.send_to(&answer, client).await;
                }
            }
        });
        tasks.spawn(async move {
            while let Ok((mut stream, _)) = tcp.accept().await {
                let Ok(length) = stream.read_u16().await else { continue };
                let mut packet = vec![0u8; usize::from(length)];
                if stream.read_exact(&mut packet).await.is_err() {
                    continue;
                }
                let asked = Message::from_vec(&packet).unwrap();
                let answer =
                    if is_probe(&asked) { reply(&asked).to_vec().unwrap() } else { over_tcp(&asked) };
                let size = u16::try_from(answer.len()).unwrap().to_be_bytes();
                // Who asked may have given up.
                let _ = stream.write_all(&[&size[..], &answer].concat()).await;
            }
        });
        Upstream { at, asked, _tasks: tasks }
    }

    /// Queries of clients that came over UDP.
    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

/// Whether the forwarder asks on its own account: whether this server leads back to it, or is alive.
pub(crate) fn is_probe(asked: &Message) -> bool {
    asked.queries.first().is_some_and(|q| q.query_type() == RecordType::HINFO || q.name().is_root())
}

pub(crate) fn reply(asked: &Message) -> Message {
    let mut answer = asked.clone();
    answer.metadata.message_type = MessageType::Response;
    answer
}

pub(crate) fn found(asked: &Message, address: [u8; 4]) -> Vec<u8> {
    let mut answer = reply(asked);
    let owner = asked.queries[0].name().clone();
    answer.answers = vec![Record::from_rdata(owner, 60, RData::A(A(Ipv4Addr::from(address))))];
    answer.to_vec().unwrap()
}

pub(crate) fn code(asked: &Message, code: ResponseCode) -> Vec<u8> {
    let mut answer = reply(asked);
    answer.metadata.response_code = code;
    answer.to_vec().unwrap()
}

pub(crate) fn good(asked: &Message) -> Vec<Vec<u8>> {
    vec![found(asked, [192, 0, 2, 1])]
}

pub(crate) fn silent(_: &Message) -> Vec<Vec<u8>> {
    Vec::new()
}

/// Two clients' complaints of one cause: a first upstream that is dead. Here it costs the first query a moment's
/// patience, and is not asked first again.
#[tokio::test]
async fn aardvark_482_and_hickory_3837_a_dead_first_upstream_is_skipped() {
    let (dead, alive) = (Upstream::start(silent).await, Upstream::start(good).await);
    // Had the forwarder to wait for the dead one to time out, no client would wait so long.
    let limits = Limits {
        forward_try: Duration::from_secs(60),
        forward_total: Duration::from_secs(120),
        ..Limits::default()
    };
    let server = Server::start(mesh::example(), &[dead.at, alive.at], limits).await;
    for query in 0..20 {
        let answer = server.ask(&format!("host-{query}.example.org"), RecordType::A).await;
        assert_eq!(data(&answer), ["192.0.2.1"]);
    }
    assert_eq!(alive.asked(), 20);
    assert!((1..20).contains(&dead.asked()), "{} were asked of the dead one", dead.asked());
    let healthy =
        |at: SocketAddr| server.metric("mesh_dns_forward_healthy", &[("upstream", &at.to_string())]);
    assert_eq!((healthy(dead.at), healthy(alive.at)), (0, 1));
    assert_eq!(server.metric("mesh_dns_forward_healthcheck_broken_total", &[]), 0, "one was healthy always");
    assert!(server.metric("mesh_dns_forward_hedges_total", &[]) >= 1);
}

/// What the upstream says is what the client hears: NXDOMAIN does not become SERVFAIL.
#[tokio::test]
async fn moby_45553_response_codes_pass_unchanged() {
    for expected in
        [ResponseCode::Refused, ResponseCode::NXDomain, ResponseCode::ServFail, ResponseCode::NotImp]
    {
        let upstream = Upstream::start(move |m: &Message| vec![code(m, expected)]).await;
        let server = Server::start(mesh::example(), &[upstream.at], Limits::default()).await;
        let answer = server.ask("example.org", RecordType::A).await;
        assert_eq!(answer.metadata.response_code, expected);
        assert_eq!(answer.metadata.id, 4711);
    }
}

/// REFUSED is an answer, SERVFAIL one only if nobody says better.
#[tokio::test]
async fn servfail_of_one_upstream_is_followed_by_the_next() {
    let says = |rcode| Upstream::start(move |m: &Message| vec![code(m, rcode)]);
    let (broken, refusing) = (says(ResponseCode::ServFail).await, says(ResponseCode::Refused).await);
    let alive = Upstream::start(good).await;
    for (upstreams, expected) in [
        ([broken.at, alive.at], ResponseCode::NoError),
        ([refusing.at, alive.at], ResponseCode::Refused),
        ([broken.at, refusing.at], ResponseCode::Refused),
        ([broken.at, broken.at], ResponseCode::ServFail),
    ] {
        let server = Server::start(mesh::example(), &upstreams, Limits::default()).await;
        let answer = server.ask("example.org", RecordType::A).await;
        assert_eq!(answer.metadata.response_code, expected, "{upstreams:?}");
    }
}

#[tokio::test]
async fn docker_for_mac_2160_a_truncated_answer_is_fetched_over_tcp() {
    let upstream = Upstream::start(|m| {
        let mut answer = reply(m);
        answer.metadata.truncation = true;
        vec![answer.to_vec().unwrap()]
    })
    .await;
    let server = Server::start(mesh::example(), &[upstream.at], Limits::default()).await;
    let packet = query("example.org", RecordType::A, None);
    assert_eq!(data(&udp(server.at(), &packet).await.unwrap()), ["192.0.2.99"]);
    let mut stream = TcpStream::connect(server.at()).await.unwrap();
    assert_eq!(data(&tcp(&mut stream, &packet).await.unwrap()), ["192.0.2.99"]);
}

#[tokio::test]
async fn answers_that_do_not_fit_the_question_are_passed_over() {
    let upstream = Upstream::start(|m| {
        let mut spoofed = m.clone();
        spoofed.metadata.id = m.metadata.id.wrapping_add(1);
        let mut wrong_name = m.clone();
        wrong_name.queries[0].set_name(Name::from_ascii("evil.example.").unwrap());
        vec![
            b"x".to_vec(),
            found(&spoofed, [6, 6, 6, 6]),
            found(&wrong_name, [6, 6, 6, 6]),
            m.to_vec().unwrap(),
            found(m, [192, 0, 2, 1]),
        ]
    })
    .await;
    let server = Server::start(mesh::example(), &[upstream.at], Limits::default()).await;
    assert_eq!(data(&server.ask("example.org", RecordType::A).await), ["192.0.2.1"]);
    let strays = |reason| server.metric("mesh_dns_forward_strays_total", &[("reason", reason)]);
    assert!(strays("id") >= 1 && strays("question") >= 1 && strays("format") >= 2);
}

#[tokio::test]
async fn when_nobody_answers_it_is_servfail_and_counted() {
    let dead = Upstream::start(silent).await;
    let limits = Limits {
        forward_try: Duration::from_millis(50),
        forward_total: Duration::from_millis(200),
        ..Limits::default()
    };
    let server = Server::start(mesh::example(), &[dead.at], limits).await;
    let answer = server.ask("example.org", RecordType::A).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    let broken = || server.metric("mesh_dns_forward_healthcheck_broken_total", &[]);
    assert_eq!(broken(), 0, "nothing was known of it yet");
    server.ask("example.net", RecordType::A).await;
    assert_eq!(broken(), 1);
    assert_eq!(server.ask("web.cluster", RecordType::A).await.answers.len(), 1, "our own names go on");
}

#[tokio::test]
async fn too_many_at_once_are_refused_and_counted() {
    let dead = Upstream::start(silent).await;
    let limits = Limits { forwards: 3, forward_total: Duration::from_secs(30), ..Limits::default() };
    let server = Server::start(mesh::example(), &[dead.at], limits).await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(server.at()).await.unwrap();
    for name in ["a.example.org", "b.example.org", "c.example.org"] {
        socket.send(&query(name, RecordType::A, None)).await.unwrap();
    }
    let under_way = async {
        while dead.asked() < 3 {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, under_way).await.expect("three are under way");
    let answer = server.ask("example.net", RecordType::A).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::Refused);
    assert_eq!(server.metric("mesh_dns_forward_overload_total", &[]), 1);
    assert_eq!(server.ask("web.cluster", RecordType::A).await.answers.len(), 1, "our own names go on");
}

/// An upstream that is the server itself would go round in circles.
#[tokio::test]
async fn coredns_2087_a_loop_is_refused_at_the_start() {
    let free = own_address();
    let (_keep, feed) = watch::channel(Arc::new(mesh::example()));
    let config = DnsConfig {
        listen: vec![free],
        upstreams: Upstreams::List(vec![free.into()]),
        ..DnsConfig::default()
    };
    let error = DnsServer::start(config, feed, &prometheus::Registry::new()).await.unwrap_err().to_string();
    assert!(error.contains(&free.to_string()) && error.contains("circles"), "{error}");
}
