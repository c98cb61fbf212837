//! The cluster key is rotated under load; who has only the old one stays outside, who has a token gets in.

use anyhow::ensure;
use mesh_integration::{BOUND, Load, Mesh, agent_binary, ran, until};
use serde_json::Value;

/// The listed keys as node `i` sees them.
async fn keys(mesh: &Mesh, i: usize) -> anyhow::Result<Vec<Value>> {
    let (status, body) = mesh.node(i).admin("/v1/keys").await?;
    ensure!(status == 200, "{status}: {body}");
    Ok(body["keys"].as_array().cloned().unwrap_or_default())
}

fn count(list: &Value) -> usize {
    list.as_array().map_or(0, Vec::len)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_fails_no_connection_and_a_token_lets_a_new_node_in() {
    let mut mesh = Mesh::of(3).start(agent_binary!()).await.unwrap();
    mesh.until_ready().await;
    for node in mesh.nodes() {
        until("whoami answers", BOUND, || node.whoami(8080)).await;
    }
    let old = keys(&mesh, 1).await.unwrap()[0]["id"].as_str().unwrap().to_owned();
    let loads: Vec<Load> =
        mesh.nodes().iter().map(|node| Load::on((node.place.address, 8080).into())).collect();

    let made =
        mesh.cli(1, &["key", "add", "--generate", "--json"]).await.unwrap().code(0).unwrap().json().unwrap();
    let new = made["id"].as_str().unwrap().to_owned();
    mesh.keep_secret(made["key"].as_str().unwrap());
    // Until all hold it the agent itself refuses, so this waits as a script would.
    until("the new key is in use", BOUND, || async { mesh.cli(2, &["key", "use", &new]).await?.code(0) })
        .await;
    for load in &loads {
        load.answers(20).await;
    }
    until("the old key is removed", BOUND, || async {
        mesh.cli(3, &["key", "remove", &old[..8]]).await?.code(0)
    })
    .await;
    for i in 1..=3 {
        until("one key is left, and all use it", BOUND, || async {
            let list = keys(&mesh, i).await?;
            let live: Vec<&Value> = list.iter().filter(|k| k["removed"] == false).collect();
            ensure!(live.len() == 1 && live[0]["id"] == new.as_str(), "{list:?}");
            ensure!(count(&live[0]["held_by"]) == 3 && count(&live[0]["seals_for"]) == 3, "{list:?}");
            anyhow::Ok(())
        })
        .await;
        let (_, status) = mesh.node(i).admin("/v1/status").await.unwrap();
        assert_eq!(count(&status["warnings"]), 2, "the configuration is behind: {status}");
    }
    for load in loads {
        load.answers(20).await;
        let seen = load.stop();
        assert!(seen.failed.is_empty(), "{:?}", seen.failed);
    }
    for i in 1..=3 {
        assert!(!mesh.log(i).unwrap().contains("state=down"), "{}", mesh.log(i).unwrap());
        let (_, metrics) = mesh.node(i).metrics("/metrics").await.unwrap();
        let refused =
            metrics.lines().find(|l| l.starts_with("mesh_gossip_refused_total{reason=\"unknown key\"}"));
        assert_eq!(refused, None, "a datagram was lost to the rotation");
    }

    // Node 3 kept no state, and its configuration knows the removed key only.
    mesh.stop(3).await;
    mesh.start_agent(3).unwrap();
    until("node 3 says why it cannot join", BOUND, || async {
        let log = mesh.log(3)?;
        ensure!(log.contains("missed a rotation") && log.contains(&old), "{log}");
        anyhow::Ok(())
    })
    .await;
    // It says so as soon as it knows, which can be before its socket is there.
    let status =
        until("node 3 answers", BOUND, || async { anyhow::Ok(mesh.node(3).admin("/v1/status").await?.1) })
            .await;
    assert_eq!((&status["joined"], &status["control"]["members_up"]), (&false.into(), &0.into()), "{status}");
    let (_, nodes) = mesh.node(1).admin("/v1/nodes").await.unwrap();
    let third = nodes["nodes"].as_array().unwrap().iter().find(|n| n["name"] == "node-3").unwrap();
    assert_eq!(third["state"], "left", "{nodes}");
    mesh.stop(3).await;

    let token = mesh.cli(1, &["token", "create", "--expires", "1h"]).await.unwrap().code(0).unwrap().out;
    mesh.keep_secret(token.trim());
    let config = mesh.layout.nodes[2].config.clone();
    let folder = config.with_file_name("joined");
    let join = ["token", "join", "-", "--dir", folder.to_str().unwrap()];
    ran(agent_binary!(), &join, &token).await.unwrap().code(0).unwrap();
    let text = std::fs::read_to_string(&config).unwrap();
    let keys_line = text.lines().find(|l| l.trim_start().starts_with("keys:")).unwrap();
    let key_file = format!("  key_file: {}", folder.join("cluster.key").display());
    std::fs::write(&config, text.replace(keys_line, &key_file)).unwrap();
    mesh.start_agent(3).unwrap();
    mesh.until_ready().await;
    let node = mesh.node(3);
    until("node 3 serves again", BOUND, || node.whoami(8080)).await;
}
