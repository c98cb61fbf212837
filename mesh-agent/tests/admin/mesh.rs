//! How well the node is in touch with the mesh: `nodes`, `status`, probes and metrics.

use crate::{
    cli_commands::line,
    fake::peer,
    world::{World, ask},
};
use mesh_control::ControlStats;

async fn metric_lines(world: &World, family: &str) -> Vec<String> {
    let text = ask(world.metrics().await, "GET", "/metrics", "", "").await.body;
    text.lines().filter(|l| l.starts_with(family)).map(str::to_owned).collect()
}

#[tokio::test]
async fn nodes_show_what_is_measured_of_them() {
    let world = World::start().await;
    let nodes = world.good("nodes").await;
    let tail = |node| {
        let words = line(&nodes, node);
        words[8..].join(" ")
    };
    assert_eq!(tail("n1"), "- - - asked");
    assert_eq!(tail("n2"), "1.2ms +12ms 0s ago -");
    assert_eq!(tail("n3"), "- -1.5s - -");
    world.fake.turn(|k| k.peers[0].trouble = Some("its clock is 3600 s\x1b[2J ahead".into()));
    let nodes = world.good("nodes").await;
    assert!(line(&nodes, "n2").join(" ").ends_with("its clock is 3600 s\u{fffd}[2J ahead"), "{nodes}");
    let json = world.get("/v1/nodes").await.json();
    let n2 = &json["nodes"][1];
    assert_eq!(
        (n2["rtt_seconds"].as_f64(), n2["clock_offset_seconds"].as_f64()),
        (Some(0.001_234), Some(0.012))
    );
    assert_eq!(n2["heard_seconds"], 0.8);
    assert!(json["nodes"][0]["rtt_seconds"].is_null() && json["nodes"][2]["trouble"].is_null(), "{json}");
}

#[tokio::test]
async fn status_tells_of_convergence_and_of_clocks() {
    let world = World::start().await;
    let text = world.good("status").await;
    let want =
        "lag 0.120 s median, 1.500 s worst of 34 records in the last minute; in sync with a peer 3s ago";
    assert_eq!(line(&text, "convergence")[1..].join(" "), want, "{text}");
    assert!(!text.contains("clock:") && !text.contains("waits"), "{text}");
    let json = world.get("/v1/status").await.json();
    assert_eq!(json["control"]["lag"]["worst_seconds"], 1.5);
    assert_eq!(json["control"]["in_sync_seconds"], 3.0);

    world.fake.turn(|k| {
        k.control = ControlStats { members_up: 1, refused: vec![("clock", 7)], ..ControlStats::default() };
        k.peers = vec![peer("n2", None, Some(-9_000), None)];
    });
    let text = world.good("status").await;
    assert!(text.contains("no news in the last minute; not in sync with a peer yet"), "{text}");
    assert!(text.contains("clock: this node's clock is 9.0 s ahead of the only other node's"), "{text}");
    assert!(text.contains("clock: 7 records from more than 60 s ahead"), "{text}");
    world.fake.turn(|k| k.control = ControlStats::default());
    assert!(world.good("status").await.contains("convergence no other node is known\n"));
}

#[tokio::test]
async fn a_silenced_node_is_not_ready_and_says_why() {
    let world = World::start().await;
    assert_eq!(metric_lines(&world, "mesh_control_silenced ").await, ["mesh_control_silenced 0"]);
    world.fake.turn(|k| k.control.silenced = Some("n1 at 10.0.0.9:7946 had this name first".into()));
    let ready = world.get("/readyz").await;
    assert_eq!(ready.status, 503);
    let why = "this node keeps silent: n1 at 10.0.0.9:7946 had this name first";
    assert_eq!(ready.json()["missing"][0], why);
    let ran = world.cli("status").await;
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.out.contains(why), "{ran:?}");
    assert_eq!(
        world.get("/v1/status").await.json()["control"]["silenced"],
        "n1 at 10.0.0.9:7946 had this name first"
    );
    assert_eq!(metric_lines(&world, "mesh_control_silenced ").await, ["mesh_control_silenced 1"]);
}

#[tokio::test]
async fn metrics_of_convergence_and_peers() {
    let world = World::start().await;
    for (family, want) in [
        ("mesh_control_lag_seconds", &["{statistic=\"median\"} 0.12", "{statistic=\"worst\"} 1.5"][..]),
        ("mesh_control_in_sync_seconds", &[" 3"]),
        ("mesh_peer_rtt_seconds", &["{node=\"n2\"} 0.001234"]),
        ("mesh_peer_clock_offset_seconds", &["{node=\"n2\"} 0.012", "{node=\"n3\"} -1.5"]),
        ("mesh_peers_in_trouble", &[" 0"]),
    ] {
        let want: Vec<String> = want.iter().map(|w| format!("{family}{w}")).collect();
        assert_eq!(metric_lines(&world, family).await, want);
    }
    world.fake.turn(|k| k.control = ControlStats::default());
    assert!(metric_lines(&world, "mesh_control_lag").await.is_empty(), "no news, no figure");
}

#[tokio::test]
async fn of_a_large_mesh_only_nodes_in_trouble_have_series() {
    let world = World::start().await;
    let peers = |n: usize| {
        (0..n).map(|i| peer(&format!("node-{i:04}"), Some(100), Some(0), Some(1))).collect::<Vec<_>>()
    };
    world.fake.turn(|k| k.peers = peers(256));
    assert_eq!(metric_lines(&world, "mesh_peer_rtt_seconds{").await.len(), 256);
    world.fake.turn(|k| {
        k.peers = peers(1_000);
        k.peers[500].trouble = Some("its clock is off".into());
    });
    assert_eq!(
        metric_lines(&world, "mesh_peer_rtt_seconds{").await,
        ["mesh_peer_rtt_seconds{node=\"node-0500\"} 0.0001"]
    );
    assert_eq!(metric_lines(&world, "mesh_peers_in_trouble ").await, ["mesh_peers_in_trouble 1"]);
    world.fake.turn(|k| k.peers.iter_mut().for_each(|p| p.trouble = Some("twice".into())));
    assert_eq!(metric_lines(&world, "mesh_peer_rtt_seconds{").await.len(), 256, "bounded in any case");
}
