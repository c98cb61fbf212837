//! Published ports and their kinds on real agents: conflicts, foreign programs, host mode, ranges, no VIP.
#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test fails the test by panicking, as the test itself does"
)]

use anyhow::ensure;
use mesh_agent::demo::whoami::Identity;
use mesh_integration::{BOUND, Mesh, Node, agent_binary, http_get, until, whoami};
use std::{collections::BTreeSet, net::SocketAddr};
use tokio::net::TcpListener;

async fn started(nodes: u8) -> Mesh {
    let mesh = Mesh::of(nodes).start(agent_binary!()).await.unwrap();
    mesh.until_ready().await;
    for node in mesh.nodes() {
        until("the demo's services are there", BOUND, || node.whoami(8080)).await;
    }
    mesh
}

fn at(node: &Node, port: u16) -> SocketAddr {
    (node.place.address, port).into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_services_with_one_published_port_the_same_wins_on_every_node() {
    let mesh = started(3).await;
    let endpoints: Vec<_> = mesh.layout.services[0].instances.iter().map(|i| i.address).collect();
    let declare = |name: &str, address| {
        format!(
            "services: {{{name}: {{ports: [\"8088:8000\"], x-mesh: {{proxy_protocol: true, \
             endpoints: [{{name: {name}-1, address: {address}}}]}}}}}}"
        )
    };
    // Told to two nodes at once, each of which thinks the port free.
    let (one, two) = (declare("one", endpoints[0]), declare("two", endpoints[1]));
    let apply = ["service", "apply", "-f", "-"];
    let (a, b) = tokio::join!(mesh.cli_with(1, &apply, &one), mesh.cli_with(2, &apply, &two));
    a.unwrap().code(0).unwrap();
    b.unwrap().code(0).unwrap();
    let loser = |i: usize| {
        let mesh = &mesh;
        async move {
            let status = mesh.cli(i, &["--json", "status"]).await?.json()?;
            let conflicts = status["conflicts"].to_string();
            ensure!(conflicts.contains("8088"), "{status}");
            let list = mesh.cli(i, &["--json", "service", "ls"]).await?.json()?;
            let lost = list["services"]
                .as_array()
                .into_iter()
                .flatten()
                .filter(|s| s["ports"][0]["published"]["conflict"].is_string());
            let lost: Vec<String> = lost.map(|s| s["name"].as_str().unwrap_or("").to_owned()).collect();
            ensure!(lost.len() == 1, "{lost:?}");
            anyhow::Ok(lost[0].clone())
        }
    };
    let mut losers = BTreeSet::new();
    for i in 1..=3 {
        losers.insert(until("status shows the conflict", BOUND, || loser(i)).await);
    }
    assert_eq!(losers.len(), 1, "the same everywhere");
    let loser_is_one = losers.contains("one");
    let winner = if loser_is_one { "whoami-2" } else { "whoami-1" };
    for node in mesh.nodes() {
        until("the winner has the port", BOUND, || async {
            for _ in 0..4 {
                let who = node.whoami(8088).await?;
                ensure!(who.instance == winner, "{who:?}");
            }
            anyhow::Ok(())
        })
        .await;
    }
    // When the winner goes, the other takes its place without being told.
    let (goes, stays) = if loser_is_one { ("two", "whoami-1") } else { ("one", "whoami-2") };
    mesh.cli(3, &["service", "rm", goes]).await.unwrap().code(0).unwrap();
    for (i, node) in mesh.nodes().iter().enumerate() {
        until("the other has the port", BOUND, || async {
            let who = node.whoami(8088).await?;
            ensure!(who.instance == stays, "{who:?}");
            let status = mesh.cli(i + 1, &["--json", "status"]).await?.json()?;
            ensure!(status["conflicts"].as_array().is_some_and(Vec::is_empty), "{status}");
            anyhow::Ok(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_that_another_program_holds_is_shown_and_opened_once_it_is_free() {
    let mesh = started(2).await;
    let foreign = TcpListener::bind(at(&mesh.node(1), 8088)).await.unwrap();
    let address = mesh.layout.services[0].instances[0].address;
    let text = format!(
        "services: {{web: {{ports: [\"8088:8000\"], x-mesh: {{proxy_protocol: true, endpoints: \
         [{{name: web-1, node: node-1, address: {address}}}]}}}}}}"
    );
    mesh.write_service_file("web.yaml", &text).unwrap();
    let (first, second) = (mesh.node(1), mesh.node(2));
    until("the other node opens it", BOUND, || second.whoami(8088)).await;
    until("status and healthz name the port", BOUND, || async {
        let status = mesh.cli(1, &["status"]).await?;
        ensure!(status.code == Some(0) && status.out.contains(":8088"), "{status:?}");
        let (code, health) = first.metrics("/healthz").await?;
        ensure!(code == 200 && health.contains(":8088"), "{code} {health}");
        let (_, metrics) = first.metrics("/metrics").await?;
        let failed = "mesh_frontends_failing 1";
        ensure!(metrics.lines().any(|l| l == failed), "{metrics}");
        anyhow::Ok(())
    })
    .await;
    // The VIP and the other services are not touched by it.
    first.whoami(8080).await.unwrap();
    let vip: std::net::IpAddr = first.lookup("web.cluster").await.unwrap()[0].parse().unwrap();
    whoami((vip, 8000).into()).await.unwrap();

    drop(foreign);
    until("the freed port is opened", BOUND, || first.whoami(8088)).await;
    until("nothing is degraded", BOUND, || async {
        let (_, health) = first.metrics("/healthz").await?;
        ensure!(health.contains("\"degraded\":[]"), "{health}");
        anyhow::Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn host_mode_ranges_and_services_without_a_vip() {
    let mut mesh = started(3).await;
    let hosts: Vec<SocketAddr> = (1..=2).map(|i| (mesh.net.address(i, 90), 7000).into()).collect();
    for (i, at) in hosts.iter().enumerate() {
        for offset in 0..3u16 {
            let who = Identity {
                service: "many".into(),
                instance: format!("many-{}-{offset}", i + 1),
                node: format!("node-{}", i + 1),
            };
            mesh.instances.add(who, "tcp", (at.ip(), 7000 + offset).into()).await.unwrap();
        }
    }
    let endpoints = |name: &str| {
        let list: Vec<String> = hosts
            .iter()
            .enumerate()
            .map(|(i, at)| format!("{{name: {name}-{}, node: node-{}, address: {}}}", i + 1, i + 1, at.ip()))
            .collect();
        list.join(", ")
    };
    let text = format!(
        "services:\n  many: {{ports: [\"6000-6002:7000-7002\"], x-mesh: {{endpoints: [{}]}}}}\n  \
         own: {{ports: [{{target: 7000, published: 6100, mode: host}}], x-mesh: {{endpoints: [{}]}}}}\n  \
         list: {{deploy: {{endpoint_mode: dnsrr}}, expose: [\"7000\"], x-mesh: {{endpoints: [{}]}}}}\n",
        endpoints("many"),
        endpoints("own"),
        endpoints("list"),
    );
    mesh.write_service_file("more.yaml", &text).unwrap();

    for node in mesh.nodes() {
        for offset in 0..3u16 {
            until("each port of the range leads to its own, on both instances", BOUND, || async {
                let mut met = BTreeSet::new();
                for _ in 0..6 {
                    met.insert(node.whoami(6000 + offset).await?.instance);
                }
                let wanted: BTreeSet<String> = (1..=2).map(|i| format!("many-{i}-{offset}")).collect();
                ensure!(met == wanted, "{met:?}");
                anyhow::Ok(())
            })
            .await;
        }
    }
    for (i, node) in mesh.nodes().iter().enumerate() {
        let name = &node.place.name;
        if i < 2 {
            until("host mode leads to the node's own instance", BOUND, || async {
                for _ in 0..4 {
                    let who = node.whoami(6100).await?;
                    ensure!(who.node == *name, "{who:?}");
                }
                anyhow::Ok(())
            })
            .await;
        } else {
            assert!(http_get(at(node, 6100), "/").await.is_err(), "{name} runs no instance");
        }
        until("a service without a VIP is its endpoints", BOUND, || async {
            let found = node.lookup("list.cluster").await?;
            let wanted: Vec<String> = hosts.iter().map(|h| h.ip().to_string()).collect();
            ensure!(found == wanted, "{found:?}");
            anyhow::Ok(())
        })
        .await;
    }
}
