//! What happens while traffic runs: a node dies and returns, a file is edited, instances come and go.

use anyhow::ensure;
use mesh_integration::{BOUND, Load, Mesh, agent_binary, http_get, until};
use std::{net::SocketAddr, time::Duration};

/// A dead node's instances must be gone everywhere within this.
const GONE_WITHIN: Duration = Duration::from_secs(15);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_node_leaves_and_returns_with_the_same_vips() {
    let mut mesh = Mesh::of(3).start(agent_binary!()).await.unwrap();
    mesh.until_ready().await;
    let instances = mesh.layout.services[0].instances.clone();
    let own = |node: &str| {
        instances.iter().filter(|i| i.node == node).map(|i| i.address.to_string()).collect::<Vec<_>>()
    };
    let (nodes, before) = (mesh.nodes(), own("node-1"));
    for node in &nodes {
        until("all instances are known", BOUND, || async {
            let found = node.lookup("tasks.whoami.cluster").await?;
            ensure!(found.len() == instances.len(), "{found:?}");
            anyhow::Ok(())
        })
        .await;
    }
    let vip = nodes[2].lookup("whoami.cluster").await.unwrap();

    mesh.crash(1).await.unwrap();
    for node in &nodes[1..] {
        until("the dead node's instances left DNS and balancing", GONE_WITHIN, || async {
            let found = node.lookup("tasks.whoami.cluster").await?;
            ensure!(before.iter().all(|gone| !found.contains(gone)), "still {found:?}");
            for _ in 0..6 {
                let who = node.whoami(8080).await?;
                ensure!(who.node != "node-1", "still balanced to {}", who.instance);
            }
            anyhow::Ok(())
        })
        .await;
    }

    let log = mesh.log(2).unwrap();
    let told = |line: &str| line.contains("node=node-1") && line.contains("state=down");
    assert!(log.lines().any(told), "the log of node-2 does not tell of the death: {log}");

    mesh.start_agent(1).unwrap();
    for node in &nodes {
        until("the node's instances are back", BOUND, || async {
            let found = node.lookup("tasks.whoami.cluster").await?;
            ensure!(found.len() == instances.len(), "{found:?}");
            anyhow::Ok(())
        })
        .await;
        assert_eq!(node.lookup("whoami.cluster").await.unwrap(), vip, "the VIP stayed");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edited_file_moves_published_ports_under_load_without_a_failed_request() {
    let mesh = Mesh::of(3).start(agent_binary!()).await.unwrap();
    mesh.until_ready().await;
    let loads: Vec<Load> = mesh.nodes().iter().map(|n| Load::on((n.place.address, 8080).into())).collect();
    until("every node answers on 8080", BOUND, || async {
        for node in mesh.nodes() {
            node.whoami(8080).await?;
        }
        anyhow::Ok(())
    })
    .await;
    // The first requests may have come before the port was there; from here on none may fail.
    let early: Vec<usize> = loads.iter().map(|l| l.seen().failed.len()).collect();
    let text = mesh.layout.service_yaml();
    for (added, round) in [(8090, 1), (8091, 2), (8092, 3)] {
        let wanted = format!("      - \"8080:8000/tcp\"\n      - \"{added}:8001-8001/tcp\"\n");
        let edited = text.replace("      - \"8080:8000/tcp\"\n", &wanted).replace(":8001-8001", ":8001");
        mesh.edit_services(&edited).unwrap();
        for node in mesh.nodes() {
            let at: SocketAddr = (node.place.address, added).into();
            until(&format!("round {round}: {at} is open"), BOUND, || async {
                tokio::net::TcpStream::connect(at).await.map(drop)
            })
            .await;
        }
        for load in &loads {
            load.answers(20).await;
        }
    }
    mesh.edit_services(&text).unwrap();
    for node in mesh.nodes() {
        let at: SocketAddr = (node.place.address, 8092).into();
        until(&format!("{at} is closed again"), BOUND, || async {
            match tokio::net::TcpStream::connect(at).await {
                Ok(_) => Err("still open"),
                Err(_) => Ok(()),
            }
        })
        .await;
    }
    for (load, early) in loads.into_iter().zip(early) {
        load.answers(20).await;
        let seen = load.stop();
        assert_eq!(seen.failed.len(), early, "failed on the port that stayed: {:?}", seen.failed);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scaling_down_and_up_under_load_fails_no_request() {
    let mesh = Mesh::of(3).start(agent_binary!()).await.unwrap();
    mesh.until_ready().await;
    let node = mesh.node(3);
    let instances = mesh.layout.services[0].instances.clone();
    let all_known = |count: usize| {
        let node = node.clone();
        async move {
            until(&format!("{count} instances are known"), BOUND, || async {
                let found = node.lookup("tasks.whoami.cluster").await?;
                ensure!(found.len() == count, "{found:?}");
                anyhow::Ok(())
            })
            .await;
        }
    };
    all_known(instances.len()).await;
    until("the port answers", BOUND, || node.whoami(8080)).await;
    let load = Load::on((node.place.address, 8080).into());
    load.answers(20).await;

    let gone = &instances[0];
    let whole = mesh.layout.service_yaml();
    let line = format!("        - {{name: {}, address: {}, node: {}}}\n", gone.name, gone.address, gone.node);
    assert!(whole.contains(&line));
    mesh.edit_services(&whole.replace(&line, "")).unwrap();
    all_known(instances.len() - 1).await;
    load.answers(30).await;
    mesh.edit_services(&whole).unwrap();
    all_known(instances.len()).await;
    let before = load.seen().by_instance.get(&gone.name).copied().unwrap_or(0);
    until("the instance takes traffic again", BOUND, || async {
        let now = load.seen().by_instance.get(&gone.name).copied().unwrap_or(0);
        ensure!(now > before, "{now} answers, as before");
        anyhow::Ok(())
    })
    .await;
    let seen = load.stop();
    assert!(seen.failed.is_empty(), "{:?}", seen.failed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_fails_its_check_leaves_dns_and_balancing_on_all_nodes() {
    let text = "services:\n  web:\n    ports: [\"8085:8000\"]\n    x-mesh:\n      health: {http: {port: 8000, path: /}, interval: 200ms, timeout: 500ms, rise: 1, fall: 2}\n      endpoints:\n        - {name: web-1, address: ADDRESS, node: node-1}\n";
    let mut mesh = Mesh::of(2).start(agent_binary!()).await.unwrap();
    mesh.until_ready().await;
    let at: SocketAddr = (mesh.net.address(1, 77), 8000).into();
    let who = mesh_agent::demo::whoami::Identity {
        service: "web".into(),
        instance: "web-1".into(),
        node: "node-1".into(),
    };
    let instance = mesh.instances.add(who.clone(), "tcp", at).await.unwrap();
    mesh.edit_services(&text.replace("ADDRESS", &at.ip().to_string())).unwrap();
    let nodes = mesh.nodes();
    for node in &nodes {
        until("the healthy instance is balanced to", BOUND, || node.whoami(8085)).await;
    }
    instance.abort();
    for node in &nodes {
        until("the failed instance left", BOUND, || async {
            let found = node.lookup("tasks.web.cluster").await?;
            ensure!(found.is_empty(), "{found:?}");
            anyhow::Ok(())
        })
        .await;
        let nodata = node.dig("tasks.web.cluster", "A", &[]).await.unwrap();
        assert_eq!(nodata.status, "NOERROR", "no ready endpoint is NODATA");
        assert!(http_get((node.place.address, 8085).into(), "/").await.is_err(), "an empty service rejects");
    }
    let _back = until("its address is free again", BOUND, || async {
        let mut instances = mesh_agent::demo::instances::Instances::default();
        instances.add(who.clone(), "tcp", at).await.map(|_| instances)
    })
    .await;
    for node in &nodes {
        until("it returns", BOUND, || node.whoami(8085)).await;
    }
}
