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
type Behaviour = fn(&Message) -> Vec<Vec<u8>>;

/// A fake upstream: UDP by a behaviour, TCP answering 192.0.2.99 unless told otherwise.
pub(crate) struct Upstream {
    pub(crate) at: SocketAddr,
    asked: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Upstream {
    async fn start(behaviour: Behaviour) -> Upstream {
        Upstream::answering(behaviour, |asked| found(asked, [192, 0, 2, 99])).await
    }

    pub(crate) async fn answering(behaviour: Behaviour, over_tcp: fn(&Message) -> Vec<u8>) -> Upstream {
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
                count.fetch_add(1, Ordering::Relaxed);
                // Garbage of clients is forwarded as it is.
                let Ok(asked) = Message::from_vec(&buffer[..length]) else { continue };
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
                let answer = over_tcp(&Message::from_vec(&packet).unwrap());
                let size = u16::try_from(answer.len()).unwrap().to_be_bytes();
                // Who asked may have given up.
                let _ = stream.write_all(&[&size[..], &answer].concat()).await;
            }
        });
        Upstream { at, asked, _tasks: tasks }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
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

fn code(asked: &Message, code: ResponseCode) -> Vec<u8> {
    let mut answer = reply(asked);
    answer.metadata.response_code = code;
    answer.to_vec().unwrap()
}

fn good(asked: &Message) -> Vec<Vec<u8>> {
    vec![found(asked, [192, 0, 2, 1])]
}

fn silent(_: &Message) -> Vec<Vec<u8>> {
    Vec::new()
}

/// aardvark-dns#482, hickory#3837: a dead first upstream costs one try, then it is skipped.
#[tokio::test]
async fn a_dead_first_upstream_costs_one_try_and_is_skipped_then() {
    let (dead, alive) = (Upstream::start(silent).await, Upstream::start(good).await);
    let limits = Limits {
        forward_try: Duration::from_millis(200),
        upstream_holdoff: Duration::from_secs(600),
        ..Limits::default()
    };
    let server = Server::start(mesh::example(), &[dead.at, alive.at], limits).await;
    for _ in 0..20 {
        let answer = server.ask("example.org", RecordType::A).await;
        assert_eq!(data(&answer), ["192.0.2.1"]);
    }
    assert_eq!((dead.asked(), alive.asked()), (1, 20));
}

/// moby#45553: what the upstream says is what the client hears.
#[tokio::test]
async fn response_codes_pass_unchanged() {
    for (behaviour, expected) in [
        ((|m| vec![code(m, ResponseCode::Refused)]) as Behaviour, ResponseCode::Refused),
        (|m| vec![code(m, ResponseCode::NXDomain)], ResponseCode::NXDomain),
        (|m| vec![code(m, ResponseCode::ServFail)], ResponseCode::ServFail),
        (|m| vec![code(m, ResponseCode::NotImp)], ResponseCode::NotImp),
    ] {
        let upstream = Upstream::start(behaviour).await;
        let server = Server::start(mesh::example(), &[upstream.at], Limits::default()).await;
        let answer = server.ask("example.org", RecordType::A).await;
        assert_eq!(answer.metadata.response_code, expected);
        assert_eq!(answer.metadata.id, 4711);
    }
}

#[tokio::test]
async fn a_truncated_answer_is_fetched_over_tcp() {
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
    assert_eq!(server.ask("web.cluster", RecordType::A).await.answers.len(), 1, "our own names go on");
}

#[tokio::test]
async fn too_many_at_once_are_refused_and_counted() {
    let dead = Upstream::start(silent).await;
    let limits = Limits { forwards: 3, forward_total: Duration::from_secs(30), ..Limits::default() };
    let server = Server::start(mesh::example(), &[dead.at], limits).await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(server.at()).await.unwrap();
    for _ in 0..3 {
        socket.send(&query("example.org", RecordType::A, None)).await.unwrap();
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

/// coredns#2087: an upstream that is the server itself would go round in circles.
#[tokio::test]
async fn a_loop_is_refused_at_the_start() {
    let free = own_address();
    let (_keep, feed) = watch::channel(Arc::new(mesh::example()));
    let config =
        DnsConfig { listen: vec![free], upstreams: Upstreams::List(vec![free]), ..DnsConfig::default() };
    let error = DnsServer::start(config, feed, &prometheus::Registry::new()).await.unwrap_err().to_string();
    assert!(error.contains(&free.to_string()) && error.contains("circles"), "{error}");
}

#[tokio::test]
async fn resolv_conf_names_the_upstreams() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("resolv.conf");
    // A nameserver line has no port: this one is asked on 53, where nobody answers, which must not stop the start.
    std::fs::write(&file, "# a note\nnameserver 127.86.75.64\n").unwrap();
    for (path, refused) in [(file, false), (folder.path().join("missing"), true)] {
        let (_keep, feed) = watch::channel(Arc::new(mesh::example()));
        let config = DnsConfig {
            listen: vec!["127.0.0.1:0".parse().unwrap()],
            upstreams: Upstreams::ResolvConf(path),
            limits: Limits { forward_total: Duration::from_millis(200), ..Limits::default() },
            ..DnsConfig::default()
        };
        let handle = DnsServer::start(config, feed, &prometheus::Registry::new()).await.unwrap();
        let answer = udp(handle.addresses()[0], &query("example.org", RecordType::A, None)).await.unwrap();
        let code = answer.metadata.response_code;
        assert_eq!(code == ResponseCode::Refused, refused, "{code:?}");
    }
}
