//! What `mesh-agent events --follow` tells of a mesh: a service is declared, a node dies and returns, the agent stops.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on must stop, also outside the test function")]

use anyhow::ensure;
use mesh_integration::{BOUND, Mesh, agent_binary, until};
use serde_json::Value;
use std::{process::Stdio, time::Duration};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines},
    process::{Child, ChildStderr, ChildStdout, Command},
    time::timeout,
};

/// `mesh-agent events --follow --json` at node `i`; killed when dropped.
struct Following {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    stderr: ChildStderr,
    /// What came so far, for whoever waits in vain.
    seen: Vec<String>,
}

impl Following {
    fn start(mesh: &Mesh, i: usize) -> Following {
        let socket = format!("unix:{}", mesh.layout.nodes[i - 1].socket.display());
        let mut child = Command::new(agent_binary!())
            .args(["events", "--follow", "--since", "0", "--json", "--admin", &socket])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let stderr = child.stderr.take().unwrap();
        Following { child, lines, stderr, seen: Vec::new() }
    }

    async fn line(&mut self) -> Option<Value> {
        let line = timeout(BOUND, self.lines.next_line()).await;
        let line = line.unwrap_or_else(|_| panic!("nothing more came after {:#?}", self.seen)).unwrap()?;
        let event: Value = serde_json::from_str(&line).unwrap();
        self.seen.push(line);
        Some(event)
    }

    /// Reads on until such an event; its text.
    async fn until(&mut self, kind: &str, subject: &str) -> String {
        loop {
            let event =
                self.line().await.unwrap_or_else(|| panic!("it ended before {kind}: {:#?}", self.seen));
            if event["kind"] == kind && event["subject"] == subject {
                return event["text"].as_str().unwrap().to_owned();
            }
        }
    }

    /// Reads on until there was each of these, in any order.
    async fn until_all(&mut self, wanted: &[(&str, &str)]) {
        let mut missing = wanted.to_vec();
        while !missing.is_empty() {
            let event = self.line().await.unwrap_or_else(|| panic!("ended before {missing:?}"));
            missing.retain(|(kind, subject)| event["kind"] != *kind || event["subject"] != *subject);
        }
    }
}

const DECLARED: &str = "services:\n  extra:\n    ports: [\"8095:8000\"]\n    x-mesh:\n      endpoints:\n        - {name: extra-1, address: ADDRESS, node: node-2}\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_hears_of_services_deaths_and_returns_in_order() {
    let mut mesh = Mesh::of(3).start(agent_binary!()).await.unwrap();
    mesh.until_ready().await;
    let mut following = Following::start(&mesh, 1);
    let hello = following.line().await.unwrap();
    assert_eq!((&hello["seq"], &hello["kind"]), (&1.into(), &"agent-started".into()), "{hello}");
    let start = [
        ("node-up", "node-2"),
        ("node-up", "node-3"),
        ("service-declared", "whoami"),
        ("vip-claimed", "whoami"),
    ];
    following.until_all(&start).await;
    let vip = mesh.node(1).lookup("whoami.cluster").await.unwrap();
    let claimed = |line: &&String| line.contains("vip-claimed") && line.contains(&vip[0]);
    assert_eq!(following.seen.iter().filter(claimed).count(), 1, "{vip:?}: {:#?}", following.seen);

    let address = mesh.net.address(2, 77).to_string();
    mesh.write_service_file("extra.yaml", &DECLARED.replace("ADDRESS", &address)).unwrap();
    let text = following.until("service-declared", "extra").await;
    assert!(text.contains("published 8095"), "{text}");
    following.until("vip-claimed", "extra").await;
    until("node 1 knows the instance on node 2", BOUND, || async {
        let found = mesh.node(1).lookup("tasks.extra.cluster").await?;
        ensure!(found == [address.clone()], "{found:?}");
        anyhow::Ok(())
    })
    .await;

    mesh.crash(2).await.unwrap();
    following.until("node-down", "node-2").await;
    let text = following.until("endpoints-hidden", "extra").await;
    assert!(text.starts_with("extra-1@node-2"), "{text}");
    mesh.start_agent(2).unwrap();
    following.until("node-returned", "node-2").await;
    let text = following.until("endpoints-shown", "extra").await;
    assert!(text.starts_with("extra-1@node-2"), "{text}");

    mesh.write_service_file("extra.yaml", "services: [\n").unwrap();
    following.until("source-error", "file").await;
    mesh.write_service_file("extra.yaml", "services: {}\n").unwrap();
    // The one by the next look, the other by the snapshot: in either order.
    following.until_all(&[("source-error-over", "file"), ("service-withdrawn", "extra")]).await;

    let mut numbers =
        following.seen.iter().map(|l| serde_json::from_str::<Value>(l).unwrap()["seq"].as_u64());
    assert!(numbers.by_ref().eq((1..=following.seen.len() as u64).map(Some)), "numbers without gaps");

    mesh.terminate(1).unwrap();
    let last = loop {
        match following.line().await {
            Some(line) if line.get("end").is_some() => break line,
            Some(_) => {}
            None => panic!("it ended without a word: {:#?}", following.seen),
        }
    };
    assert_eq!(last["end"], "the agent stops");
    let ended = timeout(Duration::from_secs(10), following.child.wait()).await.unwrap().unwrap();
    let mut error = String::new();
    following.stderr.read_to_string(&mut error).await.unwrap();
    assert_eq!((ended.code(), error.trim()), (Some(69), "mesh-agent: the agent stops"));
    mesh.ended(1).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_that_two_services_want_is_told_when_it_arises_and_ends() {
    let first = "services:\n  first:\n    ports: [\"8096:8000\"]\n";
    let mesh = Mesh::of(1).services(first).start(agent_binary!()).await.unwrap();
    mesh.until_ready().await;
    let mut following = Following::start(&mesh, 1);
    following.until("service-declared", "first").await;
    let second = first.replace("first", "second");
    mesh.cli_with(1, &["service", "apply", "-f", "-"], &second).await.unwrap().code(0).unwrap();
    let text = following.until("port-conflict", "second").await;
    assert_eq!(text, "8096/tcp is held by first");
    mesh.edit_services("services: {}\n").unwrap();
    let text = following.until("port-conflict-over", "second").await;
    assert_eq!(text, "8096/tcp is its own, no longer held by first");

    // A port that a stranger holds is an error of the data plane.
    let taken = std::net::TcpListener::bind((mesh.node(1).place.address, 8097)).unwrap();
    mesh.write_service_file("third.yaml", &first.replace("first", "third").replace("8096", "8097")).unwrap();
    let mut frontend = String::new();
    while frontend.is_empty() {
        let event = following.line().await.unwrap();
        if event["kind"] == "plane-error" {
            frontend = event["subject"].as_str().unwrap().to_owned();
        }
    }
    assert!(frontend.contains("8097"), "{frontend}");
    drop(taken);
    following.until("plane-error-over", &frontend).await;

    // The list that people read has the same lines.
    let list = mesh.cli(1, &["events", "--since", "0"]).await.unwrap().code(0).unwrap().out;
    for kind in ["agent-started", "service-declared", "port-conflict-over", "plane-error-over"] {
        assert!(list.lines().any(|l| l.contains(kind)), "no {kind} in\n{list}");
    }
}
