//! The binary without an agent: help, usage, completion, keys, exit codes. And the runner the other CLI tests use.

use crate::world::LONG;
use std::{
    ffi::OsStr,
    process::{Output, Stdio},
};
use tokio::{io::AsyncWriteExt, process::Command, time::timeout};

/// What the binary did.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    fn new(output: &Output) -> Ran {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        Ran {
            code: output.status.code().expect("ended by a signal"),
            out: text(&output.stdout),
            err: text(&output.stderr),
        }
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
}

/// Runs the binary with `input` on stdin and a clean environment.
pub(crate) async fn run<A: AsRef<OsStr>>(args: &[A], input: &str) -> Ran {
    let mut child = Command::new(env!("CARGO_BIN_EXE_mesh-agent"))
        .args(args)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // It may end without reading, as for wrong usage.
    let _ = stdin.write_all(input.as_bytes()).await;
    drop(stdin);
    Ran::new(&timeout(LONG, child.wait_with_output()).await.expect("it never ended").unwrap())
}

const COMMANDS: [&str; 38] = [
    "",
    "run",
    "demo",
    "config",
    "config check",
    "key",
    "key generate",
    "key ls",
    "key add",
    "key use",
    "key remove",
    "token",
    "token create",
    "token join",
    "token show",
    "status",
    "service",
    "service ls",
    "service inspect",
    "service apply",
    "service rm",
    "service publish",
    "service unpublish",
    "endpoint",
    "endpoint ls",
    "endpoint add",
    "endpoint rm",
    "endpoint drain",
    "nodes",
    "nodes drain",
    "nodes forget",
    "events",
    "dns",
    "dns query",
    "why",
    "plan",
    "completion",
    "version",
];

#[tokio::test]
async fn every_command_has_help() {
    for command in COMMANDS {
        let mut args: Vec<&str> = command.split_whitespace().collect();
        args.push("--help");
        let ran = run(&args, "").await;
        assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{command}");
        assert!(ran.out.contains("Usage: mesh-agent"), "{command}: {}", ran.out);
    }
    let top = run(&["--help"], "").await.out;
    for code in ["0", "1", "2", "64", "65", "66", "69", "75", "77"] {
        assert!(top.lines().any(|l| l.trim_start().starts_with(&format!("{code}  "))), "{code}:\n{top}");
    }
}

#[tokio::test]
async fn wrong_usage_exits_64_and_says_why() {
    for args in [
        "",
        "nonsense",
        "service",
        "service inspect",
        "service publish web",
        "service publish web 80/sctp",
        "service unpublish web auto --admin unix:/none",
        "endpoint add web w",
        "endpoint add web w nonsense",
        "endpoint add web w 192.0.2.1 --port 80",
        "endpoint drain web w --undo --wait",
        "endpoint drain web w --deadline soon",
        "why 10.0.0.1",
        "why 10.0.0.1:80 --protocol sctp",
        "demo --nodes 0",
        "demo --nodes 10",
        "run",
        "completion tcsh",
        "status --wait=never",
        "events --since soon",
        "events --since=-1",
        "status --admin ftp://x",
        "status --admin https://127.0.0.1:1",
    ] {
        let ran = run(&args.split_whitespace().collect::<Vec<_>>(), "").await;
        assert_eq!((ran.code, ran.out.as_str()), (64, ""), "{args}: {ran:?}");
        assert!(!ran.err.is_empty(), "{args}");
    }
}

#[tokio::test]
async fn completion_scripts_know_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let ran = run(&["completion", shell], "").await;
        assert_eq!(ran.code, 0, "{ran:?}");
        assert!(ran.out.contains("unpublish") && ran.out.len() > 2000, "{shell}: {} bytes", ran.out.len());
    }
    let script = run(&["completion", "bash"], "").await.out;
    let check = std::process::Command::new("bash").args(["-n", "-c", &script]).output();
    assert!(check.is_ok_and(|o| o.status.success()), "bash does not take its script");
}

#[tokio::test]
async fn keys_are_new_each_time_and_versions_are_told() {
    let (a, b) = (run(&["key", "generate"], "").await, run(&["key", "generate"], "").await);
    assert!(a.code == 0 && a.out != b.out);
    assert_eq!((a.out.len(), a.out.ends_with("=\n")), (45, true), "32 bytes are 44 characters of base64");
    assert_eq!(run(&["--json", "key", "generate"], "").await.json()["key"].as_str().unwrap().len(), 44);
    let version = run(&["version"], "").await;
    assert_eq!(version.out, format!("mesh-agent {}\n", env!("CARGO_PKG_VERSION")));
    assert_eq!(run(&["version", "--json"], "").await.json()["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(run(&["--version"], "").await.out, version.out);
}

#[tokio::test]
async fn an_agent_that_is_not_there_is_69_with_the_fix() {
    let dir = tempfile::tempdir().unwrap();
    let admin = format!("unix:{}", dir.path().join("none.sock").display());
    for command in
        ["status", "service ls", "endpoint ls", "nodes", "events", "events --follow", "dns query web", "plan"]
    {
        let mut args: Vec<&str> = command.split_whitespace().collect();
        args.extend(["--admin", &admin]);
        let ran = run(&args, "").await;
        assert_eq!((ran.code, ran.out.as_str()), (69, ""), "{command}: {ran:?}");
        assert!(ran.err.contains(&admin) && ran.err.contains("is it running?"), "{}", ran.err);
    }
    let ran = run(&["status", "--wait=1s", "--admin", &admin], "").await;
    assert!(ran.code == 75 && ran.err.contains("not ready after 1s: no agent answers"), "{ran:?}");
    let missing = run(&["service", "apply", "-f", "/none.yaml", "--admin", &admin], "").await;
    assert!(missing.code == 66 && missing.err.contains("/none.yaml"), "{missing:?}");
    let token = run(&["status", "--token-file", "/none", "--admin", &admin], "").await;
    assert_eq!(token.code, 66, "{token:?}");
    for command in [vec!["run", "--config", "/none.yaml"], vec!["config", "check", "/none.yaml"]] {
        let ran = run(&command, "").await;
        assert!(ran.code == 66 && ran.err.contains("/none.yaml"), "{ran:?}");
    }
}

#[tokio::test]
async fn something_else_that_answers_is_told_apart() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let admin = format!("http://{}", listener.local_addr().unwrap());
    let ssh = tokio::spawn(async move {
        let mut stream = listener.accept().await.unwrap().0;
        stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").await.unwrap();
        crate::world::read_all(&mut stream).await;
    });
    let ran = run(&["status", "--admin", &admin], "").await;
    assert!(ran.code == 69 && ran.err.contains("is that the admin API"), "{ran:?}");
    ssh.await.unwrap();
}
