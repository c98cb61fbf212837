//! Who gets in: socket modes, tokens, client certificates, web pages; starting and stopping.

use crate::{
    fake::Fake,
    world::{Heard, World, ask, read_all},
};
use mesh_agent::{
    admin::{AdminConfig, AdminServer, TcpConfig, TlsConfig},
    config::Secret,
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use std::{fs, os::unix::fs::PermissionsExt, path::Path, sync::Arc};
use tokio::{io::AsyncWriteExt, net::TcpStream};
use tokio_rustls::{
    TlsConnector,
    rustls::{ClientConfig, RootCertStore, crypto::ring::default_provider},
};

#[tokio::test]
async fn the_socket_is_private_and_goes_with_the_agent() {
    let world = World::start().await;
    let path = world.socket();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let config = AdminConfig { unix: Some(path.clone()), ..AdminConfig::default() };
    let second = AdminServer::start(config.clone(), Fake::new(), prometheus::Registry::new()).await;
    assert!(second.unwrap_err().to_string().contains("another agent answers there"));
    assert_eq!(world.get("/livez").await.status, 200, "the first is untouched");
    world.admin.shutdown().await;
    assert!(!path.exists());
    let third = AdminServer::start(config, Fake::new(), prometheus::Registry::new()).await.unwrap();
    assert!(path.exists());
    drop(third);
    drop(world.dir);
}

#[tokio::test]
async fn shutdown_finishes_what_runs_and_takes_nothing_new() {
    let world = World::start().await;
    let (tcp, path) = (world.admin.tcp().unwrap(), world.socket());
    let mut running = world.unix().await;
    let head = "PUT /v1/services HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{";
    running.write_all(head.as_bytes()).await.unwrap();
    // The server has begun with it once another request of the same listener is answered.
    assert_eq!(world.get("/livez").await.status, 200);
    let fake = Arc::clone(&world.fake);
    let stopping = tokio::spawn(world.admin.shutdown());
    let end = tokio::time::Instant::now() + crate::world::LONG;
    while TcpStream::connect(tcp).await.is_ok() {
        assert!(tokio::time::Instant::now() < end, "it still listens");
    }
    running.write_all(b"}").await.unwrap();
    let heard = Heard::parse(&read_all(&mut running).await);
    assert_eq!(heard.status, 200, "{heard:?}");
    stopping.await.unwrap();
    assert_eq!(fake.log().len(), 1);
    assert!(!path.exists());
}

#[tokio::test]
async fn nothing_starts_when_one_listener_cannot() {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let config = AdminConfig {
        unix: Some(path.clone()),
        metrics: Some(taken.local_addr().unwrap()),
        ..AdminConfig::default()
    };
    let error = AdminServer::start(config, Fake::new(), prometheus::Registry::new()).await.unwrap_err();
    assert!(error.to_string().starts_with("metrics.listen: cannot listen on 127.0.0.1:"), "{error}");
    assert!(!path.exists());
    let tcp = TcpConfig { listen: "0.0.0.0:0".parse().unwrap(), token: None, tls: None };
    let config = AdminConfig { tcp: Some(tcp), ..AdminConfig::default() };
    let error = AdminServer::start(config, Fake::new(), prometheus::Registry::new()).await.unwrap_err();
    assert!(error.to_string().contains("beyond loopback"), "{error}");
}

#[tokio::test]
async fn a_token_opens_tcp_and_the_socket_needs_none() {
    let token = Some(Secret::new("0123456789abcdef"));
    let world = World::with(|c| c.tcp.as_mut().unwrap().token = token).await;
    let tcp = async |path: &str, headers: &str| ask(world.tcp().await, "GET", path, headers, "").await;
    let refused = tcp("/v1/status", "").await;
    assert_eq!(refused.status, 401);
    assert!(refused.head.contains("www-authenticate: bearer"), "{refused:?}");
    for bad in ["Authorization: Bearer 0123456789abcdeF\r\n", "Authorization: Basic 0123456789abcdef\r\n"] {
        assert_eq!(tcp("/v1/status", bad).await.status, 401);
        assert_eq!(tcp("/metrics", bad).await.status, 401);
    }
    // Whoever has no token learns nothing of what there is.
    assert_eq!(tcp("/v1/nothing", "").await.status, 401);
    let good = "Authorization: Bearer 0123456789abcdef\r\n";
    assert_eq!(tcp("/v1/status", good).await.status, 200);
    // With a token the API may be reached by name.
    assert_eq!(tcp("/v1/status", &format!("Host: node.example\r\n{good}")).await.status, 200);
    assert_eq!(tcp("/livez", "").await.status, 200, "probes need none");
    assert_eq!(world.get("/v1/status").await.status, 200, "nor does the socket");
}

#[tokio::test]
async fn web_pages_cannot_reach_an_open_api() {
    let world = World::start().await;
    let tcp = async |method: &str, headers: &str| {
        ask(world.tcp().await, method, "/v1/services/web", headers, "").await.status
    };
    assert_eq!(tcp("GET", "Host: rebound.example\r\n").await, 403);
    assert_eq!(tcp("DELETE", "Host: rebound.example\r\n").await, 403);
    assert_eq!(tcp("DELETE", "Host: 127.0.0.1:1\r\nOrigin: http://evil.example\r\n").await, 403);
    assert!(world.fake.log().is_empty());
    assert_eq!(tcp("DELETE", "Host: 127.0.0.1:1\r\nOrigin: http://127.0.0.1:1\r\n").await, 200);
}

#[tokio::test]
async fn client_certificates_open_tls() {
    let dir = tempfile::tempdir().unwrap();
    let ca = Ca::new();
    ca.issue(dir.path(), "server");
    ca.issue(dir.path(), "client");
    Ca::new().issue(dir.path(), "stranger");
    fs::write(dir.path().join("ca.pem"), ca.0.pem()).unwrap();
    let at = |name: &str| dir.path().join(name);
    let world = World::with(|c| {
        c.tcp.as_mut().unwrap().tls =
            Some(TlsConfig { cert: at("server.pem"), key: at("server.key"), client_ca: Some(at("ca.pem")) });
    })
    .await;
    let ask_as = async |who: Option<&str>, line: &str, headers: &str| {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(at("ca.pem")).unwrap()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = match who {
            None => builder.with_no_client_auth(),
            Some(who) => {
                let cert = CertificateDer::from_pem_file(at(&format!("{who}.pem"))).unwrap();
                let key = PrivateKeyDer::from_pem_file(at(&format!("{who}.key"))).unwrap();
                builder.with_client_auth_cert(vec![cert], key).unwrap()
            }
        };
        let name = ServerName::try_from("localhost").unwrap();
        let mut stream = TlsConnector::from(Arc::new(config)).connect(name, world.tcp().await).await.ok()?;
        let request = format!("{line} HTTP/1.1\r\nHost: node.example\r\n{headers}Connection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let text = read_all(&mut stream).await;
        (!text.is_empty()).then(|| Heard::parse(&text).status)
    };
    let connect = async |who| ask_as(who, "GET /v1/status", "").await;
    assert_eq!(connect(Some("client")).await, Some(200));
    // A browser would bring its certificate to any page's request.
    let delete = "DELETE /v1/services/web";
    assert_eq!(ask_as(Some("client"), delete, "Origin: https://evil.example\r\n").await, Some(403));
    assert_eq!(ask_as(Some("client"), delete, "Origin: https://node.example\r\n").await, Some(200));
    assert_eq!(connect(None).await, None);
    assert_eq!(connect(Some("stranger")).await, None);
    let mut plain = world.tcp().await;
    plain.write_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    assert!(!read_all(&mut plain).await.contains("200 OK"), "no TLS, no answer");
    assert_eq!(world.get("/livez").await.status, 200);
}

struct Ca(CertifiedIssuer<'static, KeyPair>);

impl Ca {
    fn new() -> Ca {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Ca(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn issue(&self, dir: &Path, name: &str) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let cert = params.signed_by(&key, &self.0).unwrap();
        fs::write(dir.join(format!("{name}.pem")), cert.pem()).unwrap();
        fs::write(dir.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }
}
