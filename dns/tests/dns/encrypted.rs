//! DoT and DoH upstreams: servers on loopback with certificates of a CA made for the test.

use crate::{
    client::{PATIENCE, Server, data, own_address, query, udp},
    mesh,
    upstreams::{code, found},
};
use bytes::Bytes;
use hickory_proto::{
    op::{Message, ResponseCode},
    rr::RecordType,
};
use mesh_dns::{DnsConfig, DnsServer, Limits, Upstreams};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls_pki_types::PrivateKeyDer;
use std::{
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig, server::TlsStream};

/// A certificate for dns.test, and the file of the CA that signed it.
struct Trust {
    acceptor: TlsAcceptor,
    ca: PathBuf,
    _folder: tempfile::TempDir,
}

impl Trust {
    fn new(alpn: &[u8]) -> Trust {
        let mut authority = CertificateParams::new(Vec::new()).unwrap();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let names = vec!["dns.test".to_owned(), "127.0.0.1".to_owned()];
        let leaf = CertificateParams::new(names).unwrap().signed_by(&key, &authority).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let ca = folder.path().join("ca.pem");
        std::fs::write(&ca, authority.pem()).unwrap();
        let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
            .unwrap();
        config.alpn_protocols = vec![alpn.to_vec()];
        Trust { acceptor: TlsAcceptor::from(Arc::new(config)), ca, _folder: folder }
    }
}

/// A server that answers 192.0.2.1, NXDOMAIN for `gone.…`, and hangs up after `last.…`.
struct Encrypted {
    at: SocketAddr,
    trust: Trust,
    connections: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

fn answer(asked: &Message) -> Vec<u8> {
    match asked.queries[0].name().iter().next() {
        Some(b"gone") => code(asked, ResponseCode::NXDomain),
        _ => found(asked, [192, 0, 2, 1]),
    }
}

fn is_last(asked: &Message) -> bool {
    asked.queries[0].name().iter().next() == Some(b"last")
}

async fn over_tls(mut stream: TlsStream<TcpStream>) -> io::Result<()> {
    loop {
        let mut packet = vec![0u8; usize::from(stream.read_u16().await?)];
        stream.read_exact(&mut packet).await?;
        let asked = Message::from_vec(&packet).map_err(io::Error::other)?;
        let octets = answer(&asked);
        let length = u16::try_from(octets.len()).unwrap().to_be_bytes();
        stream.write_all(&[&length[..], &octets].concat()).await?;
        stream.flush().await?;
        if is_last(&asked) {
            return stream.shutdown().await;
        }
    }
}

async fn over_https(stream: TlsStream<TcpStream>) -> Result<(), h2::Error> {
    let mut connection = h2::server::handshake(stream).await?;
    // The connection must go on being driven while a request's body comes.
    let mut requests = JoinSet::new();
    loop {
        tokio::select! {
            accepted = connection.accept() => match accepted {
                Some(accepted) => {
                    let (request, respond) = accepted?;
                    requests.spawn(one_request(request, respond));
                }
                None => return Ok(()),
            },
            Some(was_last) = requests.join_next() => if was_last.unwrap()? {
                connection.graceful_shutdown();
            }
        }
    }
}

/// Answers, and says whether that was to be the last.
async fn one_request(
    request: http::Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
) -> Result<bool, h2::Error> {
    assert_eq!((request.uri().path(), request.uri().host()), ("/dns-query", Some("dns.test")));
    assert_eq!(request.headers()["content-type"], "application/dns-message");
    let (mut body, mut packet) = (request.into_body(), Vec::new());
    while let Some(chunk) = body.data().await {
        packet.extend_from_slice(&chunk?);
    }
    let asked = Message::from_vec(&packet).unwrap();
    assert_eq!(asked.metadata.id, 0, "RFC 8484 section 4.1");
    let response = http::Response::builder().header("content-type", "application/dns-message");
    let mut stream = respond.send_response(response.body(()).unwrap(), false)?;
    stream.send_data(Bytes::from(answer(&asked)), true)?;
    Ok(is_last(&asked))
}

impl Encrypted {
    async fn start(https: bool) -> Encrypted {
        let trust = Trust::new(if https { b"h2" } else { b"dot" });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let (connections, acceptor) = (Arc::new(AtomicUsize::new(0)), trust.acceptor.clone());
        let count = Arc::clone(&connections);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                let acceptor = acceptor.clone();
                open.spawn(async move {
                    // A client that does not trust this server ends the handshake, one that has gone the connection.
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    if https {
                        drop(over_https(stream).await);
                    } else {
                        drop(over_tls(stream).await);
                    }
                });
            }
        });
        Encrypted { at, trust, connections, _tasks: tasks }
    }

    fn config(&self, upstream: &str) -> DnsConfig {
        DnsConfig {
            upstreams: Upstreams::List(vec![upstream.parse().unwrap()]),
            upstream_ca: Some(self.trust.ca.clone()),
            // Long, so that a busy machine does not count as silence.
            // One client stands for many here.
            limits: Limits {
                forward_try: PATIENCE,
                forward_total: 2 * PATIENCE,
                client_forwards: 0,
                ..Limits::default()
            },
            ..DnsConfig::default()
        }
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

/// Many queries on one connection, another one when the server has ended it, codes unchanged, and the cache.
async fn answers_through(upstream: &Encrypted, written: &str) {
    let server = Server::with(mesh::example(), upstream.config(written)).await;
    for i in 0..20 {
        let answer = server.ask(&format!("host-{i}.example.org"), RecordType::A).await;
        assert_eq!((answer.metadata.id, data(&answer)), (4711, vec!["192.0.2.1".to_owned()]), "{i}");
    }
    assert_eq!(
        server.ask("gone.example.org", RecordType::A).await.metadata.response_code,
        ResponseCode::NXDomain
    );
    let mut at_once = JoinSet::new();
    for i in 0..300 {
        let (at, packet) = (server.at(), query(&format!("at-once-{i}.example.org"), RecordType::A, None));
        at_once.spawn(async move { udp(at, &packet).await.unwrap() });
    }
    for answer in at_once.join_all().await {
        assert_eq!(data(&answer), ["192.0.2.1"]);
    }
    assert_eq!(server.metric("mesh_dns_forward_failures_total", &[]), 0);
    assert_eq!(upstream.connections(), 1);
    assert_eq!(data(&server.ask("last.example.org", RecordType::A).await), ["192.0.2.1"]);
    for i in 0..3 {
        let name = format!("after-{i}.example.org");
        assert_eq!(data(&server.ask(&name, RecordType::A).await), ["192.0.2.1"], "{name}");
    }
    assert_eq!(upstream.connections(), 2);
    assert_eq!(data(&server.ask("host-7.example.org", RecordType::A).await), ["192.0.2.1"]);
    assert_eq!(server.metric("mesh_dns_cache_hits_total", &[]), 1);
    let shown = server.handle.query("explained.example.org.", "A").await.unwrap();
    assert_eq!(shown.upstream.as_deref(), Some(written));
}

#[tokio::test]
async fn dns_over_tls() {
    let upstream = Encrypted::start(false).await;
    answers_through(&upstream, &format!("tls://{}#dns.test", upstream.at)).await;
}

#[tokio::test]
async fn dns_over_https() {
    let upstream = Encrypted::start(true).await;
    answers_through(&upstream, &format!("https://{}/dns-query#dns.test", upstream.at)).await;
}

/// A server that cannot prove who it is gets no question.
#[tokio::test]
async fn who_is_not_trusted_is_not_asked() {
    let (upstream, stranger) = (Encrypted::start(false).await, Encrypted::start(false).await);
    for (written, ca) in [
        (format!("tls://{}#other.test", upstream.at), &upstream.trust.ca),
        (format!("tls://{}#dns.test", upstream.at), &stranger.trust.ca),
        (format!("https://{}/dns-query#dns.test", upstream.at), &stranger.trust.ca),
    ] {
        let config = DnsConfig { upstream_ca: Some(ca.clone()), ..upstream.config(&written) };
        let server = Server::with(mesh::example(), config).await;
        let answer = server.ask("example.org", RecordType::A).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::ServFail, "{written}");
        assert!(server.metric("mesh_dns_forward_failures_total", &[("reason", "secure")]) >= 1, "{written}");
    }
}

#[tokio::test]
async fn a_file_of_authorities_that_is_none_is_named_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().join("empty.pem");
    std::fs::write(&empty, "").unwrap();
    for (file, expected) in [(folder.path().join("missing"), "No such file"), (empty, "no certificate")] {
        let (_keep, feed) = watch::channel(Arc::new(mesh::example()));
        let config = DnsConfig {
            listen: vec![own_address()],
            upstreams: Upstreams::List(vec!["tls://127.0.0.1:1#dns.test".parse().unwrap()]),
            upstream_ca: Some(file.clone()),
            ..DnsConfig::default()
        };
        let error =
            DnsServer::start(config, feed, &prometheus::Registry::new()).await.unwrap_err().to_string();
        assert!(error.starts_with("upstream_ca: ") && error.contains(expected), "{error}");
        assert!(error.contains(&file.display().to_string()), "{error}");
    }
}
