//! The binary against a served fake.

use crate::{
    cli::{Ran, run},
    world::World,
};
use mesh_agent::config::Secret;
use serde_json::json;
use std::{fs, process::Stdio};

impl World {
    pub(crate) async fn cli(&self, args: &str) -> Ran {
        self.cli_with(args, "").await
    }

    async fn cli_with(&self, args: &str, input: &str) -> Ran {
        let admin = format!("unix:{}", self.socket().display());
        let mut list: Vec<&str> = args.split_whitespace().collect();
        list.extend(["--admin", &admin]);
        run(&list, input).await
    }

    pub(crate) async fn good(&self, args: &str) -> String {
        let ran = self.cli(args).await;
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{args}: {ran:?}");
        assert!(!ran.out.contains('\x1b'), "no colour on a pipe: {}", ran.out);
        ran.out
    }
}

/// The words of the line that begins with `first`.
pub(crate) fn line<'a>(text: &'a str, first: &str) -> Vec<&'a str> {
    let found = text.lines().find(|l| l.split_whitespace().next() == Some(first));
    found.unwrap_or_else(|| panic!("no line of {first} in\n{text}")).split_whitespace().collect()
}

#[tokio::test]
async fn tables_show_what_there_is() {
    let world = World::start().await;
    let services = world.good("service ls").await;
    let web = line(&services, "web");
    assert_eq!(web[..6], ["web", "127.96.0.7", "80->8000/tcp", "published", "8080", "1/2"], "{services}");
    let column = |l: &str| l.find("127.96.0.7").or_else(|| l.find("VIP"));
    let columns: Vec<_> = services.lines().map(column).collect();
    assert!(columns.iter().all(|c| *c == columns[0] && c.is_some()), "{services}");

    let endpoints = world.good("endpoint ls").await;
    assert_eq!(line(&endpoints, "web")[1..7], ["web-1", "n1", "10.0.0.1", "ready", "100", "5"]);
    assert_eq!(world.good("endpoint ls cart.shop").await.lines().count(), 1, "only the heads");
    let nodes = world.good("nodes").await;
    assert_eq!(line(&nodes, "n1").last(), Some(&"asked"));
    assert!(line(&nodes, "n1").contains(&"10.128.7.0/24"), "{nodes}");
    assert_eq!(line(&nodes, "n3")[1], "down");
    assert_eq!(nodes, world.good("nodes ls").await);
    let inspect = world.good("service inspect web").await;
    for part in ["scheduler     rr", "declared by   cluster, node:n1", "web-2", "draining", "200 OK"] {
        assert!(inspect.contains(part), "{part} is not in\n{inspect}");
    }
    let dns = world.good("dns query web.cluster").await;
    assert_eq!(line(&dns, "web.cluster"), ["web.cluster", "5", "A", "127.96.0.7"]);
    assert!(world.good("dns query web.cluster --type aaaa").await.contains("has no AAAA"));
    let why = world.good("why 127.96.0.7:80 --from 192.0.2.1").await;
    assert_eq!(line(&why, "web-1@n1"), ["web-1@n1", "10.0.0.1:8000", "100.0%", "-"]);
    assert!(why.contains("listener 127.96.0.7:80"), "{why}");
    assert_eq!(line(&world.good("plan").await, "remove-frontend")[1], "127.96.0.7:80/tcp");
    assert_eq!(line(&world.good("status").await, "services"), ["services", "2"]);
}

#[tokio::test]
async fn json_is_what_the_api_says() {
    let world = World::start().await;
    for (args, path) in [
        ("service ls", "/v1/services"),
        ("service inspect web", "/v1/services/web"),
        ("endpoint ls web", "/v1/endpoints?service=web"),
        ("nodes", "/v1/nodes"),
        ("dns query web.cluster", "/v1/dns?name=web.cluster"),
        ("why 127.96.0.7:80", "/v1/explain?destination=127.96.0.7:80"),
        ("plan", "/v1/plan"),
    ] {
        let ran = world.cli(&format!("{args} --json")).await;
        assert_eq!(ran.code, 0, "{ran:?}");
        assert_eq!(ran.json(), world.get(path).await.json(), "{args}");
    }
    assert_eq!(world.cli("status --json").await.json()["node"], "n1");
    assert_eq!(world.cli("service rm web --json").await.json(), json!({"done": "service web is withdrawn"}));
}

#[tokio::test]
async fn writes_reach_the_agent() {
    let world = World::start().await;
    for (args, logged) in [
        ("service publish web 8080", "publish web Some(8080) None tcp Ingress"),
        ("service publish web auto:80/udp --mode host", "publish web None Some(80) udp Host"),
        ("service unpublish web 8080/udp", "unpublish web 8080/udp"),
        ("service rm web", "remove web"),
        (
            "endpoint add web w9 192.0.2.9 2001:db8::9 --port 80:81 --weight 7",
            "add web w9 192.0.2.9,2001:db8::9 {80: 81} 7",
        ),
        ("endpoint rm web w9", "rm web w9"),
        ("endpoint drain web web-1", "drain web web-1 Start(None)"),
        ("endpoint drain web web-1 --deadline 90s", "drain web web-1 Start(Some(90s))"),
        ("endpoint drain web web-1 --undo", "drain web web-1 Undo"),
        ("nodes drain n1", "drain node true"),
        ("nodes forget n2", "forget node n2"),
        ("nodes undrain n1", "drain node false"),
    ] {
        world.good(args).await;
        assert_eq!(world.fake.log().last().unwrap(), logged, "{args}");
    }
    let file = world.dir.path().join("web.yaml");
    fs::write(&file, "services: {}").unwrap();
    let out = world.good(&format!("service apply -f {}", file.display())).await;
    assert_eq!(
        (out.as_str(), world.fake.log().pop().unwrap().as_str()),
        ("service web is declared\n", "apply 12 dry_run=false")
    );
    let ran = world.cli_with("service apply -f - --dry-run", "services: {}").await;
    assert_eq!((ran.code, ran.out.as_str()), (0, "service web is right\n"), "{ran:?}");
}

#[tokio::test]
async fn failures_have_their_exit_codes() {
    let world = World::start().await;
    for (args, input, code, says) in [
        ("service inspect none", "", 2, "there is no service `none`"),
        ("service rm none", "", 2, "no service"),
        ("endpoint ls none", "", 2, "no service"),
        ("nodes drain n9", "", 2, "no node"),
        ("nodes forget n9", "", 2, "no node"),
        ("nodes drain n2", "", 1, "ask the agent on n2"),
        ("service rm cart.shop", "", 1, "edit its file"),
        ("service inspect a.b.c", "", 65, "name: "),
        ("service apply -f -", "bad", 65, "line 2: worse"),
        ("dns query none.cluster", "", 2, "NXDOMAIN"),
        ("why 10.0.0.9:1", "", 2, "nothing of the mesh listens on 10.0.0.9:1/tcp"),
    ] {
        let ran = world.cli_with(args, input).await;
        assert_eq!((ran.code, ran.out.as_str()), (code, ""), "{args}: {ran:?}");
        assert!(ran.err.contains(says), "{args}: {}", ran.err);
    }
    let large = " ".repeat((1 << 20) + 1);
    let ran = world.cli_with("service apply -f -", &large).await;
    assert!(ran.code == 65 && ran.err.contains("larger than 1048576 bytes"), "{ran:?}");
}

#[tokio::test]
async fn status_waits_until_ready() {
    let world = World::start().await;
    world.fake.turn(|k| k.synced = false);
    let ran = world.cli("status").await;
    assert!(ran.code == 1 && ran.out.contains("waits: source file"), "{ran:?}");
    let ran = world.cli("status --wait=300ms").await;
    assert!(ran.code == 75 && ran.err.contains("source file has not told everything yet"), "{ran:?}");
    let fake = world.fake.clone();
    let (ran, ()) = tokio::join!(world.cli("status --wait"), async {
        fake.turn(|k| k.synced = true);
    });
    assert_eq!(ran.code, 0, "{ran:?}");
}

#[tokio::test]
async fn a_drain_is_watched_to_its_end() {
    let world = World::start().await;
    world.fake.turn(|k| {
        k.counters.backends.remove(2);
        k.ending = 2;
    });
    let out = world.good("endpoint drain web web-1 --wait").await;
    let left: Vec<_> = out.lines().filter(|l| l.contains("connections left")).collect();
    assert_eq!(left, ["3 connections left through n1", "1 connections left through n1"], "{out}");
    assert!(out.ends_with("endpoint web-1 of web is drained on n1\n"), "{out}");
    // Flows that never end.
    world.fake.turn(|k| {
        k.counters.backends[0].active = 4;
        k.ending = 0;
    });
    let ran = world.cli("endpoint drain web web-1 --wait=300ms").await;
    assert!(ran.code == 75 && ran.err.contains("4 connections are left through n1"), "{ran:?}");
}

#[tokio::test]
async fn tcp_and_tokens_work() {
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    fs::write(&token, "0123456789abcdef").unwrap();
    let world = World::with(|c| c.tcp.as_mut().unwrap().token = Some(Secret::new("0123456789abcdef"))).await;
    let admin = format!("http://{}", world.admin.tcp().unwrap());
    let ran = run(&["status", "--admin", &admin], "").await;
    assert!(ran.code == 77 && ran.err.contains("--token-file"), "{ran:?}");
    let token = token.to_str().unwrap();
    assert_eq!(run(&["status", "--admin", &admin, "--token-file", token], "").await.code, 0);
}

#[tokio::test]
async fn a_closed_stdout_ends_quietly() {
    let world = World::start().await;
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_mesh-agent"))
        .args(["service", "ls", "--json"])
        .env("MESH_ADMIN", world.socket())
        .stdout(writer)
        .stderr(Stdio::piped())
        .output()
        .await
        .unwrap();
    assert_eq!((output.status.code(), String::from_utf8(output.stderr).unwrap().as_str()), (Some(0), ""));
}
