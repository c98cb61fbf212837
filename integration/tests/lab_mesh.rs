//! Agents on hosts of their own: the mesh comes up over the underlay, and an outside client reaches containers through
//! any node. What moves the packets is the userspace plane here, which needs nothing but sockets.
#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test fails the test by panicking, as the test itself does"
)]

use mesh_integration::{
    BOUND, HostMesh, agent_binary,
    lab::{self, Lab},
    until, whoami_from,
};
use std::net::{IpAddr, SocketAddr};

/// Containers of the first two nodes, the way to each other's by hand.
fn containers(lab: &mut Lab) -> Vec<(lab::Host, IpAddr)> {
    let mut all = Vec::new();
    for i in [1, 2] {
        let own = format!("10.244.{i}.5/24").parse().unwrap();
        all.push((lab.container(i, &[own]).unwrap(), own.ip()));
    }
    for node in 1..=lab.nodes() {
        for other in [1, 2].into_iter().filter(|other| *other != node) {
            let network = format!("10.244.{other}.0/24").parse().unwrap();
            lab.node(node).route(network, lab.address(other)[0]).unwrap();
        }
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outside_client_reaches_containers_through_every_node_and_is_known_to_them() {
    if !lab::possible() {
        return;
    }
    let mut lab = Lab::of(3).unwrap();
    let containers = containers(&mut lab);
    let mut mesh = HostMesh::start(lab, agent_binary!(), |_| "data_plane: userspace\n".into()).unwrap();
    let mut endpoints = String::new();
    for (i, (host, address)) in (1..).zip(&containers) {
        let (name, node) = (format!("w{i}"), format!("node-{i}"));
        mesh.serve(host, "whoami", &name, &node, "tcp", (*address, 8000).into()).unwrap();
        endpoints += &format!("        - {{name: {name}, address: {address}, node: {node}}}\n");
    }
    let text = format!(
        "services:\n  whoami:\n    ports: [\"8080:8000\"]\n    x-mesh:\n      proxy_protocol: true\n      endpoints:\n{endpoints}"
    );
    mesh.write_service_file("whoami.yaml", &text).unwrap();
    mesh.until_ready().await;
    let own = mesh.lab.client_address(4)[0];
    for node in mesh.nodes() {
        // Also through the node that has no container.
        let at: SocketAddr = (node.place.address, 8080).into();
        for (i, _) in containers.iter().enumerate() {
            let wanted = format!("w{}", i + 1);
            let met = until(&format!("{wanted} answers through {at}"), BOUND, || async {
                let met = mesh.lab.client.within(whoami_from(own, at)).await??;
                anyhow::ensure!(met.instance == wanted, "{met:?}");
                anyhow::Ok(met)
            })
            .await;
            assert_eq!(met.client.ip(), own);
        }
        let found = node.lookup("tasks.whoami.cluster").await.unwrap();
        assert_eq!(found, ["10.244.1.5", "10.244.2.5"]);
    }
    // A node that is cut off leaves, and comes back.
    mesh.lab.plug(3, false).unwrap();
    let up = |count: u8| {
        let node = mesh.node(1);
        async move {
            until(&format!("{count} others are up"), BOUND, || async {
                let (_, metrics) = node.metrics("/metrics").await?;
                let line = format!("mesh_gossip_members{{state=\"up\"}} {count}");
                anyhow::ensure!(metrics.lines().any(|l| l == line), "not `{line}`");
                anyhow::Ok(())
            })
            .await;
        }
    };
    up(1).await;
    mesh.lab.plug(3, true).unwrap();
    up(2).await;
}
