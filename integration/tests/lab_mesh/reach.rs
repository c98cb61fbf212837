//! Who reaches what, by which way, and what is seen of it in between.

use crate::direct::knows_direct;
use crate::setup::{Plane, mirror, mirrored, one_in_each, start, until_met};
use anyhow::ensure;
use mesh_integration::{
    BOUND,
    lab::{Capture, Host},
    until, whoami_from,
};
use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

pub(crate) async fn an_outside_client_reaches_containers_through_every_node_and_is_known_to_them(
    plane: &Plane,
) {
    let (mut mesh, containers) = start(plane).await;
    let service = one_in_each(&mut mesh, &containers, "tcp", "8080:8000", 8000);
    let text = format!("services:\n{service}      {}\n", plane.keeps_client);
    mesh.write_service_file("whoami.yaml", &text).unwrap();
    let known = plane.knows_clients();
    for (i, node) in (1..).zip(mesh.nodes()) {
        // Also through the node that has no container; IPv6 where the containers have it.
        for (family, address) in
            mesh.lab.address(i).into_iter().take(containers[0].addresses.len()).enumerate()
        {
            let at: SocketAddr = (address, 8080).into();
            until_met(&mesh, at, &["whoami-1", "whoami-2"]).await;
            for client in [0, 9] {
                let own = mesh.lab.client_address(client)[family];
                for _ in 0..4 {
                    let met = mesh.lab.client.within(whoami_from(own, at)).await.unwrap().unwrap();
                    assert!(
                        !known || met.client.ip() == own,
                        "through {at}: {own} is seen as {}",
                        met.client
                    );
                }
            }
        }
        let found: BTreeSet<IpAddr> =
            node.lookup("tasks.whoami.cluster").await.unwrap().iter().map(|a| a.parse().unwrap()).collect();
        assert_eq!(found, containers.iter().map(|c| c.addresses[0]).collect());
    }
}

/// Programs of the nodes and of the containers dial every node and the VIP, and each instance answers each of them: also
/// the container itself, and that of the node that dials another node.
pub(crate) async fn everybody_reaches_everything(plane: &Plane) {
    let (mut mesh, containers) = start(plane).await;
    let service = one_in_each(&mut mesh, &containers, "tcp", "8080:8000", 8000);
    mesh.write_service_file("whoami.yaml", &format!("services:\n{service}")).unwrap();
    let mut ways: Vec<SocketAddr> = Vec::new();
    for i in 1..=3 {
        let at: SocketAddr = (mesh.lab.address(i)[0], 8080).into();
        until_met(&mesh, at, &["whoami-1", "whoami-2"]).await;
        ways.push(at);
    }
    for kind in ["A", "AAAA"].iter().take(containers[0].addresses.len()) {
        let found = mesh.node(1).dig("whoami.cluster", kind, &[]).await.unwrap();
        let [vip] = &found.answers[..] else { panic!("{kind}: {found:?}") };
        ways.push(SocketAddr::new(vip.parse().unwrap(), 8000));
    }
    let nodes = (1..=3).map(|i| mesh.lab.node(i).clone());
    let from: Vec<Host> = nodes.chain(containers.iter().map(|c| c.host.clone())).collect();
    for host in &from {
        for at in &ways {
            let mut met = BTreeSet::new();
            for _ in 0..8 {
                let own = if at.is_ipv4() { IpAddr::from([0, 0, 0, 0]) } else { [0_u16; 8].into() };
                let answer = host.within(whoami_from(own, *at)).await.unwrap();
                met.insert(answer.unwrap_or_else(|e| panic!("{} at {at}: {e:#}", host.name)).instance);
            }
            let wanted = ["whoami-1", "whoami-2"].map(str::to_owned).into();
            assert_eq!(met, wanted, "{} at {at}", host.name);
        }
    }
}

/// What passes between the nodes is the mesh's own or sealed, whichever way clients come.
pub(crate) async fn between_nodes_nothing_is_in_plain(plane: &Plane) {
    let (mut mesh, containers) = start(plane).await;
    let service = one_in_each(&mut mesh, &containers, "tcp", "8080:8000", 8000);
    mesh.write_service_file("whoami.yaml", &format!("services:\n{service}")).unwrap();
    for node in (1..=3).filter(|_| plane.direct) {
        knows_direct(&mesh, node, &["node-1", "node-2", "node-3"]).await;
    }
    let plain =
        Capture::start(mesh.lab.hub(), "udp port 4789 or net 10.244.0.0/16 or net fd44::/48").unwrap();
    let sealed = Capture::start(mesh.lab.hub(), "udp portrange 7948-7949").unwrap();
    for i in 1..=3 {
        for address in mesh.lab.address(i) {
            until_met(&mesh, (address, 8080).into(), &["whoami-1", "whoami-2"]).await;
        }
    }
    let (client, at) = (containers[0].host.clone(), containers[1].addresses[0]);
    let met = client.within(whoami_from([0, 0, 0, 0].into(), (at, 8000).into())).await.unwrap().unwrap();
    assert_eq!(met.instance, "whoami-2");
    until("packets were seen", BOUND, || async {
        ensure!(sealed.lines().len() > 20, "{:?}", sealed.lines());
        anyhow::Ok(())
    })
    .await;
    assert_eq!(plain.lines(), Vec::<String>::new());
}

/// Segments as long as the path takes, whoever splits them and sums them up on the way.
pub(crate) async fn megabytes_arrive_whole_through_every_node(plane: &Plane) {
    let (mesh, containers) = start(plane).await;
    mirror(&containers[1], 8100);
    let endpoint = containers[1].endpoint("mirror");
    let text =
        format!("services: {{mirror: {{ports: [\"8100:8100\"], x-mesh: {{endpoints: [{endpoint}}}]}}}}}}\n");
    mesh.write_service_file("mirror.yaml", &text).unwrap();
    let bytes: Arc<[u8]> =
        (0..1_500_000_u32).flat_map(|n| n.wrapping_mul(0x9e37_79b9).to_be_bytes()).collect();
    let count = containers[0].addresses.len();
    let mut ways: Vec<(Host, SocketAddr)> = (1..=3)
        .flat_map(|i| mesh.lab.address(i).into_iter().take(count))
        .map(|address| (mesh.lab.client.clone(), (address, 8100).into()))
        .collect();
    // From container to container too, without the data plane.
    ways.extend(containers[1].addresses.iter().map(|a| (containers[0].host.clone(), (*a, 8100).into())));
    for (host, at) in ways {
        let came = until(&format!("the mirror answers at {at}"), BOUND, || {
            let (host, bytes) = (host.clone(), Arc::clone(&bytes));
            async move { tokio::task::spawn_blocking(move || mirrored(&host, at, &bytes)).await.unwrap() }
        })
        .await;
        assert!(came == *bytes, "{} bytes came back from {at}, of {}", came.len(), bytes.len());
    }
}
