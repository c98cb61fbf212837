//! The server on real sockets.

use crate::{
    client::{PATIENCE, Server, data, own_address, query, tcp, udp},
    mesh,
};
use hickory_proto::{op::ResponseCode, rr::RecordType};
use mesh_dns::{DnsConfig, DnsServer, Limits, Upstreams};
use std::{
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{io::AsyncReadExt, net::TcpStream, sync::watch, time::timeout};

#[tokio::test]
async fn udp_and_tcp_answer_alike_and_a_connection_takes_many_queries() {
    let server = Server::start(mesh::example(), &[], Limits::default()).await;
    let mut stream = TcpStream::connect(server.at()).await.unwrap();
    for name in ["web.cluster", "tasks.web.cluster", "nothing.cluster", "WEB.cluster", "web.default.cluster"]
    {
        let packet = query(name, RecordType::A, None);
        let (over_udp, over_tcp) =
            (udp(server.at(), &packet).await.unwrap(), tcp(&mut stream, &packet).await.unwrap());
        assert_eq!(over_udp.metadata.id, 4711);
        assert!(over_udp.metadata.authoritative && over_tcp.metadata.authoritative);
        assert_eq!(over_udp.metadata.response_code, over_tcp.metadata.response_code);
        assert_eq!(data(&over_udp), data(&over_tcp));
        assert_eq!(over_udp.queries, over_tcp.queries, "the question comes back in its own case");
    }
    assert_eq!(server.metric("mesh_dns_requests_total", &[("protocol", "tcp"), ("type", "A")]), 5);
}

/// docker/for-mac#2160: an answer that does not fit a datagram comes whole over TCP.
#[tokio::test]
async fn a_large_answer_is_truncated_over_udp_and_whole_over_tcp() {
    let mut text = String::from("service big ports=80/tcp>80 vip=10.96.7.7\n");
    for i in 0..200 {
        text += &format!("endpoint big i-{i} n1 10.1.0.{i} ready\n");
    }
    let server = Server::start(mesh::read(&text), &[], Limits::default()).await;
    for (payload, limit) in [(None, 512), (Some(1232), 1232), (Some(65_000), 1232)] {
        let packet = query("tasks.big.cluster", RecordType::A, payload);
        let octets = crate::client::udp_octets(server.at(), &packet).await.unwrap();
        assert!(octets.len() <= limit, "{} octets with {payload:?}", octets.len());
        let answer = hickory_proto::op::Message::from_vec(&octets).unwrap();
        assert!(answer.metadata.truncation, "{payload:?}");
    }
    let mut stream = TcpStream::connect(server.at()).await.unwrap();
    let whole = tcp(&mut stream, &query("tasks.big.cluster", RecordType::A, None)).await.unwrap();
    assert!(!whole.metadata.truncation);
    assert_eq!(whole.answers.len(), 200);
}

/// A withdrawn endpoint is never answered again once the snapshot without it is there, whatever the load.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_withdrawn_endpoint_is_never_answered_again() {
    let with = "service web ports=80/tcp>80 vip=10.96.0.1\nendpoint web a n1 10.0.0.1 ready\nendpoint web b n2 10.0.0.2 ready";
    let without = "service web ports=80/tcp>80 vip=10.96.0.1\nendpoint web a n1 10.0.0.1 ready";
    let mut snapshot = mesh::read(with);
    let server = Arc::new(Server::start(snapshot.clone(), &[], Limits::default()).await);
    let stop = Arc::new(AtomicBool::new(false));
    let load = tokio::spawn({
        let (server, stop) = (Arc::clone(&server), Arc::clone(&stop));
        async move {
            while !stop.load(Ordering::Relaxed) {
                server.ask("tasks.web.cluster", RecordType::A).await;
            }
        }
    });
    for round in 0..50 {
        for (text, expected) in [(without, 1), (with, 2)] {
            mesh::change(&mut snapshot, text);
            server.snapshots.send_replace(Arc::new(snapshot.clone()));
            // Not even this one question, asked without a wait, is answered from before.
            let answer = server.ask("tasks.web.cluster", RecordType::A).await;
            assert_eq!(answer.answers.len(), expected, "round {round}: {:?}", data(&answer));
        }
    }
    stop.store(true, Ordering::Relaxed);
    load.await.unwrap();
}

#[tokio::test]
async fn connections_are_capped_and_idle_ones_end() {
    let limits = Limits { tcp_connections: 2, tcp_idle: Duration::from_millis(300), ..Limits::default() };
    let server = Server::start(mesh::example(), &[], limits).await;
    let packet = query("web.cluster", RecordType::A, None);
    let mut open = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(server.at()).await.unwrap();
        tcp(&mut stream, &packet).await.unwrap();
        open.push(stream);
    }
    let mut third = TcpStream::connect(server.at()).await.unwrap();
    assert!(tcp(&mut third, &packet).await.is_err(), "one too many is closed");
    assert_eq!(server.ask("web.cluster", RecordType::A).await.answers.len(), 1, "UDP goes on");
    for stream in &mut open {
        let mut rest = [0u8; 1];
        let ended = timeout(PATIENCE, stream.read(&mut rest)).await.expect("an idle connection ends");
        assert!(matches!(ended, Ok(0) | Err(_)));
    }
    let again = async {
        loop {
            let mut stream = TcpStream::connect(server.at()).await.unwrap();
            if tcp(&mut stream, &packet).await.is_ok() {
                return;
            }
        }
    };
    timeout(PATIENCE, again).await.expect("their places are free again");
}

#[tokio::test]
async fn one_client_gets_no_more_than_its_connections() {
    let limits = Limits { client_connections: 1, ..Limits::default() };
    let server = Server::start(mesh::example(), &[], limits).await;
    let packet = query("web.cluster", RecordType::A, None);
    let mut first = TcpStream::connect(server.at()).await.unwrap();
    tcp(&mut first, &packet).await.unwrap();
    let mut second = TcpStream::connect(server.at()).await.unwrap();
    assert!(tcp(&mut second, &packet).await.is_err(), "one too many is closed");
    assert_eq!(server.metric("mesh_dns_client_limited_total", &[("limit", "connections")]), 1);
    let other = tokio::net::TcpSocket::new_v4().unwrap();
    other.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let mut other = other.connect(server.at()).await.unwrap();
    assert_eq!(tcp(&mut other, &packet).await.unwrap().answers.len(), 1, "another client has its own");
    assert_eq!(tcp(&mut first, &packet).await.unwrap().answers.len(), 1, "the first goes on");
}

#[tokio::test]
async fn that_the_control_plane_went_away_is_shown_and_the_last_known_is_answered() {
    let Server { handle, snapshots, registry } = Server::start(mesh::example(), &[], Limits::default()).await;
    let since = || {
        let families = registry.gather();
        let family = families.iter().find(|f| f.name() == "mesh_dns_view_orphaned_since_seconds");
        family.map(|f| f.get_metric()[0].get_gauge().get_value()).unwrap()
    };
    assert!(since() < 1.0, "it is there");
    drop(snapshots);
    let shown = async {
        while since() < 1.0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, shown).await.expect("it is shown");
    let reply = udp(handle.addresses()[0], &query("web.cluster", RecordType::A, None)).await.unwrap();
    assert_eq!(reply.answers.len(), 1);
    assert!(handle.is_serving());
}

/// As a server whose copy of a zone has expired: no old address, nor that there is none.
#[tokio::test]
async fn what_was_known_last_is_servfail_in_the_end() {
    let limits = Limits { last_known: Some(Duration::from_millis(1)), ..Limits::default() };
    let config = DnsConfig {
        upstreams: Upstreams::None,
        local_reverse: vec!["10.96.0.0/16".parse().unwrap()],
        limits,
        ..DnsConfig::default()
    };
    let server = Server::with(mesh::example(), config).await;
    assert_eq!(server.ask("web.cluster", RecordType::A).await.answers.len(), 1);
    let Server { handle, snapshots, registry } = server;
    drop(snapshots);
    let expired = || {
        let families = registry.gather();
        let family = families.iter().find(|f| f.name() == "mesh_dns_view_expired");
        family.is_some_and(|f| f.get_metric()[0].get_gauge().get_value() > 0.0)
    };
    let over = async {
        // What is shown is true a moment later.
        while !expired() || lookup(&handle).await == "NOERROR" {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, over).await.expect("its time is over");
    let mut stream = TcpStream::connect(handle.addresses()[0]).await.unwrap();
    for (name, kind, code) in [
        ("web.cluster", RecordType::A, ResponseCode::ServFail),
        ("web.cluster", RecordType::MX, ResponseCode::ServFail),
        ("nothing.cluster", RecordType::A, ResponseCode::ServFail),
        ("cluster", RecordType::SOA, ResponseCode::ServFail),
        ("1.0.96.10.in-addr.arpa", RecordType::PTR, ResponseCode::ServFail),
        ("9.9.96.10.in-addr.arpa", RecordType::PTR, ResponseCode::ServFail),
        ("cluster", RecordType::AXFR, ResponseCode::Refused),
        ("example.org", RecordType::A, ResponseCode::Refused),
    ] {
        let packet = query(name, kind, None);
        let over_udp = udp(handle.addresses()[0], &packet).await.unwrap();
        for reply in [over_udp, tcp(&mut stream, &packet).await.unwrap()] {
            assert_eq!((reply.metadata.response_code, reply.answers.len()), (code, 0), "{name} {kind}");
            assert!(!reply.metadata.authoritative && reply.authorities.is_empty(), "{name} {kind}");
        }
    }
}

/// The code that `dns query` shows.
async fn lookup(handle: &mesh_dns::DnsHandle) -> String {
    handle.query("web", "A").await.unwrap().rcode
}

#[tokio::test]
async fn a_taken_port_and_a_wildcard_are_named_with_the_fix() {
    let server = Server::start(mesh::example(), &[], Limits::default()).await;
    let start = |listen: std::net::SocketAddr| async move {
        let (_keep, feed) = watch::channel(Arc::new(mesh::example()));
        let config = DnsConfig { listen: vec![listen], upstreams: Upstreams::None, ..DnsConfig::default() };
        DnsServer::start(config, feed, &prometheus::Registry::new()).await.unwrap_err().to_string()
    };
    let taken = start(server.at()).await;
    let holder = format!("(pid {}) holds it: stop that", std::process::id());
    assert!(taken.contains(&server.at().to_string()) && taken.contains(&holder), "{taken}");
    let wildcard = start("0.0.0.0:5353".parse().unwrap()).await;
    assert!(wildcard.contains("wildcard") && wildcard.contains("0.0.0.0:5353"), "{wildcard}");
}

#[tokio::test]
async fn after_shutdown_the_port_is_free_and_nobody_answers() {
    let at = own_address();
    let (_keep, feed) = watch::channel(Arc::new(mesh::example()));
    let config = DnsConfig { listen: vec![at], upstreams: Upstreams::None, ..DnsConfig::default() };
    let handle = DnsServer::start(config, feed, &prometheus::Registry::new()).await.unwrap();
    let mut open = TcpStream::connect(at).await.unwrap();
    let packet = query("web.cluster", RecordType::A, None);
    assert_eq!(tcp(&mut open, &packet).await.unwrap().answers.len(), 1);
    handle.shutdown().await;
    assert!(tcp(&mut open, &packet).await.is_err(), "a connection that was open has ended");
    drop(tokio::net::UdpSocket::bind(at).await.unwrap());
    drop(tokio::net::TcpListener::bind(at).await.unwrap());
}

#[tokio::test]
async fn what_it_does_not_do_is_said() {
    let server = Server::start(mesh::example(), &[], Limits::default()).await;
    let mut update = query("web.cluster", RecordType::A, None);
    update[2] = update[2] & !0x78 | 5 << 3;
    let code = |m: hickory_proto::op::Message| m.metadata.response_code;
    assert_eq!(code(udp(server.at(), &update).await.unwrap()), ResponseCode::NotImp);
    let mut version = query("web.cluster", RecordType::A, Some(1232));
    let at = version.len() - 5;
    version[at] = 1;
    let answer = udp(server.at(), &version).await.unwrap();
    let high = answer.edns.as_ref().map_or(0, hickory_proto::op::Edns::rcode_high);
    assert_eq!((high, answer.metadata.response_code.low()), (1, 0), "BADVERS is 16 (RFC 6891)");
    assert_eq!(code(server.ask("example.org", RecordType::A).await), ResponseCode::Refused, "no upstream");
    let axfr = server.ask("cluster", RecordType::AXFR).await;
    assert_eq!(code(axfr), ResponseCode::Refused);
}

/// A real client. Skips loudly where there is no dig; with CI=true that is a failure.
#[tokio::test]
async fn dig_reads_the_answers() {
    let server = Server::start(mesh::example(), &[], Limits::default()).await;
    let port = server.at().port().to_string();
    for (extra, expected) in [
        (vec!["web.cluster", "A"], "10.96.0.1"),
        (vec!["+tcp", "web.cluster", "AAAA"], "fd96::1"),
        (vec!["+notcp", "_http._tcp.web.cluster", "SRV"], "0 0 80 web.cluster."),
        (vec!["-x", "10.96.0.1"], "web.cluster."),
    ] {
        let output = tokio::process::Command::new("dig")
            .args(["+short", "+tries=1", "+time=5", "@127.0.0.1", "-p", &port])
            .args(extra)
            .stdin(Stdio::null())
            .output()
            .await;
        match output {
            Ok(output) => assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), expected),
            Err(error) => {
                assert!(std::env::var("CI").is_err(), "dig is missing (Debian: bind9-dnsutils): {error}");
                eprintln!("SKIPPED: dig is missing (Debian: bind9-dnsutils): {error}");
                return;
            }
        }
    }
}

/// Names and types of the metrics pass Prometheus' own linter.
#[tokio::test]
async fn promtool_accepts_the_metrics() {
    let server = Server::start(mesh::example(), &[], Limits::default()).await;
    server.ask("web.cluster", RecordType::A).await;
    server.ask("x.cluster", RecordType::Unknown(4242)).await;
    let text = prometheus::TextEncoder::new().encode_to_string(&server.registry.gather()).unwrap();
    assert!(text.contains("mesh_dns_request_duration_seconds_bucket"), "{text}");
    assert!(text.contains("\nmesh_dns_panics_total 0\n"), "{text}");
    let check = std::process::Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut check = match check {
        Ok(check) => check,
        Err(error) => {
            assert!(std::env::var("CI").is_err(), "promtool is missing (Debian: prometheus): {error}");
            eprintln!("SKIPPED: promtool is missing (Debian: prometheus): {error}");
            return;
        }
    };
    std::io::Write::write_all(&mut check.stdin.take().unwrap(), text.as_bytes()).unwrap();
    let output = check.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// One query in so many, from the mesh, the cache and an upstream, over both transports.
#[test]
fn the_query_log_tells_of_every_so_manyth_query() {
    use tracing::subscriber::with_default;
    let lines = Arc::new(std::sync::Mutex::new(Vec::new()));
    let subscriber = tracing_subscriber::fmt()
        .with_writer({
            let lines = Arc::clone(&lines);
            move || Lines(Arc::clone(&lines))
        })
        .with_ansi(false)
        .finish();
    // One thread, so that all of the server's tasks log here.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    with_default(subscriber, || {
        runtime.block_on(async {
            // Each worker and each connection counts for itself.
            let limits = Limits { udp_workers: 1, ..Limits::default() };
            let (upstreams, query_log) = (Upstreams::None, 2);
            let config = DnsConfig { upstreams, query_log, limits, ..DnsConfig::default() };
            let server = Server::with(mesh::example(), config).await;
            for name in ["web.cluster", "WEB.cluster", "nothing.cluster", "example.org"] {
                server.ask(name, RecordType::A).await;
            }
            let mut stream = TcpStream::connect(server.at()).await.unwrap();
            for name in ["web.cluster", "tasks.web.cluster"] {
                tcp(&mut stream, &query(name, RecordType::TXT, None)).await.unwrap();
            }
        });
    });
    let text = String::from_utf8(lines.lock().unwrap().clone()).unwrap();
    let logged: Vec<&str> = text.lines().filter(|line| line.contains("mesh_dns::query")).collect();
    assert_eq!(logged.len(), 3, "{text}");
    for (line, parts) in logged.iter().zip([
        ["name=WEB.cluster.", "kind=1 rcode=0 source=\"mesh\"", "protocol=\"udp\""],
        ["name=example.org.", "kind=1 rcode=5", "protocol=\"udp\""],
        ["name=tasks.web.cluster.", "kind=16 rcode=0 source=\"mesh\"", "protocol=\"tcp\""],
    ]) {
        assert!(parts.iter().all(|part| line.contains(part)), "{line}: {parts:?}");
    }
}

/// Where the log goes in a test.
struct Lines(Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
