//! Agents on hosts of their own, containers behind them, a client outside: what a mesh does for that client.
//! Every scenario runs on every data plane; the way between the containers of two nodes is laid by hand.
#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test fails the test by panicking, as the test itself does"
)]

use anyhow::ensure;
use mesh_integration::{
    BOUND, HostMesh, Load, agent_binary, echo,
    lab::{Host, Lab},
    until, whoami, whoami_from,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr, UdpSocket},
};

/// What moves the packets.
struct Plane {
    /// In a node's configuration.
    config: &'static str,
    /// In `x-mesh` of a service whose instances are to know their clients.
    keeps_client: &'static str,
}

const USERSPACE: Plane = Plane { config: "data_plane: userspace\n", keeps_client: "proxy_protocol: true" };

/// One test a scenario.
macro_rules! on {
    ($plane:ident, $name:ident: $($scenario:ident,)+) => {
        mod $name { $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $scenario() {
                if mesh_integration::lab::possible() {
                    super::$scenario(&super::$plane).await;
                }
            }
        )+ }
    };
}

on! { USERSPACE, userspace:
    an_outside_client_reaches_containers_through_every_node_and_is_known_to_them,
    a_dead_nodes_instances_get_nothing_more,
    a_rolling_update_of_32_instances_fails_nobody,
    three_hundred_services_answer_on_their_vips,
}

/// Where instances are: a container of a node.
struct Container {
    host: Host,
    node: String,
    address: IpAddr,
}

/// Three nodes and a container on each of the first two.
fn start(plane: &Plane) -> (HostMesh, Vec<Container>) {
    let mut lab = Lab::of(3).unwrap();
    let mut containers = Vec::new();
    for i in [1, 2] {
        let own = format!("10.244.{i}.5/24").parse().unwrap();
        let host = lab.container(i, &[own]).unwrap();
        containers.push(Container { host, node: format!("node-{i}"), address: own.ip() });
        let network = format!("10.244.{i}.0/24").parse().unwrap();
        for other in (1..=3).filter(|other| *other != i) {
            lab.node(other).route(network, lab.address(i)[0]).unwrap();
        }
    }
    (HostMesh::start(lab, agent_binary!(), |_| plane.config.to_owned()).unwrap(), containers)
}

/// A service with an instance in each container, all on `target`, which its name and its node are told of.
fn one_in_each(
    mesh: &mut HostMesh,
    containers: &[Container],
    protocol: &str,
    ports: &str,
    target: u16,
) -> String {
    let name = if protocol == "tcp" { "whoami" } else { "echo" };
    let mut endpoints = String::new();
    for (i, Container { host, node, address }) in (1..).zip(containers) {
        let instance = format!("{name}-{i}");
        mesh.serve(host, name, &instance, node, protocol, (*address, target).into()).unwrap();
        endpoints += &format!("{{name: {instance}, address: {address}, node: {node}}}, ");
    }
    format!("  {name}:\n    ports: [\"{ports}/{protocol}\"]\n    x-mesh:\n      endpoints: [{endpoints}]\n")
}

/// Waits until whoami at `at` was answered by all of `instances` in turn, and by nobody else.
async fn until_met(mesh: &HostMesh, at: SocketAddr, instances: &[&str]) {
    let own = mesh.lab.client_address(0)[0];
    until(&format!("{instances:?} answer through {at}, and only they"), BOUND, || async {
        let mut met = BTreeSet::new();
        for _ in 0..6 {
            met.insert(mesh.lab.client.within(whoami_from(own, at)).await??.instance);
        }
        ensure!(met.iter().eq(instances), "met {met:?}");
        anyhow::Ok(())
    })
    .await;
}

async fn an_outside_client_reaches_containers_through_every_node_and_is_known_to_them(plane: &Plane) {
    let (mut mesh, containers) = start(plane);
    let service = one_in_each(&mut mesh, &containers, "tcp", "8080:8000", 8000);
    let text = format!("services:\n{service}      {}\n", plane.keeps_client);
    mesh.write_service_file("whoami.yaml", &text).unwrap();
    mesh.until_ready().await;
    for node in mesh.nodes() {
        // Also through the node that has no container.
        let at: SocketAddr = (node.place.address, 8080).into();
        until_met(&mesh, at, &["whoami-1", "whoami-2"]).await;
        for i in [0, 9] {
            let own = mesh.lab.client_address(i)[0];
            for _ in 0..4 {
                let met = mesh.lab.client.within(whoami_from(own, at)).await.unwrap().unwrap();
                assert_eq!(met.client.ip(), own, "through {at}");
            }
        }
        let found = node.lookup("tasks.whoami.cluster").await.unwrap();
        assert_eq!(found, ["10.244.1.5", "10.244.2.5"]);
    }
}

async fn a_dead_nodes_instances_get_nothing_more(plane: &Plane) {
    let (mut mesh, containers) = start(plane);
    let text = String::from("services:\n")
        + &one_in_each(&mut mesh, &containers, "tcp", "8080:8000", 8000)
        + &one_in_each(&mut mesh, &containers, "udp", "7070:7000", 7000);
    mesh.write_service_file("both.yaml", &text).unwrap();
    mesh.until_ready().await;
    let places = [1, 3].map(|i| mesh.node(i).place.address);
    for place in places {
        until_met(&mesh, (place, 8080).into(), &["whoami-1", "whoami-2"]).await;
    }
    until("node-3 knows both echoes", BOUND, || async {
        let found = mesh.node(3).lookup("tasks.echo.cluster").await?;
        ensure!(found.len() == 2, "{found:?}");
        anyhow::Ok(())
    })
    .await;
    // UDP flows through node 3, one with each instance.
    let at: SocketAddr = (places[1], 7070).into();
    let mut flows = BTreeMap::new();
    while flows.len() < 2 {
        let socket = mesh.lab.client.inside(|| UdpSocket::bind("0.0.0.0:0")).flatten().unwrap();
        socket.set_nonblocking(true).unwrap();
        let socket = tokio::net::UdpSocket::from_std(socket).unwrap();
        flows.insert(echo(&socket, at, "first").await.unwrap(), socket);
    }

    mesh.lab.plug(2, false).unwrap();
    let own = mesh.lab.client_address(1)[0];
    for place in places {
        until_met(&mesh, (place, 8080).into(), &["whoami-1"]).await;
        let load = Load::from(&mesh.lab.client, own, (place, 8080).into());
        load.answers(40).await;
        assert_eq!(load.stop().failed, Vec::<String>::new(), "through {place}");
    }
    let orphan = &flows["echo-2"];
    until("the flow of the dead instance goes to the other", BOUND, || async {
        let by = echo(orphan, at, "again").await?;
        ensure!(by == "echo-1", "{by}");
        anyhow::Ok(())
    })
    .await;

    mesh.lab.plug(2, true).unwrap();
    for place in places {
        until_met(&mesh, (place, 8080).into(), &["whoami-1", "whoami-2"]).await;
    }
}

async fn a_rolling_update_of_32_instances_fails_nobody(plane: &Plane) {
    let (mut mesh, containers) = start(plane);
    let place = |i: usize| &containers[i % 2];
    let file = |ports: &[(String, usize, u16)]| {
        let endpoint = |(name, i, port): &(String, usize, u16)| {
            let Container { node, address, .. } = place(*i);
            format!("        - {{name: {name}, address: {address}, node: {node}, ports: {{8000: {port}}}}}\n")
        };
        let endpoints: String = ports.iter().map(endpoint).collect();
        format!(
            "services:\n  whoami:\n    ports: [\"8080:8000\"]\n    x-mesh:\n      drain: 2s\n      endpoints:\n{endpoints}"
        )
    };
    let mut instances = Vec::new();
    let mut running = BTreeMap::new();
    for i in 0..32 {
        let port = 9000 + u16::try_from(i).unwrap();
        for (name, port) in [(format!("old-{i}"), port), (format!("new-{i}"), port + 100)] {
            let Container { host, node, address } = place(i);
            let serving = mesh.serve(host, "whoami", &name, node, "tcp", (*address, port).into()).unwrap();
            running.insert(name.clone(), serving);
            if name.starts_with("old") {
                instances.push((name, i, port));
            }
        }
    }
    mesh.write_service_file("whoami.yaml", &file(&instances)).unwrap();
    mesh.until_ready().await;
    let ready = |mesh: &HostMesh| {
        let (nodes, wanted) = (mesh.nodes(), instances.len());
        async move {
            for node in nodes {
                until("all instances are there", BOUND, || async {
                    let (_, list) = node.admin("/v1/endpoints?service=whoami").await?;
                    let list = list["endpoints"].as_array().map_or(0, Vec::len);
                    ensure!(list == wanted, "{list}");
                    anyhow::Ok(())
                })
                .await;
            }
        }
    };
    ready(&mesh).await;
    let own = mesh.lab.client_address(2)[0];
    let loads: Vec<Load> = mesh
        .nodes()
        .iter()
        .map(|node| Load::from(&mesh.lab.client, own, (node.place.address, 8080).into()))
        .collect();
    for (i, (name, _, port)) in instances.clone().into_iter().enumerate() {
        instances[i] = (name.replace("old", "new"), i, port + 100);
        mesh.write_service_file("whoami.yaml", &file(&instances)).unwrap();
        // The old one is stopped when nobody sends it anything any more, as whoever updates would do.
        for node in mesh.nodes() {
            until(&format!("{name} drains or is gone"), BOUND, || async {
                let (_, list) = node.admin("/v1/endpoints?service=whoami").await?;
                let all = list["endpoints"].as_array().cloned().unwrap_or_default();
                let ready = |n: &str| all.iter().any(|e| e["instance"] == n && e["state"] == "ready");
                ensure!(!ready(&name) && ready(&name.replace("old", "new")), "{list}");
                let (_, plan) = node.admin("/v1/plan").await?;
                ensure!(plan["operations"].as_array().is_some_and(Vec::is_empty), "{plan}");
                anyhow::Ok(())
            })
            .await;
        }
        for load in &loads {
            load.answers(2).await;
        }
        running[&name].abort();
    }
    for load in loads {
        load.answers(64).await;
        let seen = load.stop();
        assert_eq!(seen.failed, Vec::<String>::new());
        let new = seen.by_instance.keys().filter(|name| name.starts_with("new")).count();
        assert_eq!(new, 32, "{:?}", seen.by_instance);
    }
}

async fn three_hundred_services_answer_on_their_vips(plane: &Plane) {
    let (mut mesh, containers) = start(plane);
    let Container { host, node, address } = &containers[0];
    mesh.serve(host, "whoami", "one", node, "tcp", (*address, 8000).into()).unwrap();
    let endpoint = format!("endpoints: [{{name: one, address: {address}, node: {node}}}]");
    let services: String =
        (0..300).map(|i| format!("  s{i}: {{expose: [\"8000\"], x-mesh: {{{endpoint}}}}}\n")).collect();
    mesh.write_service_file("many.yaml", &format!("services:\n{services}")).unwrap();
    mesh.until_ready().await;
    let mut vips = BTreeSet::new();
    for i in 0..300 {
        // On a node with instances and, now and then, on one without.
        for n in [1].into_iter().chain((i % 10 == 0).then_some(3)) {
            let node = mesh.node(n);
            let vip: IpAddr = until(&format!("s{i} answers on node-{n}"), BOUND, || async {
                let found = node.lookup(&format!("s{i}.cluster")).await?;
                ensure!(found.len() == 1, "{found:?}");
                let vip = found[0].parse()?;
                let host = mesh.lab.node(u8::try_from(n)?);
                let met = host.within(whoami((vip, 8000).into())).await??;
                ensure!(met.instance == "one", "{met:?}");
                anyhow::Ok(vip)
            })
            .await;
            vips.insert(vip);
        }
    }
    assert_eq!(vips.len(), 300, "one VIP a service, the same on every node");
}
