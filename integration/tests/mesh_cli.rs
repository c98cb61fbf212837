//! The command line on a real mesh: what one node is told, all nodes know, and the exit codes mean what they say.
#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test fails the test by panicking, as the test itself does"
)]

use anyhow::ensure;
use mesh_integration::{BOUND, Load, Mesh, Node, agent_binary, ran, until, whoami};
use std::net::SocketAddr;
use tokio::net::TcpStream;

async fn started(nodes: u8) -> Mesh {
    let mesh = Mesh::of(nodes).start(agent_binary!()).await.unwrap();
    mesh.until_ready().await;
    for node in mesh.nodes() {
        until("the demo's services are there", BOUND, || node.whoami(8080)).await;
    }
    mesh
}

/// A service of the cluster with two ports that lead to the instances of whoami on nodes 1 and 2.
fn api(mesh: &Mesh, ports: &str) -> String {
    let address = |i: usize| mesh.layout.services[0].instances[i].address;
    format!(
        "services:\n  api:\n    ports: [{ports}]\n    stop_grace_period: 1s\n    x-mesh:\n      proxy_protocol: true\n      \
         endpoints:\n        - {{name: api-1, address: {}, ports: {{8001: 8000}}}}\n",
        address(0)
    )
}

async fn open(node: &Node, port: u16) {
    let at: SocketAddr = (node.place.address, port).into();
    until(&format!("{at} answers"), BOUND, || whoami(at)).await;
}

async fn closed(node: &Node, port: u16) {
    let at: SocketAddr = (node.place.address, port).into();
    until(&format!("{at} is closed"), BOUND, || async {
        match TcpStream::connect(at).await {
            Ok(_) => Err("still open"),
            Err(_) => Ok(()),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_of_the_cluster_is_applied_published_and_removed_under_load() {
    let mesh = started(3).await;
    let text = api(&mesh, "\"8088:8000\", \"8089:8001\"");
    let dry = mesh.cli_with(1, &["service", "apply", "-f", "-", "--dry-run"], &text).await.unwrap();
    assert!(dry.code(0).unwrap().out.contains("api"));
    mesh.cli(1, &["service", "inspect", "api"]).await.unwrap().code(2).unwrap();

    mesh.cli_with(1, &["service", "apply", "-f", "-"], &text).await.unwrap().code(0).unwrap();
    let mut vips = Vec::new();
    for (i, node) in mesh.nodes().iter().enumerate() {
        open(node, 8088).await;
        open(node, 8089).await;
        let shown = mesh.cli(i + 1, &["--json", "service", "inspect", "api"]).await.unwrap().json().unwrap();
        assert_eq!(shown["origins"], serde_json::json!(["cluster"]), "{shown}");
        vips.push(shown["vips"].clone());
    }
    assert!(vips.iter().all(|v| *v == vips[0]), "{vips:?}");

    // Another node than the one that declared it changes the ports; the port that stays loses no request.
    let loads: Vec<Load> = mesh.nodes().iter().map(|n| Load::on((n.place.address, 8088).into())).collect();
    for round in 0..3 {
        let asked = 1 + (round + 1) % 3;
        mesh.cli(asked, &["service", "unpublish", "api", "8089"]).await.unwrap().code(0).unwrap();
        for node in mesh.nodes() {
            closed(&node, 8089).await;
        }
        mesh.cli(asked, &["service", "publish", "api", "8089:8001"]).await.unwrap().code(0).unwrap();
        for (node, load) in mesh.nodes().iter().zip(&loads) {
            open(node, 8089).await;
            load.answers(10).await;
        }
    }
    for load in loads {
        let seen = load.stop();
        assert!(seen.failed.is_empty(), "{:?}", seen.failed);
    }

    // One port of the service may be open at several places, and closing one leaves the others alone.
    let load = Load::on((mesh.node(1).place.address, 8088).into());
    mesh.cli(3, &["service", "publish", "api", "8087:8000"]).await.unwrap().code(0).unwrap();
    for node in mesh.nodes() {
        open(&node, 8087).await;
        open(&node, 8088).await;
    }
    load.answers(10).await;
    mesh.cli(1, &["service", "unpublish", "api", "8087"]).await.unwrap().code(0).unwrap();
    for node in mesh.nodes() {
        closed(&node, 8087).await;
        open(&node, 8088).await;
    }
    let seen = load.stop();
    assert!(seen.failed.is_empty(), "{:?}", seen.failed);

    // A port of the mesh's choice is named.
    mesh.cli(2, &["service", "unpublish", "api", "8089"]).await.unwrap().code(0).unwrap();
    let told = mesh.cli(2, &["service", "publish", "api", "auto:8001"]).await.unwrap().code(0).unwrap();
    let chosen = until("a port is chosen", BOUND, || async {
        let shown = mesh.cli(3, &["--json", "service", "inspect", "api"]).await?.json()?;
        let port: u16 = shown["ports"][1]["published"]["port"].as_str().unwrap_or("0").parse()?;
        ensure!((30_000..=32_767).contains(&port), "{shown}");
        anyhow::Ok(port)
    })
    .await;
    open(&mesh.node(1), chosen).await;
    assert!(told.out.contains(&chosen.to_string()), "{told:?}");

    mesh.cli(3, &["service", "rm", "api"]).await.unwrap().code(0).unwrap();
    for (i, node) in mesh.nodes().iter().enumerate() {
        closed(node, 8088).await;
        closed(node, chosen).await;
        mesh.cli(i + 1, &["service", "inspect", "api"]).await.unwrap().code(2).unwrap();
        assert_eq!(node.dig("api.cluster", "A", &[]).await.unwrap().status, "NXDOMAIN");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_are_added_drained_and_removed_on_their_node() {
    let mesh = started(2).await;
    // The endpoint maps a port that the service has not.
    let lacking = api(&mesh, "\"8088:8000\"");
    mesh.cli_with(1, &["service", "apply", "-f", "-"], &lacking).await.unwrap().code(65).unwrap();
    let text = api(&mesh, "\"8088:8000\", \"8089:8001\"");
    mesh.cli_with(1, &["service", "apply", "-f", "-"], &text).await.unwrap().code(0).unwrap();
    let second = mesh.layout.services[0].instances[1].address.to_string();
    let add = ["endpoint", "add", "api", "api-2", &second, "--port", "8001:8000", "--weight", "50"];
    mesh.cli(2, &add).await.unwrap().code(0).unwrap();
    let met = |wanted: &'static [&'static str]| {
        let nodes = mesh.nodes();
        async move {
            for node in nodes {
                until(&format!("{} balances over {wanted:?}", node.place.name), BOUND, || async {
                    let mut met = std::collections::BTreeSet::new();
                    for _ in 0..8 {
                        met.insert(node.whoami(8088).await?.instance);
                    }
                    ensure!(met.iter().map(String::as_str).eq(wanted.iter().copied()), "{met:?}");
                    anyhow::Ok(())
                })
                .await;
            }
        }
    };
    met(&["whoami-1", "whoami-2"]).await;
    let listed = mesh.cli(1, &["--json", "endpoint", "ls", "api"]).await.unwrap().json().unwrap();
    assert_eq!(listed["endpoints"].as_array().unwrap().len(), 2, "{listed}");

    // Only the node that owns an endpoint drains it.
    let drain = ["endpoint", "drain", "api", "api-2", "--wait=20s"];
    mesh.cli(1, &drain).await.unwrap().code(2).unwrap();
    mesh.cli(2, &drain).await.unwrap().code(0).unwrap();
    met(&["whoami-1"]).await;
    mesh.cli(2, &["endpoint", "drain", "api", "api-2", "--undo"]).await.unwrap().code(0).unwrap();
    met(&["whoami-1", "whoami-2"]).await;
    mesh.cli(2, &["endpoint", "rm", "api", "api-2"]).await.unwrap().code(0).unwrap();
    met(&["whoami-1"]).await;
    mesh.cli(2, &["endpoint", "rm", "api", "api-2"]).await.unwrap().code(2).unwrap();

    // A drained node takes no new flow until it is undrained; only its own agent drains it.
    mesh.cli(2, &["nodes", "drain", "node-1"]).await.unwrap().code(1).unwrap();
    mesh.cli(1, &["nodes", "drain", "node-1"]).await.unwrap().code(0).unwrap();
    let node = mesh.node(2);
    until("node-1 takes no new flow", BOUND, || async {
        for _ in 0..6 {
            let who = node.whoami(8080).await?;
            ensure!(who.node == "node-2", "{who:?}");
        }
        let nodes = mesh.cli(2, &["nodes"]).await?;
        ensure!(nodes.out.lines().any(|l| l.contains("node-1") && l.contains("drain")), "{}", nodes.out);
        anyhow::Ok(())
    })
    .await;
    mesh.cli(1, &["nodes", "undrain", "node-1"]).await.unwrap().code(0).unwrap();
    until("node-1 serves again", BOUND, || async {
        let who = node.whoami(8080).await?;
        ensure!(who.node == "node-1", "{who:?}");
        anyhow::Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn questions_are_answered_and_exit_codes_mean_what_the_help_says() {
    let mesh = started(2).await;
    let status = mesh.cli(1, &["status", "--wait=30s"]).await.unwrap().code(0).unwrap();
    assert!(status.out.contains("node-1") && status.out.contains("1 other nodes up"), "{}", status.out);
    let vip = mesh.node(1).lookup("whoami.cluster").await.unwrap()[0].clone();
    let shown = mesh.cli(1, &["dns", "query", "whoami.cluster"]).await.unwrap().code(0).unwrap();
    assert!(shown.out.contains(&vip), "{}", shown.out);
    let none = mesh.cli(1, &["dns", "query", "whoami.cluster", "--type", "AAAA"]).await.unwrap();
    assert!(none.code(0).unwrap().out.contains("has no AAAA"));
    let told = mesh.cli(1, &["--json", "dns", "query", "whoami", "--explain"]).await.unwrap().json().unwrap();
    let step = &told["explanation"]["steps"][0];
    assert!(step["service"] == "whoami" && step["candidates"][0]["addresses"][0] == vip, "{told}");
    until("the plan is done", BOUND, || async {
        let plan = mesh.cli(1, &["--json", "plan"]).await?.json()?;
        ensure!(plan["operations"].as_array().is_some_and(Vec::is_empty), "{plan}");
        anyhow::Ok(())
    })
    .await;
    for at in [format!("{vip}:8000"), format!("{}:8080", mesh.node(1).place.address)] {
        let why = mesh.cli(1, &["--json", "why", &at]).await.unwrap().code(0).unwrap().json().unwrap();
        let chances: f64 =
            why["candidates"].as_array().unwrap().iter().map(|c| c["probability"].as_f64().unwrap()).sum();
        assert!((chances - 1.0).abs() < 1e-6 && why["service"] == "whoami", "{why}");
        assert!(!why["objects"].as_array().unwrap().is_empty(), "{why}");
    }

    let nowhere = format!("{}:9", mesh.node(1).place.address);
    let file = |name: &str, text: &str| {
        let path = mesh.layout.service_file.with_file_name("..").join(name);
        std::fs::write(&path, text).unwrap();
        path.to_string_lossy().into_owned()
    };
    let bad = file("bad.yaml", "services: {x: {portz: 3}}\n");
    let exec = file("exec.yaml", "services: {x: {healthcheck: {test: [CMD, \"true\"]}}}\n");
    let metrics = format!("http://{}", mesh.node(1).place.metrics());
    for (code, arguments) in [
        (2, vec!["dns", "query", "nobody.cluster"]),
        (2, vec!["why", nowhere.as_str()]),
        (2, vec!["service", "inspect", "nobody"]),
        (2, vec!["service", "rm", "nobody"]),
        (2, vec!["endpoint", "ls", "nobody"]),
        (2, vec!["service", "publish", "nobody", "99"]),
        (1, vec!["service", "rm", "whoami"]),
        (1, vec!["service", "publish", "whoami", "8099"]),
        (64, vec!["frobnicate"]),
        (64, vec!["service", "publish", "whoami", "x:y"]),
        (65, vec!["service", "apply", "-f", bad.as_str()]),
        (65, vec!["service", "apply", "-f", exec.as_str()]),
        (65, vec!["dns", "query", "a..b"]),
        (65, vec!["dns", "query", "whoami", "--listen", "192.0.2.9"]),
        (66, vec!["service", "apply", "-f", "/nonexistent/file"]),
        (69, vec!["--admin", "unix:/nonexistent/socket", "status"]),
        (2, vec!["--admin", metrics.as_str(), "status"]),
    ] {
        // The last --admin counts.
        let ran = ran(agent_binary!(), &arguments, "");
        let ended =
            if arguments[0] == "--admin" { ran.await } else { mesh.cli(1, &arguments).await }.unwrap();
        assert!(!ended.err.is_empty(), "{arguments:?} says nothing");
        ended.code(code).unwrap_or_else(|e| panic!("{arguments:?}: {e}"));
    }
    let refused = mesh.cli(1, &["service", "apply", "-f", &bad]).await.unwrap().err;
    assert!(
        refused.contains("bad.yaml:1: ") && refused.contains("portz"),
        "the file's own name and line: {refused}"
    );
}
