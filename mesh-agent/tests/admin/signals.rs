//! SIGTERM and SIGINT: the first ends an agent cleanly at any time, the second at once.

use crate::world::LONG;
use mesh_agent::{
    app::App,
    config::{Config, HostFacts},
};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    future::ready,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    process::Command,
    time::{sleep, timeout},
};

/// A port that nobody listens on at this moment.
fn free() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A node of its own on loopback.
fn config(dir: &Path) -> String {
    let key = mesh_control::generate_key().unwrap();
    let (dir, gossip, metrics) = (dir.display(), free(), free());
    format!(
        "node: {{name: n, address: 127.0.0.1}}\n\
         cluster: {{bind: '127.0.0.1:{gossip}', keys: ['{key}']}}\n\
         dns: {{enabled: false}}\n\
         metrics: {{listen: '127.0.0.1:{metrics}'}}\n\
         admin: {{socket: {dir}/admin.sock}}\n\
         publish: {{addresses: [127.0.0.1]}}\n\
         sources: {{files: {{path: {dir}/services}}}}\n\
         log: {{format: logfmt, level: info}}\n"
    )
}

#[tokio::test]
async fn an_agent_that_is_asked_to_stop_while_it_starts_does() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config::parse("t", &config(dir.path()), dir.path(), &HostFacts::default()).unwrap();
    assert!(App::start(&config, ready(())).await.unwrap().is_none());
    // Asked a little later, with the control plane up and the rest on its way.
    let mut looks = 0;
    let soon = std::future::poll_fn(|context| {
        looks += 1;
        context.waker().wake_by_ref();
        if looks > 3 { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    });
    assert!(timeout(LONG, App::start(&config, soon)).await.expect("it never ended").unwrap().is_none());
}

#[tokio::test]
async fn a_second_signal_ends_an_agent_that_waits_for_its_flows() {
    let dir = tempfile::tempdir().unwrap();
    let instance = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = instance.local_addr().unwrap().port();
    let published = free();
    std::fs::create_dir(dir.path().join("services")).unwrap();
    let service = format!(
        "services: {{web: {{ports: ['{published}:{target}'], x-mesh: {{endpoints: [{{address: 127.0.0.1}}]}}}}}}\n"
    );
    std::fs::write(dir.path().join("services/web.yaml"), service).unwrap();
    let path = dir.path().join("mesh.yaml");
    std::fs::write(&path, config(dir.path())).unwrap();
    let mut agent = Command::new(env!("CARGO_BIN_EXE_mesh-agent"))
        .arg("run")
        .arg("--config")
        .arg(&path)
        .env_clear()
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut log = BufReader::new(agent.stderr.take().unwrap()).lines();
    let end = Instant::now() + LONG;
    // Open once a byte has come through.
    let _flow = loop {
        assert!(Instant::now() < end, "the service was never reachable");
        if let Ok(mut client) = TcpStream::connect(("127.0.0.1", published)).await
            && client.write_all(b"x").await.is_ok()
            && let Ok(Ok((mut backend, _))) = timeout(Duration::from_secs(1), instance.accept()).await
            && backend.read_exact(&mut [0]).await.is_ok()
        {
            break (client, backend);
        }
        sleep(Duration::from_millis(20)).await;
    };
    let pid = Pid::from_raw(agent.id().unwrap().try_into().unwrap()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    let mut seen = Vec::new();
    while !seen.last().is_some_and(|line: &String| line.contains("stopping")) {
        let line = timeout(LONG, log.next_line()).await.expect("it never said that it stops").unwrap();
        seen.push(line.unwrap_or_else(|| panic!("it ended without a word: {seen:#?}")));
    }
    kill_process(pid, Signal::TERM).unwrap();
    let ended = timeout(LONG, agent.wait()).await.expect("it never ended").unwrap();
    assert_eq!(ended.code(), Some(128 + Signal::TERM.as_raw()), "{seen:#?}");
}
