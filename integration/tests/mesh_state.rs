//! What is kept and what is let go when agents stop, crash and start again.
use anyhow::ensure;
use mesh_integration::{BOUND, Mesh, Node, agent_binary, until};
use serde_json::Value;
use std::{net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// Every node keeps its state beside its configuration.
fn with_data_dir(place: &mesh_agent::demo::layout::Node, text: &str) -> String {
    let folder = place.config.with_file_name("data");
    text.replace("cluster:\n", &format!("cluster:\n  data_dir: {}\n", folder.display()))
}

async fn service(mesh: &Mesh, i: usize, name: &str) -> anyhow::Result<Value> {
    let (status, body) = mesh.node(i).admin(&format!("/v1/services/{name}")).await?;
    ensure!(status == 200, "{status}: {body}");
    Ok(body)
}

/// Who declares whoami, newest first, and its VIP.
async fn declared(mesh: &Mesh, i: usize) -> anyhow::Result<(Value, Value)> {
    let whoami = service(mesh, i, "whoami").await?;
    ensure!(whoami["origins"].as_array().is_some_and(|o| o.len() == 3), "{whoami}");
    Ok((whoami["origins"].clone(), whoami["vips"].clone()))
}

async fn until_whoami(nodes: &[Node]) {
    for node in nodes {
        until(&format!("{} serves", node.place.name), BOUND, || node.whoami(8080)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_of_all_nodes_keeps_vips_and_what_the_cluster_declared() {
    let mut mesh = Mesh::of(2).configured(with_data_dir).start(agent_binary!()).await.unwrap();
    mesh.until_ready().await;
    until_whoami(&mesh.nodes()).await;
    let address = mesh.layout.services[0].instances[0].address;
    let api = format!(
        "services: {{api: {{ports: [\"8088:8000\"], x-mesh: {{proxy_protocol: true, \
         endpoints: [{{name: api-1, address: {address}}}]}}}}}}"
    );
    mesh.cli_with(2, &["service", "apply", "-f", "-"], &api).await.unwrap().code(0).unwrap();
    for node in mesh.nodes() {
        until("the declared service answers", BOUND, || node.whoami(8088)).await;
    }
    let vips = |i: usize| {
        let mesh = &mesh;
        async move {
            let (api, whoami) = (service(mesh, i, "api").await?, service(mesh, i, "whoami").await?);
            ensure!(api["vips"][0].is_string() && whoami["vips"][0].is_string(), "{api} {whoami}");
            anyhow::Ok((api["vips"].clone(), whoami["vips"].clone()))
        }
    };
    let before = vips(1).await.unwrap();

    // One after the other down, so that for a moment nobody runs, and up again; one of the two by a crash.
    mesh.crash(1).await.unwrap();
    mesh.stop(2).await;
    mesh.start_agent(1).unwrap();
    mesh.start_agent(2).unwrap();
    mesh.until_ready().await;
    for node in mesh.nodes() {
        until("the declared service answers again", BOUND, || node.whoami(8088)).await;
    }
    for i in [1, 2] {
        let vips = |i: usize| {
            let mesh = &mesh;
            async move {
                let (api, whoami) = (service(mesh, i, "api").await?, service(mesh, i, "whoami").await?);
                anyhow::Ok((api["vips"].clone(), whoami["vips"].clone()))
            }
        };
        assert_eq!(vips(i).await.unwrap(), before, "node {i}");
        assert_eq!(service(&mesh, i, "api").await.unwrap()["origins"], serde_json::json!(["cluster"]));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_api_declared_outlives_its_node_and_unchanged_files_write_nothing() {
    let mut mesh = Mesh::of(3).start(agent_binary!()).await.unwrap();
    mesh.until_ready().await;
    until_whoami(&mesh.nodes()).await;
    let before = until("all have declared", BOUND, || declared(&mesh, 1)).await;
    // The oldest declaration, the last of the list, is the one whose renewal would show. Its node is restarted.
    let oldest = before.0.as_array().unwrap()[2].as_str().unwrap().to_owned();
    let oldest = (1..=3).find(|i| oldest == format!("node:node-{i}")).unwrap();
    let stays = if oldest == 3 { 2 } else { 3 };
    let address = mesh.layout.services[0].instances[1].address;
    let api = "services: {api: {ports: [\"8088:8000\"], x-mesh: {proxy_protocol: true}}}";
    mesh.cli_with(oldest, &["service", "apply", "-f", "-"], api).await.unwrap().code(0).unwrap();
    mesh.cli(stays, &["endpoint", "add", "api", "api-1", &address.to_string()])
        .await
        .unwrap()
        .code(0)
        .unwrap();
    for node in mesh.nodes() {
        until("the declared service answers", BOUND, || node.whoami(8088)).await;
    }
    let api_before = service(&mesh, 2, "api").await.unwrap()["vips"].clone();

    for crash in [true, false] {
        if crash {
            mesh.crash(oldest).await.unwrap();
        } else {
            mesh.stop(oldest).await;
        }
        mesh.start_agent(oldest).unwrap();
        mesh.until_ready().await;
        until_whoami(&mesh.nodes()).await;
        for i in [oldest, 1, 2, 3] {
            let after = until("the declarations are there", BOUND, || declared(&mesh, i)).await;
            // A declaration that had been written anew would have become the newest, which comes first.
            assert_eq!(after, before, "as node {i} sees it, crash: {crash}");
            assert_eq!(service(&mesh, i, "api").await.unwrap()["vips"], api_before);
        }
        for node in [&mesh.node(oldest), &mesh.node(stays)] {
            until("the service of the cluster is served", BOUND, || node.whoami(8088)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_leaves_at_once_and_lets_a_request_finish() {
    let mut mesh = Mesh::of(3).start(agent_binary!()).await.unwrap();
    mesh.until_ready().await;
    until_whoami(&mesh.nodes()).await;
    // An instance of our own that answers only when we say so.
    let slow = TcpListener::bind((mesh.net.address(2, 88), 8000)).await.unwrap();
    let text = format!(
        "services: {{slow: {{ports: [\"8085:8000\"], x-mesh: {{endpoints: [{{name: s, node: node-2, address: {}}}]}}}}}}",
        slow.local_addr().unwrap().ip()
    );
    mesh.write_service_file("slow.yaml", &text).unwrap();
    let at: SocketAddr = (mesh.node(1).place.address, 8085).into();
    let mut client = until("the slow service is there", BOUND, || TcpStream::connect(at)).await;
    client.write_all(b"question").await.unwrap();
    let (mut server, _) = slow.accept().await.unwrap();
    let mut question = [0u8; 8];
    server.read_exact(&mut question).await.unwrap();

    let own: Vec<String> = mesh.layout.services[0]
        .instances
        .iter()
        .filter(|i| i.node == "node-1")
        .map(|i| i.address.to_string())
        .collect();
    let since = std::time::Instant::now();
    mesh.terminate(1).unwrap();
    for node in &mesh.nodes()[1..] {
        // A crash takes several probe intervals to notice; who leaves says so.
        until("the instances of the node that leaves are gone", Duration::from_secs(3), || async {
            let found = node.lookup("tasks.whoami.cluster").await?;
            ensure!(own.iter().all(|gone| !found.contains(gone)), "still {found:?}");
            anyhow::Ok(())
        })
        .await;
    }
    eprintln!("gone everywhere after {:?}", since.elapsed());
    server.write_all(b"answer").await.unwrap();
    drop(server);
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "answer", "the request in flight was finished");
    drop(client);
    assert_eq!(mesh.ended(1).await.unwrap(), Some(0));
    assert!(!mesh.layout.nodes[0].socket.exists(), "its admin socket is removed");

    mesh.start_agent(1).unwrap();
    mesh.until_ready().await;
    until("its instances are back", BOUND, || async {
        let found = mesh.node(3).lookup("tasks.whoami.cluster").await?;
        ensure!(own.iter().all(|a| found.contains(a)), "{found:?}");
        anyhow::Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_wrong_at_the_start_stops_no_other() {
    let mut mesh = Mesh::of(1).start(agent_binary!()).await.unwrap();
    mesh.stop(1).await;
    mesh.write_service_file("wrong.yaml", "services: {x: {ports: [\"99999\"]}}\n").unwrap();
    mesh.start_agent(1).unwrap();
    mesh.until_ready().await;
    until_whoami(&mesh.nodes()).await;
    let node = mesh.node(1);
    let (_, status) = node.admin("/v1/status").await.unwrap();
    let errors = status["sources"][1]["errors"].to_string();
    assert!(errors.contains("wrong.yaml:1: services.x.ports[0]") && errors.contains("99999"), "{status}");
    let (code, health) = node.metrics("/healthz").await.unwrap();
    assert_eq!(code, 200, "one file must not take the node out of service: {health}");
    let health: Value = serde_json::from_str(&health).unwrap();
    assert!(health["degraded"].to_string().contains("wrong.yaml"), "{health}");
    let (_, metrics) = node.metrics("/metrics").await.unwrap();
    assert!(metrics.contains("mesh_source_errors{source=\"file\"} 1"), "{metrics}");
    mesh.write_service_file("wrong.yaml", "services: {}\n").unwrap();
    until("nothing is degraded", BOUND, || async {
        let (_, health) = node.metrics("/healthz").await?;
        ensure!(health.contains("\"degraded\":[]"), "{health}");
        anyhow::Ok(())
    })
    .await;
}

/// What node `i` says of node 3, and who declares whoami there.
async fn third(mesh: &Mesh, i: usize) -> anyhow::Result<(Value, Value)> {
    let (_, nodes) = mesh.node(i).admin("/v1/nodes").await?;
    let found = nodes["nodes"].as_array().and_then(|all| all.iter().find(|n| n["name"] == "node-3"));
    let origins = service(mesh, i, "whoami").await?["origins"].clone();
    Ok((found.map(|n| n["state"].clone()).unwrap_or_default(), origins))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_crashed_is_forgotten_when_told_and_comes_back_as_it_was() {
    let mut mesh = Mesh::of(3).configured(with_data_dir).start(agent_binary!()).await.unwrap();
    mesh.until_ready().await;
    until_whoami(&mesh.nodes()).await;
    until("all have declared", BOUND, || declared(&mesh, 1)).await;
    let up = mesh.cli(1, &["nodes", "forget", "node-3"]).await.unwrap().code(1).unwrap();
    assert!(up.err.contains("node-3 is up"), "{}", up.err);
    mesh.cli(1, &["nodes", "forget", "node-9"]).await.unwrap().code(2).unwrap();

    mesh.crash(3).await.unwrap();
    until("node 3 is forgotten", BOUND, || async {
        mesh.cli(1, &["nodes", "forget", "node-3"]).await?.code(0)
    })
    .await;
    for i in [1, 2] {
        until("nothing is left of node 3", BOUND, || async {
            let (state, origins) = third(&mesh, i).await?;
            let of_others = origins.as_array().is_some_and(|all| all.len() == 2);
            ensure!(
                state == "left" && of_others && !origins.to_string().contains("node-3"),
                "{state} {origins}"
            );
            anyhow::Ok(())
        })
        .await;
    }

    mesh.start_agent(3).unwrap();
    mesh.until_ready().await;
    until_whoami(&mesh.nodes()).await;
    for i in 1..=3 {
        until("node 3 is all back", BOUND, || async {
            let (state, _) = third(&mesh, i).await?;
            ensure!(state == "alive", "{state}");
            declared(&mesh, i).await
        })
        .await;
    }
}
