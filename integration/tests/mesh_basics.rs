//! The vertical slice on three agents: names, VIP, published ports on every node, balancing, UDP, the client's address.

use mesh_integration::{BOUND, Mesh, Node, agent_binary, echo, until, whoami};
use std::{collections::BTreeSet, net::SocketAddr};

async fn vip_of(node: &Node, name: &str) -> std::net::IpAddr {
    until(&format!("{} resolves {name}", node.place.name), BOUND, || async {
        let found = node.lookup(name).await?;
        anyhow::ensure!(found.len() == 1, "{found:?}");
        Ok::<_, anyhow::Error>(found[0].parse()?)
    })
    .await
}

/// Waits until `node` answers `count` endpoints for `name`.
async fn until_endpoints(node: &Node, name: &str, count: usize) {
    until(&format!("{} knows {count} of {name}", node.place.name), BOUND, || async {
        let found = node.lookup(name).await?;
        anyhow::ensure!(found.len() == count, "{found:?}");
        Ok::<_, anyhow::Error>(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_answers_names_balances_the_vip_and_opens_the_published_ports() {
    let mesh = Mesh::of(3).start(agent_binary!()).await.unwrap();
    mesh.until_ready().await;
    let all: BTreeSet<String> = mesh.layout.services[0].instances.iter().map(|i| i.name.clone()).collect();
    let vip = vip_of(&mesh.node(1), "whoami.cluster").await;
    for node in mesh.nodes() {
        assert_eq!(vip_of(&node, "whoami.cluster").await, vip, "one VIP in the whole mesh");
        until_endpoints(&node, "tasks.whoami.cluster", all.len()).await;
        let published: SocketAddr = (node.place.address, 8080).into();
        for at in [SocketAddr::new(vip, 8000), published] {
            until(&format!("{} reaches every instance through {at}", node.place.name), BOUND, || async {
                let mut met = BTreeSet::new();
                for _ in 0..20 {
                    met.insert(whoami(at).await?.instance);
                }
                anyhow::ensure!(met == all, "met {met:?}");
                Ok::<_, anyhow::Error>(())
            })
            .await;
        }
    }
    // A connection from this process: the PROXY header carries its own address through node 3, which runs no whoami.
    let seen = mesh.node(3).whoami(8080).await.unwrap();
    assert_ne!(seen.node, "node-3");
    assert!(seen.client.ip().is_loopback() && seen.client.port() != 8000, "{seen:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_follow_the_rules_of_dns() {
    let mesh = Mesh::of(2).start(agent_binary!()).await.unwrap();
    mesh.until_ready().await;
    let node = mesh.node(1);
    let vip = vip_of(&node, "whoami.cluster").await;
    until_endpoints(&node, "tasks.whoami.cluster", mesh.layout.services[0].instances.len()).await;

    let aaaa = node.dig("whoami.cluster", "AAAA", &[]).await.unwrap();
    assert_eq!(
        (aaaa.status.as_str(), aaaa.answers.len()),
        ("NOERROR", 0),
        "no IPv6 VIP is NODATA, not NXDOMAIN"
    );
    assert_eq!(aaaa.authority, ["SOA"]);
    let unknown = node.dig("nobody.cluster", "A", &[]).await.unwrap();
    assert_eq!((unknown.status.as_str(), unknown.authority), ("NXDOMAIN", vec!["SOA".to_owned()]));
    let over_tcp = node.dig("tasks.whoami.cluster", "A", &["+tcp"]).await.unwrap();
    assert_eq!(over_tcp.answers.len(), mesh.layout.services[0].instances.len());
    let srv = node.dig("_8000._tcp.whoami.cluster", "SRV", &[]).await.unwrap();
    assert!(srv.answers.iter().all(|a| a.contains(" 8000 ")) && !srv.answers.is_empty(), "{srv:?}");
    let reverse: Vec<String> = vip.to_string().split('.').rev().map(str::to_owned).collect();
    let ptr = node.dig(&format!("{}.in-addr.arpa", reverse.join(".")), "PTR", &[]).await.unwrap();
    assert_eq!(ptr.answers, ["whoami.cluster."]);
    let default_namespace = node.lookup("whoami.default.cluster").await.unwrap();
    assert_eq!(default_namespace, [vip.to_string()]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn udp_reaches_every_instance_and_a_flow_stays_with_one() {
    let mesh = Mesh::of(3).start(agent_binary!()).await.unwrap();
    mesh.until_ready().await;
    let all: BTreeSet<String> = mesh.layout.services[1].instances.iter().map(|i| i.name.clone()).collect();
    for node in mesh.nodes() {
        let at: SocketAddr = (node.place.address, 7070).into();
        until(&format!("{} reaches every echo through {at}", node.place.name), BOUND, || async {
            let mut met = BTreeSet::new();
            for _ in 0..12 {
                let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await?;
                let first = echo(&socket, at, "one").await?;
                let second = echo(&socket, at, "two").await?;
                anyhow::ensure!(first == second, "a flow moved from {first} to {second}");
                met.insert(first);
            }
            anyhow::ensure!(met == all, "met {met:?}");
            Ok::<_, anyhow::Error>(())
        })
        .await;
    }
}
