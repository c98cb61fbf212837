//! What Prometheus reads.

use crate::world::{World, ask};
use std::{
    io::Write,
    process::{Command, Stdio},
};

async fn scrape(world: &World) -> String {
    let heard = ask(world.metrics().await, "GET", "/metrics", "", "").await;
    assert_eq!(heard.status, 200, "{heard:?}");
    assert!(heard.head.contains("content-type: text/plain; version=0.0.4"), "{heard:?}");
    heard.body
}

#[tokio::test]
async fn counters_are_read_at_the_scrape() {
    let world = World::start().await;
    let text = scrape(&world).await;
    let web = r#"service="web",namespace="default",backend="web-1",node="n1",protocol="tcp""#;
    for line in [
        format!(r#"mesh_backend_connections{{{web},backend_state="active"}} 3"#),
        format!(r#"mesh_backend_connections{{{web},backend_state="removed"}} 2"#),
        // Rows that differ in state only are one series: a second would spoil the scrape.
        format!(r#"mesh_backend_connections_total{{{web},result="established"}} 20"#),
        format!(r#"mesh_backend_connections_total{{{web},result="failed"}} 2"#),
        format!(r#"mesh_backend_bytes_total{{{web},direction="out"}} 4096"#),
        r#"mesh_frontend_refused_total{service="web",namespace="default",reason="denied"} 2"#.into(),
        r#"mesh_gossip_members{state="down"} 1"#.into(),
        r#"mesh_plane_dropped_packets_total{reason="no_route"} 5"#.into(),
        r#"mesh_gossip_refused_total{reason="replayed"} 4"#.into(),
        r#"mesh_gossip_syncs_total{result="ok"} 3"#.into(),
        r#"mesh_endpoints{state="ready"} 1"#.into(),
        "mesh_services 2".into(),
        "mesh_overlay_repairs_total 3".into(),
        r#"mesh_overlay_problems{where="kernel"} 1"#.into(),
        format!(r#"mesh_build_info{{version="{}",node="n1"}} 1"#, env!("CARGO_PKG_VERSION")),
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
    }
    for name in ["process_resident_memory_bytes ", "process_open_fds ", "process_cpu_seconds_total "] {
        assert!(text.lines().any(|l| l.starts_with(name)), "{name}");
    }
    let _ = world.get("/v1/nothing").await;
    let line = r#"mesh_admin_requests_total{code="404",listener="unix"} 1"#;
    assert!(scrape(&world).await.lines().any(|l| l == line));
}

#[tokio::test]
async fn the_metrics_listener_serves_metrics_and_probes_only() {
    let world = World::start().await;
    for (path, status) in [("/metrics", 200), ("/livez", 200), ("/readyz", 200), ("/healthz", 200)] {
        assert_eq!(ask(world.metrics().await, "GET", path, "", "").await.status, status, "{path}");
    }
    for path in ["/v1/status", "/v1/services", "/openapi.json"] {
        assert_eq!(ask(world.metrics().await, "GET", path, "", "").await.status, 404, "{path}");
    }
    let delete = ask(world.metrics().await, "DELETE", "/v1/services/web", "", "").await;
    assert_eq!(delete.status, 404);
    assert!(world.fake.log().is_empty());
    // Its clients come by any name: a scraper's target is often a host name.
    assert_eq!(ask(world.metrics().await, "GET", "/metrics", "Host: node.example\r\n", "").await.status, 200);
}

#[tokio::test]
async fn names_pass_promtool() {
    let world = World::start().await;
    let text = scrape(&world).await;
    let spawned = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut promtool) = spawned else {
        eprintln!("SKIPPED: promtool is not installed, so metric names were not linted");
        return;
    };
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}\n{text}", String::from_utf8_lossy(&said));
}

#[tokio::test]
async fn what_is_registered_is_served_too_and_goes_first() {
    let registry = prometheus::Registry::new();
    let gauge = prometheus::IntGauge::new("mesh_services", "Registered elsewhere.").unwrap();
    gauge.set(42);
    registry.register(Box::new(gauge)).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let config = mesh_agent::admin::AdminConfig {
        unix: Some(dir.path().join("s")),
        ..mesh_agent::admin::AdminConfig::default()
    };
    let fake = crate::fake::Fake::new();
    let admin = mesh_agent::admin::AdminServer::start(config, fake, registry).await.unwrap();
    let stream = tokio::net::UnixStream::connect(admin.unix().unwrap()).await.unwrap();
    let text = ask(stream, "GET", "/metrics", "", "").await.body;
    let lines: Vec<_> = text.lines().filter(|l| l.starts_with("mesh_services")).collect();
    assert_eq!(lines, ["mesh_services 42"]);
}
