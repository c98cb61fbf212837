//! Logs are for machines too: both forms parse line by line, and none holds a key or a token.
#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test fails the test by panicking, as the test itself does"
)]

use mesh_integration::{BOUND, Mesh, agent_binary, ran, until};
use std::collections::BTreeMap;

const TOKEN: &str = "a-token-that-no-log-may-hold";

/// Much to log, in either form, and an API over TCP behind a token.
fn chatty(place: &mesh_agent::demo::layout::Node, text: &str) -> String {
    let form = if place.name == "node-1" { "json" } else { "logfmt" };
    let token = place.config.with_file_name("token");
    std::fs::write(&token, format!("{TOKEN}\n")).unwrap();
    let socket = format!("admin: {{socket: {}}}", place.socket.display());
    let with_tcp = format!(
        "admin: {{socket: {}, listen: \"{}:9481\", token_file: {}}}",
        place.socket.display(),
        place.address,
        token.display()
    );
    assert!(text.contains(&socket));
    let changed = text.replace(&socket, &with_tcp);
    changed.replace("log: {format: logfmt, level: info}", &format!("log: {{format: {form}, level: trace}}"))
}

/// `key=value` pairs; a value with anything unusual in it stands in quotes with backslashes.
fn logfmt(line: &str) -> Result<BTreeMap<String, String>, String> {
    let mut pairs = BTreeMap::new();
    let mut rest = line;
    while !rest.is_empty() {
        let (key, tail) = rest.split_once('=').ok_or_else(|| format!("no `=` in {rest:?}"))?;
        if key.is_empty() || key.contains(|c: char| c.is_whitespace() || c == '"') {
            return Err(format!("odd key {key:?}"));
        }
        let mut value = String::new();
        rest = if let Some(quoted) = tail.strip_prefix('"') {
            let mut letters = quoted.char_indices();
            loop {
                match letters.next() {
                    Some((_, '\\')) => value.extend(letters.next().map(|(_, c)| c)),
                    Some((end, '"')) => break &quoted[end + 1..],
                    Some((_, c)) => value.push(c),
                    None => return Err(format!("no closing quote in {quoted:?}")),
                }
            }
        } else {
            let end = tail.find(' ').unwrap_or(tail.len());
            if tail[..end].contains(['"', '=']) {
                return Err(format!("unquoted {:?}", &tail[..end]));
            }
            value.push_str(&tail[..end]);
            &tail[end..]
        };
        pairs.insert(key.to_owned(), value);
        rest = rest.strip_prefix(' ').unwrap_or(rest);
    }
    Ok(pairs)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_parse_and_hold_no_secret() {
    let mut mesh = Mesh::of(2).configured(chatty).start(agent_binary!()).await.unwrap();
    mesh.keep_secret(TOKEN);
    mesh.until_ready().await;
    let token = mesh.node(1).place.config.with_file_name("token");
    let token = token.to_string_lossy().into_owned();
    for i in 1..=2 {
        let api = format!("http://{}:9481", mesh.node(i).place.address);
        let status = ["--admin", &api, "status"];
        ran(agent_binary!(), &status, "").await.unwrap().code(77).unwrap();
        let told = [&status[..], &["--token-file", &token]].concat();
        ran(agent_binary!(), &told, "").await.unwrap().code(0).unwrap();
        let (_, metrics) = mesh.node(i).metrics("/metrics").await.unwrap();
        assert!(!metrics.contains(TOKEN));
    }
    // Names that would break a line's form, and a log that tells of them.
    let odd = "services:\n  \"we \\\"b = c\\n\": {}\n";
    mesh.write_service_file("odd \"name\" = x.yaml", odd).unwrap();
    for i in 1..=2 {
        until("the refusal is logged", BOUND, || async {
            let log = mesh.log(i)?;
            anyhow::ensure!(log.contains("file is refused"), "{} bytes of log", log.len());
            anyhow::Ok(())
        })
        .await;
    }
    mesh.stop(1).await;
    mesh.stop(2).await;
    for line in mesh.log(1).unwrap().lines() {
        let value: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        assert!(value["level"].is_string() && value["message"].is_string(), "{line}");
    }
    for line in mesh.log(2).unwrap().lines() {
        let pairs = logfmt(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        assert!(["ts", "level", "target", "message"].iter().all(|k| pairs.contains_key(*k)), "{line}");
    }
    for i in 1..=2 {
        let lines = mesh.log(i).unwrap().lines().count();
        assert!(lines > 8, "only {lines} lines: {}", mesh.log(i).unwrap());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_metric_is_well_formed_and_documented() {
    let mesh = Mesh::of(2).start(agent_binary!()).await.unwrap();
    mesh.until_ready().await;
    let node = mesh.node(1);
    until("traffic was counted", BOUND, || async {
        node.whoami(8080).await?;
        node.lookup("whoami.cluster").await?;
        let (_, text) = node.metrics("/metrics").await?;
        for wanted in [
            "mesh_dns_requests_total{",
            "mesh_dns_responses_total{rcode=\"NOERROR\"}",
            "mesh_dns_request_duration_seconds_bucket{",
            "mesh_backend_connections_total{",
            "mesh_backend_bytes_total{",
            "mesh_build_info{",
            "mesh_gossip_members{",
            "mesh_sync_duration_seconds_bucket{",
            "mesh_snapshot_revision ",
        ] {
            anyhow::ensure!(text.lines().any(|l| l.starts_with(wanted)), "no {wanted}: {text}");
        }
        anyhow::Ok(())
    })
    .await;
    let (_, text) = node.metrics("/metrics").await.unwrap();
    let documented = include_str!("../../docs/api.md");
    for line in text.lines().filter_map(|l| l.strip_prefix("# TYPE mesh_")) {
        let name = format!("`mesh_{}`", line.split(' ').next().unwrap());
        assert!(documented.contains(&name), "docs/api.md does not name {name}");
    }
    // What Prometheus' own linter says, where it is installed.
    let mut lint = std::process::Command::new("promtool");
    lint.args(["check", "metrics"]).stdin(std::process::Stdio::piped());
    if let Ok(mut child) = lint.spawn() {
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), text.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success(), "promtool finds fault with {text}");
    } else {
        eprintln!("promtool is not installed: names were not linted");
    }
}
