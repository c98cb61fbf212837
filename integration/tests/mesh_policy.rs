//! A service's policy on real agents: affinity, schedulers, weights, the client's address, UDP flows, exec checks.
#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test fails the test by panicking, as the test itself does"
)]

use anyhow::ensure;
use mesh_agent::demo::whoami::Identity;
use mesh_integration::{BOUND, Mesh, Node, Whoami, agent_binary, echo, until, whoami_from};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddr},
};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

async fn started(nodes: u8) -> Mesh {
    let mesh = Mesh::of(nodes).start(agent_binary!()).await.unwrap();
    mesh.until_ready().await;
    for node in mesh.nodes() {
        until("the demo's services are there", BOUND, || node.whoami(8080)).await;
    }
    mesh
}

/// The whoami instances again, as endpoints of a further service; `more` says what else, by instance.
fn endpoints(mesh: &Mesh, more: impl Fn(usize) -> String) -> String {
    let instances = mesh.layout.services[0].instances.iter().enumerate();
    let lines = instances.map(|(i, e)| {
        format!("        - {{name: {}, node: {}, address: {}{}}}\n", e.name, e.node, e.address, more(i))
    });
    lines.collect()
}

async fn until_all_known(mesh: &Mesh, name: &str, count: usize) {
    for node in mesh.nodes() {
        until(&format!("{} knows all of {name}", node.place.name), BOUND, || async {
            let list = mesh_list(&node, name).await?;
            ensure!(list == count, "{list}");
            anyhow::Ok(())
        })
        .await;
    }
}

async fn mesh_list(node: &Node, name: &str) -> anyhow::Result<usize> {
    let (status, service) = node.admin(&format!("/v1/services/{name}")).await?;
    ensure!(status == 200, "{service}");
    let (_, plan) = node.admin("/v1/plan").await?;
    ensure!(plan["operations"].as_array().is_some_and(Vec::is_empty), "{plan}");
    Ok(usize::try_from(service["endpoints_ready"].as_u64().unwrap_or(0))?)
}

async fn from(mesh: &Mesh, client: u8, node: &Node, port: u16) -> anyhow::Result<Whoami> {
    whoami_from(mesh.net.address(200, client).into(), (node.place.address, port).into()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn schedulers_and_affinity_decide_over_published_ports() {
    let mesh = started(3).await;
    let service = |name: &str, port: u16, policy: &str, more: &dyn Fn(usize) -> String| {
        format!(
            "  {name}:\n    ports: [\"{port}:8000\"]\n    x-mesh:\n      proxy_protocol: true\n      {policy}\n      \
             endpoints:\n{}",
            endpoints(&mesh, more)
        )
    };
    let none = |_: usize| String::new();
    let text = String::from("services:\n")
        + &service("sticky", 8091, "affinity: {timeout: 1h}", &none)
        + &service("hashed", 8092, "scheduler: maglev", &none)
        + &service("weighted", 8093, "scheduler: wrr", &|i| format!(", weight: {}", [10, 20, 30][i]));
    mesh.write_service_file("policy.yaml", &text).unwrap();
    let count = mesh.layout.services[0].instances.len();
    for name in ["sticky", "hashed", "weighted"] {
        until_all_known(&mesh, name, count).await;
    }
    let nodes = mesh.nodes();

    // Affinity: whatever its port, a client stays with one instance on a node; several clients use several.
    let mut used = BTreeSet::new();
    for client in 1..=6 {
        let mut met = BTreeSet::new();
        for _ in 0..6 {
            met.insert(from(&mesh, client, &nodes[2], 8091).await.unwrap().instance);
        }
        assert_eq!(met.len(), 1, "client {client} met {met:?}");
        used.extend(met);
    }
    assert_eq!(used.len(), count, "clients are spread: {used:?}");

    // Maglev: the same choice on every node for the same client, and several clients use several instances.
    let mut used = BTreeSet::new();
    for client in 1..=24 {
        let mut met = BTreeSet::new();
        for node in &nodes {
            met.insert(from(&mesh, client, node, 8092).await.unwrap().instance);
        }
        assert_eq!(met.len(), 1, "client {client} met {met:?}");
        used.extend(met);
    }
    assert!(used.len() > 1, "{used:?}");

    // Smooth weighted round robin is exact over whole rounds.
    let mut met: BTreeMap<String, usize> = BTreeMap::new();
    for _ in 0..60 {
        *met.entry(from(&mesh, 1, &nodes[0], 8093).await.unwrap().instance).or_default() += 1;
    }
    let shares: Vec<usize> = met.values().copied().collect();
    assert_eq!(shares, [10, 20, 30], "{met:?}");

    // The client's own address reaches the instance through every node.
    for node in &nodes {
        let seen = from(&mesh, 7, node, 8092).await.unwrap();
        assert_eq!(seen.client.ip(), mesh.net.address(200, 7), "{seen:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn least_connections_avoids_the_busy_instance() {
    let mesh = started(2).await;
    // Instances of our own, whose connections stay open as long as we hold them.
    let places: [Ipv4Addr; 2] = [mesh.net.address(1, 91), mesh.net.address(2, 91)];
    let mut servers = Vec::new();
    for place in places {
        servers.push(TcpListener::bind((place, 8000)).await.unwrap());
    }
    let text = format!(
        "services: {{busy: {{ports: [\"8094:8000\"], x-mesh: {{scheduler: lc, endpoints: [{{name: a, node: node-1, \
         address: {}}}, {{name: b, node: node-2, address: {}}}]}}}}}}",
        places[0], places[1]
    );
    mesh.write_service_file("busy.yaml", &text).unwrap();
    until_all_known(&mesh, "busy", 2).await;
    let at: SocketAddr = (mesh.node(1).place.address, 8094).into();
    let node = mesh.node(1);
    let until_active = |wanted: u64| {
        let node = node.clone();
        async move {
            until(&format!("{wanted} connections are open"), BOUND, || async {
                let (_, list) = node.admin("/v1/endpoints?service=busy").await?;
                let active = |e: &serde_json::Value| e["connections"]["active"].as_u64();
                let open: u64 = list["endpoints"].as_array().into_iter().flatten().filter_map(active).sum();
                ensure!(open == wanted, "{list}");
                anyhow::Ok(())
            })
            .await;
        }
    };
    // One each; the one of server a stays open.
    let first = TcpStream::connect(at).await.unwrap();
    let (a, b) = (&servers[0], &servers[1]);
    let busy = tokio::select! {
        held = a.accept() => (held.unwrap(), b),
        held = b.accept() => (held.unwrap(), a),
    };
    let (held, idle) = busy;
    for round in 0..6 {
        // Round robin would go to the busy one every other time.
        let client = TcpStream::connect(at).await.unwrap();
        let (server, _) = tokio::time::timeout(BOUND, idle.accept())
            .await
            .unwrap_or_else(|_| panic!("round {round} went to the busy instance"))
            .unwrap();
        drop((client, server));
        until_active(1).await;
    }
    drop((first, held));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_udp_flow_leaves_a_removed_instance_at_once() {
    let mesh = started(2).await;
    let at: SocketAddr = (mesh.node(1).place.address, 7070).into();
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    until("both echoes are known", BOUND, || async {
        let found = mesh.node(1).lookup("tasks.echo.cluster").await?;
        ensure!(found.len() == 2, "{found:?}");
        anyhow::Ok(())
    })
    .await;
    let first = echo(&socket, at, "one").await.unwrap();
    assert_eq!(echo(&socket, at, "two").await.unwrap(), first, "a flow stays with its instance");
    let instance = mesh.layout.services[1].instances.iter().find(|i| i.name == first).unwrap();
    let whole = mesh.layout.service_yaml();
    let line = format!(
        "        - {{name: {}, address: {}, node: {}}}\n",
        instance.name, instance.address, instance.node
    );
    assert!(whole.contains(&line));
    mesh.edit_services(&whole.replace(&line, "")).unwrap();
    until("the flow went to the other instance", BOUND, || async {
        let now = echo(&socket, at, "three").await?;
        ensure!(now != first, "still {now}");
        anyhow::Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_of_the_nodes_own_file_decides_over_its_instance() {
    let mut mesh = started(2).await;
    let at: SocketAddr = (mesh.net.address(1, 92), 8000).into();
    let who = Identity { service: "checked".into(), instance: "c".into(), node: "node-1".into() };
    mesh.instances.add(who, "tcp", at).await.unwrap();
    let flag = mesh.layout.service_file.with_file_name("healthy.flag");
    let text = format!(
        "services:\n  checked:\n    ports: [\"8095:8000\"]\n    healthcheck:\n      test: [\"CMD-SHELL\", \"test \
         $MESH_INSTANCE = c -a -e {}\"]\n      interval: 100ms\n      timeout: 2s\n      retries: 1\n    x-mesh:\n      \
         endpoints: [{{name: c, node: node-1, address: {}}}]\n",
        flag.display(),
        at.ip()
    );
    mesh.write_service_file("checked.yaml", &text).unwrap();
    for _ in 0..2 {
        for node in mesh.nodes() {
            until("it is known and not ready", BOUND, || async {
                let found = node.dig("tasks.checked.cluster", "A", &[]).await?;
                ensure!(found.status == "NOERROR" && found.answers.is_empty(), "{found:?}");
                ensure!(node.whoami(8095).await.is_err(), "an empty service rejects");
                anyhow::Ok(())
            })
            .await;
        }
        std::fs::write(&flag, "").unwrap();
        for node in mesh.nodes() {
            until("it is ready", BOUND, || node.whoami(8095)).await;
        }
        std::fs::remove_file(&flag).unwrap();
    }
}
