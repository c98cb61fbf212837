//! Agents on hosts of their own, containers behind them, a client outside: what a mesh does for that client.
//! Scenarios run on every data plane.
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
    io::{Read, Write},
    net::{IpAddr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::Arc,
};
use tokio::task::AbortHandle;

/// What moves the packets.
struct Plane {
    /// In a node's configuration; V4 and V6 stand for its addresses.
    config: &'static str,
    /// In `x-mesh` of a service whose instances are to know their clients.
    keeps_client: &'static str,
    /// Whether containers are attached to the overlay; else the way between those of two nodes is laid by hand.
    overlay: bool,
}

const USERSPACE: Plane =
    Plane { config: "data_plane: userspace\n", keeps_client: "proxy_protocol: true", overlay: false };
const USERSPACE_OVERLAY: Plane = Plane {
    config: "data_plane: userspace\noverlay: {cidr: [10.244.0.0/16, \"fd44::/48\"]}\n\
             publish: {addresses: [V4, \"V6\"]}\n",
    overlay: true,
    ..USERSPACE
};
const NFTABLES: Plane = Plane {
    config: "data_plane: nftables\nvip_cidr: [10.96.0.0/16, \"fd96::/112\"]\n\
             overlay: {cidr: [10.244.0.0/16, \"fd44::/48\"]}\n",
    keeps_client: "",
    overlay: true,
};

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
    megabytes_arrive_whole_through_every_node,
    a_rolling_update_of_32_instances_fails_nobody,
    three_hundred_services_answer_on_their_vips,
}

on! { USERSPACE_OVERLAY, userspace_overlay:
    an_outside_client_reaches_containers_through_every_node_and_is_known_to_them,
    a_dead_nodes_instances_get_nothing_more,
    megabytes_arrive_whole_through_every_node,
    a_rolling_update_of_32_instances_fails_nobody,
}

on! { NFTABLES, nftables:
    an_outside_client_reaches_containers_through_every_node_and_is_known_to_them,
    a_dead_nodes_instances_get_nothing_more,
    a_killed_agent_moves_no_packet,
    a_rolling_update_of_32_instances_fails_nobody,
    megabytes_arrive_whole_through_every_node,
    three_hundred_services_answer_on_their_vips,
}

/// Where instances are: a container of a node.
struct Container {
    host: Host,
    node: String,
    addresses: Vec<IpAddr>,
}

impl Container {
    /// As an endpoint of a service file, without the closing brace.
    fn endpoint(&self, instance: &str) -> String {
        let addresses: Vec<String> = self.addresses.iter().map(|a| format!("\"{a}\"")).collect();
        format!("{{name: {instance}, node: {}, address: [{}]", self.node, addresses.join(", "))
    }

    /// Starts an instance on all its addresses.
    fn serve(
        &self,
        mesh: &mut HostMesh,
        service: &str,
        instance: &str,
        protocol: &str,
        port: u16,
    ) -> Vec<AbortHandle> {
        let serve = |a: &IpAddr| {
            mesh.serve(&self.host, service, instance, &self.node, protocol, (*a, port).into()).unwrap()
        };
        self.addresses.iter().map(serve).collect()
    }
}

/// Three nodes and a container on each of the first two.
async fn start(plane: &Plane) -> (HostMesh, Vec<Container>) {
    let mut lab = Lab::of(3).unwrap();
    let mut hosts = Vec::new();
    for i in [1, 2] {
        if plane.overlay {
            hosts.push((lab.hosts.add(&format!("container-{i}")).unwrap(), Vec::new()));
            continue;
        }
        let own = format!("10.244.{i}.5/24").parse().unwrap();
        hosts.push((lab.container(i, &[own]).unwrap(), vec![own.ip()]));
        let network = format!("10.244.{i}.0/24").parse().unwrap();
        for other in (1..=3).filter(|other| *other != i) {
            lab.node(other).route(network, lab.address(i)[0]).unwrap();
        }
    }
    let configure =
        |[v4, v6]: [IpAddr; 2]| plane.config.replace("V4", &v4.to_string()).replace("V6", &v6.to_string());
    let mesh = HostMesh::start(lab, agent_binary!(), configure).unwrap();
    mesh.until_ready().await;
    let mut containers = Vec::new();
    for (i, (host, mut addresses)) in (1..).zip(hosts) {
        if plane.overlay {
            let attached = || mesh.attach(i, &host);
            addresses = until("the node has its subnet, and the container is on it", BOUND, attached).await;
        }
        containers.push(Container { host, node: format!("node-{i}"), addresses });
    }
    (mesh, containers)
}

/// A service with an instance in each container, all on `target`; the instances are named by the service.
fn one_in_each(
    mesh: &mut HostMesh,
    containers: &[Container],
    protocol: &str,
    ports: &str,
    target: u16,
) -> String {
    let name = if protocol == "tcp" { "whoami" } else { "echo" };
    let mut endpoints = String::new();
    for (i, container) in (1..).zip(containers) {
        let instance = format!("{name}-{i}");
        container.serve(mesh, name, &instance, protocol, target);
        endpoints += &format!("{}}}, ", container.endpoint(&instance));
    }
    format!("  {name}:\n    ports: [\"{ports}/{protocol}\"]\n    x-mesh:\n      endpoints: [{endpoints}]\n")
}

/// Waits until whoami at `at` was answered by all of `instances` in turn, and by nobody else.
async fn until_met(mesh: &HostMesh, at: SocketAddr, instances: &[&str]) {
    let own = mesh.lab.client_address(0)[usize::from(at.is_ipv6())];
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
    let (mut mesh, containers) = start(plane).await;
    let service = one_in_each(&mut mesh, &containers, "tcp", "8080:8000", 8000);
    let text = format!("services:\n{service}      {}\n", plane.keeps_client);
    mesh.write_service_file("whoami.yaml", &text).unwrap();
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
                    assert_eq!(met.client.ip(), own, "through {at}");
                }
            }
        }
        let found: BTreeSet<IpAddr> =
            node.lookup("tasks.whoami.cluster").await.unwrap().iter().map(|a| a.parse().unwrap()).collect();
        assert_eq!(found, containers.iter().map(|c| c.addresses[0]).collect());
    }
}

/// Answers every connection with what it sent, once all of it has come.
fn mirror(container: &Container, port: u16) {
    let listener =
        container.host.inside(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))).flatten().unwrap();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let mut all = Vec::new();
            drop(stream.read_to_end(&mut all).and_then(|_| stream.write_all(&all)));
        }
    });
}

/// Sends `bytes` to a mirror and gives what comes back.
fn mirrored(host: &Host, at: SocketAddr, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = host.inside(|| TcpStream::connect_timeout(&at, BOUND)).flatten()?;
    stream.set_read_timeout(Some(BOUND))?;
    stream.write_all(bytes)?;
    stream.shutdown(Shutdown::Write)?;
    let mut back = Vec::new();
    stream.read_to_end(&mut back)?;
    Ok(back)
}

/// Segments as long as the path takes, whoever splits them and sums them up on the way.
async fn megabytes_arrive_whole_through_every_node(plane: &Plane) {
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

async fn a_dead_nodes_instances_get_nothing_more(plane: &Plane) {
    let (mut mesh, containers) = start(plane).await;
    let text = String::from("services:\n")
        + &one_in_each(&mut mesh, &containers, "tcp", "8080:8000", 8000)
        + &one_in_each(&mut mesh, &containers, "udp", "7070:7000", 7000);
    mesh.write_service_file("both.yaml", &text).unwrap();
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

/// The agents of all nodes die and come back, one after the other, while clients come and one stays.
async fn a_killed_agent_moves_no_packet(plane: &Plane) {
    let (mut mesh, containers) = start(plane).await;
    let service = one_in_each(&mut mesh, &containers, "tcp", "8080:8000", 8000);
    mesh.write_service_file("whoami.yaml", &format!("services:\n{service}")).unwrap();
    let own = mesh.lab.client_address(3)[0];
    let mut loads = Vec::new();
    for node in mesh.nodes() {
        let at: SocketAddr = (node.place.address, 8080).into();
        until_met(&mesh, at, &["whoami-1", "whoami-2"]).await;
        loads.push((Load::from(&mesh.lab.client, own, at), node));
    }
    let at: SocketAddr = (mesh.node(3).place.address, 8080).into();
    let mut kept = mesh.lab.client.inside(|| TcpStream::connect_timeout(&at, BOUND)).flatten().unwrap();
    for (i, (load, node)) in (1..).zip(&loads) {
        load.answers(20).await;
        mesh.crash(i).await.unwrap();
        load.answers(100).await;
        mesh.start_agent(i).unwrap();
        until("the agent holds its table again", BOUND, || async {
            let (status, body) = node.metrics("/readyz").await?;
            ensure!(status == 200, "{body}");
            let (_, plan) = node.admin("/v1/plan").await?;
            ensure!(plan["operations"].as_array().is_some_and(Vec::is_empty), "{plan}");
            anyhow::Ok(())
        })
        .await;
        load.answers(100).await;
    }
    for (load, _) in loads {
        let seen = load.stop();
        assert_eq!((seen.failed, seen.by_instance.len()), (Vec::new(), 2));
    }
    kept.set_read_timeout(Some(BOUND)).unwrap();
    kept.write_all(b"GET / HTTP/1.1\r\nHost: w\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    kept.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "a connection from before: {answer}");
}

async fn a_rolling_update_of_32_instances_fails_nobody(plane: &Plane) {
    let (mut mesh, containers) = start(plane).await;
    let place = |i: usize| &containers[i % 2];
    let file = |ports: &[(String, usize, u16)]| {
        let endpoint = |(name, i, port): &(String, usize, u16)| {
            format!("        - {}, ports: {{8000: {port}}}}}\n", place(*i).endpoint(name))
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
            running.insert(name.clone(), place(i).serve(&mut mesh, "whoami", &name, "tcp", port));
            if name.starts_with("old") {
                instances.push((name, i, port));
            }
        }
    }
    mesh.write_service_file("whoami.yaml", &file(&instances)).unwrap();
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
        running[&name].iter().for_each(AbortHandle::abort);
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
    let (mut mesh, containers) = start(plane).await;
    containers[0].serve(&mut mesh, "whoami", "one", "tcp", 8000);
    let endpoint = format!("endpoints: [{}}}]", containers[0].endpoint("one"));
    let services: String =
        (0..300).map(|i| format!("  s{i}: {{expose: [\"8000\"], x-mesh: {{{endpoint}}}}}\n")).collect();
    mesh.write_service_file("many.yaml", &format!("services:\n{services}")).unwrap();
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
