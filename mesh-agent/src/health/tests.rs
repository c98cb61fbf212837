use super::{CheckState, HealthHandle};
use crate::source::{
    ExecCheck, Health, LocalService, SourceId, StateWriter,
    testing::{Control, endpoint, key, service, until, writer},
};
use mesh_control::model::{
    CheckKind, HealthCheck, Origin, PortRange, Protocol, ServicePort, ServiceSpec, Snapshot,
};
use prometheus::Registry;
use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::watch,
};

struct Rig {
    writer: StateWriter,
    control: Control,
    health: HealthHandle,
    registry: Registry,
    snapshots: watch::Sender<Arc<Snapshot>>,
}

fn rig() -> Rig {
    let (writer, control, snapshots) = writer(&["file"]);
    let registry = Registry::new();
    let health = HealthHandle::spawn(writer.clone(), snapshots.subscribe(), &registry).unwrap();
    Rig { writer, control, health, registry, snapshots }
}

impl Rig {
    async fn declare(&self, services: Vec<LocalService>) {
        self.writer.replace(&SourceId("file".into()), services).await.unwrap();
    }

    fn ready(&self) -> Vec<String> {
        self.control.lock().unwrap().shown().1
    }

    fn count(&self, result: &str) -> f64 {
        let families = self.registry.gather();
        let metrics = families.iter().flat_map(prometheus::proto::MetricFamily::get_metric);
        let of = metrics.filter(|m| m.get_label()[0].value() == result);
        of.map(|m| m.get_counter().get_value()).sum()
    }

    async fn until_ready(&self, want: &[&str]) {
        until(&format!("ready {want:?}"), || self.ready() == want).await;
    }
}

fn check(kind: CheckKind) -> HealthCheck {
    HealthCheck {
        kind,
        interval: Duration::from_millis(100),
        timeout: Duration::from_secs(2),
        rise: 1,
        fall: 1,
        start_period: Duration::ZERO,
    }
}

fn spec(health: Option<HealthCheck>, port: u16) -> ServiceSpec {
    let port = ServicePort {
        name: None,
        protocol: Protocol::Tcp,
        port: PortRange::single(port).unwrap(),
        target: port,
        publish: None,
        proxy_protocol: false,
    };
    ServiceSpec { ports: vec![port], health, ..ServiceSpec::default() }
}

fn exec(command: &str, timeout: Duration) -> LocalService {
    let check = ExecCheck {
        command: vec!["/bin/sh".into(), "-c".into(), command.into()],
        interval: Duration::from_millis(100),
        timeout,
        rise: 1,
        fall: 1,
        start_period: Duration::ZERO,
    };
    LocalService { exec_check: Some(check), ..service("web", spec(None, 80), &["a"]) }
}

#[tokio::test]
async fn tcp_checks_follow_the_listener() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let rig = rig();
    let tcp = spec(Some(check(CheckKind::Tcp { port: None })), at.port());
    rig.declare(vec![service("web", tcp, &["a"])]).await;
    rig.until_ready(&["a"]).await;
    drop(listener);
    rig.until_ready(&[]).await;
    let result = &rig.health.results()[0];
    assert_eq!((result.service.to_string().as_str(), result.state), ("web", CheckState::Unhealthy));
    assert!(result.last_error.as_ref().unwrap().starts_with(&format!("connect to {at}: ")), "{result:?}");
    let _listener = TcpListener::bind(at).unwrap();
    rig.until_ready(&["a"]).await;
    assert!(rig.count("success") >= 2.0 && rig.count("failure") >= 1.0);
    // The endpoint goes, and its check with it.
    rig.declare(vec![]).await;
    until("no check", || rig.health.results().is_empty()).await;
}

/// Answers every connection with what `answer` holds; keeps the requests' heads.
async fn http_server() -> (SocketAddr, Arc<Mutex<String>>, Arc<Mutex<Vec<String>>>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let (answer, heads) = (Arc::new(Mutex::new(String::new())), Arc::new(Mutex::new(Vec::new())));
    let (out, seen) = (answer.clone(), heads.clone());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = [0; 1024];
            let n = stream.read(&mut head).await.unwrap_or(0);
            seen.lock().unwrap().push(String::from_utf8_lossy(&head[..n]).into_owned());
            let text = out.lock().unwrap().clone();
            // A check that has read enough hangs up.
            let _gone = stream.write_all(text.as_bytes()).await;
        }
    });
    (at, answer, heads)
}

#[tokio::test]
async fn http_checks_want_a_good_status_and_bound_the_answer() {
    let (at, answer, heads) = http_server().await;
    let set = |text: &str| *answer.lock().unwrap() = text.to_owned();
    set("HTTP/1.1 204 No Content\r\n\r\n");
    let rig = rig();
    let http =
        CheckKind::Http { port: Some(at.port()), path: "/up?x=1".into(), host: Some("a.example".into()) };
    rig.declare(vec![service("web", spec(Some(check(http)), 80), &["a"])]).await;
    rig.until_ready(&["a"]).await;
    let head = heads.lock().unwrap()[0].clone();
    assert!(head.starts_with("GET /up?x=1 HTTP/1.1\r\n") && head.contains("host: a.example\r\n"), "{head}");
    for (bad, why) in [
        ("HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n".to_owned(), "status 503, not 200 to 399"),
        ("garbage\r\n\r\n".into(), "GET http://"),
        (format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "y".repeat(1 << 20)), "GET http://"),
    ] {
        set(&bad);
        rig.until_ready(&[]).await;
        let error = rig.health.results()[0].last_error.clone().unwrap();
        assert!(error.contains(why), "{error}");
        // A body without an end is not read to its end.
        set(&format!("HTTP/1.1 200 OK\r\n\r\n{}", "z".repeat(1 << 20)));
        rig.until_ready(&["a"]).await;
    }
}

#[tokio::test]
async fn commands_see_their_endpoint_and_their_output_is_shown() {
    let dir = tempfile::tempdir().unwrap();
    let flag = dir.path().join("up");
    fs::write(&flag, "").unwrap();
    let rig = rig();
    let line = format!("echo $MESH_SERVICE $MESH_INSTANCE $MESH_ADDRESS; test -e {}", flag.display());
    rig.declare(vec![exec(&line, Duration::from_secs(5))]).await;
    rig.until_ready(&["a"]).await;
    assert_eq!(rig.health.results()[0].output.as_deref(), Some("web a 127.0.0.1"));
    fs::remove_file(&flag).unwrap();
    rig.until_ready(&[]).await;
    assert_eq!(rig.health.results()[0].last_error.as_deref(), Some("exit status: 1: web a 127.0.0.1"));
    let flood = exec("head -c 1000000 /dev/zero | tr '\\0' x", Duration::from_secs(5));
    rig.declare(vec![flood]).await;
    rig.until_ready(&["a"]).await;
    assert_eq!(rig.health.results()[0].output.as_ref().unwrap().len(), 4096);
}

fn is_alive(pid_file: &Path) -> bool {
    // A command that is killed may leave the file empty.
    let pid = fs::read_to_string(pid_file).ok().and_then(|text| text.trim().parse::<u32>().ok());
    let Some(pid) = pid else { return false };
    // A killed process whose parent is gone may wait for init as a zombie.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

#[tokio::test]
async fn a_command_that_hangs_is_killed_with_its_children() {
    let dir = tempfile::tempdir().unwrap();
    let pid = dir.path().join("pid");
    let rig = rig();
    let line = format!("sleep 1000 & echo $! > {}; wait", pid.display());
    rig.declare(vec![exec(&line, Duration::from_millis(300))]).await;
    until("a timeout", || rig.count("timeout") >= 1.0).await;
    assert!(rig.health.results()[0].last_error.as_ref().unwrap().contains("no answer within 300ms"));
    // The endpoint goes while a command runs: that one ends as well.
    rig.declare(vec![exec(&line, Duration::from_secs(300))]).await;
    until("a child", || is_alive(&pid)).await;
    rig.declare(vec![]).await;
    until("no child", || !is_alive(&pid)).await;
    assert_eq!(rig.ready(), Vec::<String>::new());
}

#[tokio::test]
async fn the_spec_in_force_decides_and_without_a_check_an_endpoint_is_ready() {
    let rig = rig();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let tcp = check(CheckKind::Tcp { port: Some(closed) });
    // The source adds endpoints only; the declaration is another's.
    let mut added = LocalService { declaration: None, ..service("web", ServiceSpec::default(), &["a"]) };
    let publish = |health: Option<HealthCheck>| {
        let mut snapshot = (**rig.snapshots.borrow()).clone();
        let view = mesh_control::model::ServiceView {
            key: key("web"),
            spec: Arc::new(spec(health, 80)),
            origins: vec![Origin::Cluster],
            conflict: None,
            vips: Default::default(),
            published: vec![],
            endpoints: Arc::new([]),
            hidden_endpoints: 0,
        };
        snapshot.set_service(key("web"), Some(Arc::new(view)));
        rig.snapshots.send_replace(Arc::new(snapshot));
    };
    publish(Some(tcp));
    rig.declare(vec![added.clone()]).await;
    until("a failure", || rig.count("failure") >= 1.0).await;
    assert_eq!(rig.ready(), Vec::<String>::new());
    publish(None);
    rig.until_ready(&["a"]).await;
    until("no check", || rig.health.results().is_empty()).await;
    // A check that appears on a running endpoint does not take it out before it has failed.
    added.endpoints = added.endpoints.iter().cloned().chain([endpoint("b")]).collect();
    rig.declare(vec![added]).await;
    rig.until_ready(&["a", "b"]).await;
    let local = rig.writer.local().borrow().clone();
    assert!(local[&key("web")].endpoints.iter().all(|(_, h)| *h == Health::Unchecked));
}

#[tokio::test]
async fn an_endpoint_that_returns_unseen_gets_its_verdict_again() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let rig = rig();
    let web = || service("web", spec(Some(check(CheckKind::Tcp { port: None })), port), &["a"]);
    for _ in 0..5 {
        rig.declare(vec![web()]).await;
        rig.until_ready(&["a"]).await;
        // Drain is 0, so it is gone at once; and back before anybody looked.
        tokio::join!(rig.declare(vec![]), rig.declare(vec![web()]));
    }
    rig.until_ready(&["a"]).await;
}
