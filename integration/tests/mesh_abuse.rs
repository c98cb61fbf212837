//! Bad input of every kind leaves everything running.
#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test fails the test by panicking, as the test itself does"
)]

use anyhow::ensure;
use mesh_integration::{BOUND, Load, Mesh, agent_binary, ran, until};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use std::{net::SocketAddr, process::Stdio};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket, UnixStream},
};

const SEED: u64 = 0x6d65_7368;

async fn started(nodes: u8) -> Mesh {
    let mesh = Mesh::of(nodes).start(agent_binary!()).await.unwrap();
    mesh.until_ready().await;
    for node in mesh.nodes() {
        until("the published port answers", BOUND, || node.whoami(8080)).await;
    }
    mesh
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_malformed_service_file_is_refused_whole_and_named() {
    let mesh = started(2).await;
    let load = Load::on((mesh.node(1).place.address, 8080).into());
    mesh.edit_services("services:\n  whoami:\n    ports: [\"8080:99999\"]\n    portz: 3\n").unwrap();
    until("status names the error", BOUND, || async {
        let (_, status) = mesh.node(1).admin("/v1/status").await?;
        let text = status.to_string();
        ensure!(text.contains("99999") && text.contains("portz"), "{text}");
        anyhow::Ok(())
    })
    .await;
    load.answers(20).await;
    let seen = load.stop();
    assert!(seen.failed.is_empty(), "{:?}", seen.failed);
    let log = mesh.log(1).unwrap();
    assert_eq!(log.lines().filter(|line| line.contains("99999")).count(), 1, "logged once:\n{log}");
    mesh.edit_services(&mesh.layout.service_yaml()).unwrap();
    until("the error is gone", BOUND, || async {
        let (_, status) = mesh.node(1).admin("/v1/status").await?;
        ensure!(!status.to_string().contains("portz"), "{status}");
        anyhow::Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_on_the_gossip_and_dns_ports_changes_nothing() {
    eprintln!("seed {SEED:#x}");
    let mut rng = StdRng::seed_from_u64(SEED);
    let mut mesh = started(3).await;
    let load = Load::on((mesh.node(2).place.address, 8080).into());
    let memory = mesh.memory(1).unwrap();
    let place = mesh.node(1).place;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for at in [place.gossip(), place.dns()] {
        for _ in 0..3_000 {
            let mut bytes = vec![0u8; rng.random_range(0..1500)];
            rng.fill(&mut bytes[..]);
            socket.send_to(&bytes, at).await.unwrap();
        }
        for _ in 0..100 {
            let mut stream = TcpStream::connect(at).await.unwrap();
            let mut bytes = vec![0u8; rng.random_range(0..4000)];
            rng.fill(&mut bytes[..]);
            // The agent may hang up in the middle, which is its right.
            drop(stream.write_all(&bytes).await);
        }
    }
    let name = mesh.node(1).lookup("whoami.cluster").await.unwrap();
    assert_eq!(name.len(), 1);
    load.answers(20).await;
    let seen = load.stop();
    assert!(seen.failed.is_empty(), "{:?}", seen.failed);
    mesh.until_ready().await;
    assert!((1..=3).all(|i| mesh.runs(i)));
    let grown = mesh.memory(1).unwrap().saturating_sub(memory);
    assert!(grown < 64 << 20, "6,000 datagrams of garbage left {grown} bytes behind");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_of_100_megabytes_is_refused_and_others_are_served() {
    let mut mesh = started(2).await;
    let memory = mesh.memory(1).unwrap();
    let socket = mesh.node(1).place.socket;
    for head in [
        "PUT /v1/services HTTP/1.1\r\nHost: localhost\r\nContent-Length: 104857600\r\n\r\n",
        "PUT /v1/services HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n",
    ] {
        let (mut answer, mut body) = UnixStream::connect(&socket).await.unwrap().into_split();
        body.write_all(head.as_bytes()).await.unwrap();
        let chunked = head.contains("chunked");
        let send = tokio::spawn(async move {
            let mut block = vec![b'x'; 1 << 20];
            if chunked {
                block = [b"100000\r\n".as_slice(), &block, b"\r\n"].concat();
            }
            for _ in 0..100 {
                if body.write_all(&block).await.is_err() {
                    return;
                }
            }
        });
        let mut text = Vec::new();
        // A reset after the answer is fine: the agent will not read 100 MB to be polite.
        drop(answer.read_to_end(&mut text).await);
        send.await.unwrap();
        let text = String::from_utf8_lossy(&text).into_owned();
        assert!(text.is_empty() || text.starts_with("HTTP/1.1 413"), "{text}");
        let (status, _) = mesh.node(1).admin("/v1/status").await.unwrap();
        assert_eq!(status, 200);
    }
    assert!(mesh.runs(1));
    let grown = mesh.memory(1).unwrap().saturating_sub(memory);
    assert!(grown < 32 << 20, "two requests of 100 MB left {grown} bytes behind");
    mesh.node(1).whoami(8080).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_admin_api_beyond_loopback_is_refused_before_anything_starts() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mesh.yaml");
    let token = folder.path().join("token");
    std::fs::write(&token, "0123456789abcdef-token\n").unwrap();
    let key = mesh_control::generate_key().unwrap();
    let base = format!("node: {{name: n1}}\ncluster:\n  keys: [\"{key}\"]\nadmin:\n  listen: 0.0.0.0:9481\n");
    let path_text = path.to_string_lossy().into_owned();
    for (more, code) in [(String::new(), 64), (format!("  token_file: {}\n", token.display()), 0)] {
        std::fs::write(&path, format!("{base}{more}")).unwrap();
        let check =
            ran(agent_binary!(), &["config", "check", &path_text], "").await.unwrap().code(code).unwrap();
        assert!(!check.err.contains(&key) && !check.out.contains(&key), "a key is shown: {check:?}");
        if code == 64 {
            for part in ["mesh.yaml:5", "admin.listen", "0.0.0.0:9481", "token_file"] {
                assert!(check.err.contains(part), "{part:?} is missing in: {}", check.err);
            }
            ran(agent_binary!(), &["run", "--config", &path_text], "").await.unwrap().code(64).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_malformed_config_exits_64_names_the_line_and_starts_nothing() {
    let net = mesh_integration::LoopbackNet::take().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mesh.yaml");
    let gossip: SocketAddr = (net.address(0, 1), 7946).into();
    let text = format!(
        "node: {{name: n1, address: {}}}\ncluster:\n  bind: {gossip}\n  bnid: 3\nvip_cidr: [10.0.0.0/99]\n",
        net.address(0, 1)
    );
    std::fs::write(&path, text).unwrap();
    for arguments in [vec!["config", "check"], vec!["run", "--config"]] {
        let output = tokio::process::Command::new(agent_binary!())
            .args(&arguments)
            .arg(&path)
            .stdin(Stdio::null())
            .output()
            .await
            .unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(64), "{arguments:?}: {error}");
        for part in ["mesh.yaml:4", "bnid", "mesh.yaml:5", "10.0.0.0/99"] {
            assert!(error.contains(part), "{part:?} is missing in: {error}");
        }
        UdpSocket::bind(gossip).await.expect("nothing was started");
    }
}
