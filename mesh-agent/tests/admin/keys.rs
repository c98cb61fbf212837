//! Keys and join tokens: the API, the command line, and who may.

use crate::{
    cli::{Ran, run},
    fake::cluster_keys,
    world::{World, ask},
};
use mesh_control::JoinToken;
use serde_json::json;
use std::fs;

async fn cli(world: &World, args: &[&str], input: &str) -> Ran {
    let admin = format!("unix:{}", world.socket().display());
    run(&[args, &["--admin", &admin]].concat(), input).await
}

#[tokio::test]
async fn keys_are_listed_by_id_and_changed_by_its_beginning() {
    let world = World::start().await;
    let [new, old, gone] = cluster_keys();
    let table = cli(&world, &["key", "ls"], "").await;
    let rows: Vec<Vec<&str>> = table.out.lines().map(|l| l.split_whitespace().collect()).collect();
    let (new_id, old_id, gone_id) = (new.id().to_string(), old.id().to_string(), gone.id().to_string());
    assert_eq!(rows[1], [new_id.as_str(), "yes", "2/2", "nodes", "2", "no"], "{table:?}");
    assert_eq!(rows[2], [old_id.as_str(), "no", "1/2", "nodes", "0", "yes"]);
    assert_eq!(rows[3], [gone_id.as_str(), "no", "removed", "0", "yes"]);
    assert!(
        table.out.contains(&format!("lacks key {new_id}"))
            && table.out.contains(&format!("lists key {gone_id}"))
    );
    assert!(cli(&world, &["status"], "").await.out.contains(&format!("lacks key {new_id}")));
    assert_eq!(cli(&world, &["key", "ls", "--json"], "").await.json()["keys"][1]["held_by"], json!(["n1"]));

    let refused = cli(&world, &["key", "use", &old_id[..8]], "").await;
    assert_eq!((refused.code, refused.err.contains("n2 lacks it")), (1, true), "{refused:?}");
    assert_eq!(cli(&world, &["key", "use", &old_id[..8], "--force"], "").await.code, 0);
    assert_eq!(cli(&world, &["key", "remove", &old_id.to_uppercase()], "").await.code, 0);
    for (id, code) in [("ffffffffffff", 2), (gone_id.as_str(), 2), ("abc", 65), ("xyzw", 65)] {
        assert_eq!(cli(&world, &["key", "remove", id], "").await.code, code, "{id}");
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("new.key");
    fs::write(&file, format!("# a note\n{}\n", old.expose())).unwrap();
    assert_eq!(cli(&world, &["key", "add", file.to_str().unwrap()], "").await.code, 0);
    assert_eq!(cli(&world, &["key", "add", "-"], &format!("{}\n", old.expose())).await.code, 0);
    for (args, input, code) in [
        (vec!["key", "add"], "", 64),
        (vec!["key", "add", "-", "--generate"], "", 64),
        (vec!["key", "add", "-"], "", 65),
        (vec!["key", "add", "-"], "short", 65),
        (vec!["key", "add", "/nonexistent"], "", 66),
    ] {
        assert_eq!(cli(&world, &args, input).await.code, code, "{args:?}");
    }
    let made = cli(&world, &["key", "add", "--generate"], "").await;
    let key: mesh_control::ClusterKey = made.out.lines().nth(1).unwrap().parse().unwrap();
    assert!(made.out.starts_with("# key "), "a good key file: {}", made.out);
    let log = world.fake.log();
    let want = [
        format!("Use {{ id: {old_id}, force: true }}"),
        format!("Remove {{ id: {old_id}, force: false }}"),
        format!("Add(ClusterKey({old_id}))"),
        format!("Add(ClusterKey({old_id}))"),
        format!("Add(ClusterKey({}))", key.id()),
    ];
    assert_eq!(log, want);
}

#[tokio::test]
async fn a_token_goes_from_an_agent_to_the_files_of_a_new_node() {
    let world = World::start().await;
    let [new, ..] = cluster_keys();
    let seed = ["--seed", "192.0.2.7:7946", "--seed", "[fd00::1]:7946"];
    let made = cli(&world, &[&["token", "create", "--expires", "1h"], &seed[..]].concat(), "").await;
    assert_eq!((made.code, made.err.as_str(), made.out.lines().count()), (0, "", 1), "{made:?}");
    let token = JoinToken::decode(&made.out).unwrap();
    assert_eq!(
        (&token.keys[0], token.seeds.as_slice()),
        (&new, &[seed[1].to_owned(), seed[3].to_owned()][..])
    );

    let shown = run(&["token", "show", made.out.trim()], "").await;
    assert!(shown.out.contains("192.0.2.7:7946") && shown.out.contains("expires  in "), "{shown:?}");
    assert!(shown.out.contains(&new.id().to_string()) && !shown.out.contains(&new.expose()));
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().to_str().unwrap();
    let joined = run(&["token", "join", "-", "--dir", dir], &made.out).await;
    assert_eq!((joined.code, joined.out.contains("next: mesh-agent run --config")), (0, true), "{joined:?}");
    let config = folder.path().join("config.yaml");
    assert_eq!(run(&["config", "check", config.to_str().unwrap()], "").await.code, 0);
    let again = run(&["token", "join", made.out.trim(), "--dir", dir], "").await;
    assert_eq!((again.code, again.err.contains("cluster.key exists")), (1, true), "{again:?}");

    let text = made.out.trim();
    for bad in [&text[..text.len() - 1], "mesh2_abc", "hello", ""] {
        let refused = run(&["token", "show", bad], "").await;
        assert_eq!((refused.code, refused.out.as_str()), (65, ""), "{bad}: {refused:?}");
    }
    for body in
        [json!({"seeds": ["nowhere"]}), json!({"expires_seconds": 0}), json!({"seeds": vec!["a:1"; 17]})]
    {
        assert_eq!(world.send("POST", "/v1/tokens", &body.to_string()).await.status, 400, "{body}");
    }
}

#[tokio::test]
async fn whoever_only_reaches_the_port_gets_no_key_in_and_none_out() {
    let world = World::start().await;
    let [new, ..] = cluster_keys();
    let (add, id) = (json!({"key": new.expose()}).to_string(), new.id());
    for (method, path, body) in [
        ("POST", "/v1/tokens".to_owned(), ""),
        ("POST", "/v1/keys".to_owned(), add.as_str()),
        ("POST", format!("/v1/keys/{id}/use"), ""),
        ("DELETE", format!("/v1/keys/{id}"), ""),
    ] {
        let heard = ask(world.tcp().await, method, &path, "", body).await;
        assert_eq!(heard.status, 403, "{path}: {heard:?}");
        assert!(!heard.body.contains(&new.expose()));
    }
    assert_eq!(ask(world.tcp().await, "GET", "/v1/keys", "", "").await.status, 200);
    assert!(world.fake.log().is_empty());
    let proven = World::with(|config| {
        if let Some(tcp) = &mut config.tcp {
            tcp.token = Some(mesh_agent::config::Secret::new("0123456789abcdef"));
        }
    })
    .await;
    let header = "Authorization: Bearer 0123456789abcdef\r\n";
    assert_eq!(ask(proven.tcp().await, "POST", "/v1/tokens", header, "").await.status, 200);
    assert_eq!(ask(proven.tcp().await, "POST", "/v1/tokens", "", "").await.status, 401);
}
