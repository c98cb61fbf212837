//! `mesh-agent demo` as a user meets it: what it prints works, and when it ends nothing is left.
#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test fails the test by panicking, as the test itself does"
)]

use anyhow::{Context, Result, ensure};
use mesh_integration::{BOUND, LoopbackNet, agent_binary, echo, lab, until, whoami};
use serde_json::Value;
use std::{collections::BTreeSet, net::SocketAddr, path::PathBuf, process::Stdio, time::Duration};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    process::{Child, ChildStdout, Command},
    time::timeout,
};

/// A running demo; killed (with its agents, which end with it) when a test fails.
struct Demo {
    child: Child,
    out: BufReader<ChildStdout>,
    /// Held while it runs, if it needs one.
    net: Option<LoopbackNet>,
}

impl Demo {
    fn start(more: &[&str]) -> Demo {
        let net = LoopbackNet::take().unwrap();
        let mut demo = Demo::of(&[&["--network", &net.cidr()], more].concat());
        demo.net = Some(net);
        demo
    }

    fn of(arguments: &[&str]) -> Demo {
        let mut child = Command::new(agent_binary!())
            .arg("demo")
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Demo { child, out, net: None }
    }

    async fn line(&mut self) -> String {
        let mut line = String::new();
        timeout(Duration::from_secs(90), self.out.read_line(&mut line))
            .await
            .expect("the demo says nothing")
            .unwrap();
        line
    }

    /// Stops it as Ctrl-C does.
    async fn end(&mut self) {
        self.signal(rustix::process::Signal::INT);
        let status = timeout(BOUND, self.child.wait()).await.expect("the demo does not end").unwrap();
        assert!(status.success(), "{status}");
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = i32::try_from(self.child.id().expect("the demo has ended")).unwrap();
        rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), signal).unwrap();
    }
}

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_else(|| panic!("no {key} in {value}")).to_owned()
}

fn alive(pid: u64) -> bool {
    // A zombie is reaped by the demo; until then its command line is empty.
    std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|c| !c.is_empty())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_json_line_is_true_and_a_signal_removes_everything() {
    let mut demo = Demo::start(&["--nodes", "3", "--json"]);
    let line = demo.line().await;
    let told: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"));
    let nodes = told["nodes"].as_array().unwrap();
    assert_eq!(nodes.len(), 3);
    let web = &told["services"][0];
    let (vip, port) = (text(web, "vip"), web["ports"][0]["port"].as_u64().unwrap());
    let all: BTreeSet<String> =
        web["instances"].as_array().unwrap().iter().map(|i| text(i, "name")).collect();
    let published = web["ports"][0]["published"].as_u64().unwrap();
    for node in nodes {
        // Everything is ready when the line comes: no second try.
        let dns: SocketAddr = text(node, "dns").parse().unwrap();
        let dig = Command::new("dig")
            .args(["+short", &format!("@{}", dns.ip()), "-p", &dns.port().to_string(), "whoami.cluster"])
            .output()
            .await
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&dig.stdout).trim(), vip, "{node}");
        let mut met = BTreeSet::new();
        for _ in 0..4 * all.len() {
            let at: SocketAddr = format!("{}:{published}", text(node, "address")).parse().unwrap();
            met.insert(whoami(at).await.unwrap().instance);
        }
        assert_eq!(met, all, "through {node}");
        assert!(alive(node["pid"].as_u64().unwrap()));
        let metrics = text(node, "metrics");
        let at: SocketAddr =
            metrics.trim_start_matches("http://").trim_end_matches("/metrics").parse().unwrap();
        let (status, body) = mesh_integration::http_get(at, "/metrics").await.unwrap();
        assert_eq!(status, 200);
        assert!(body.contains("mesh_build_info"), "{body}");
    }
    whoami(format!("{vip}:{port}").parse().unwrap()).await.unwrap();
    let udp = &told["services"][1];
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let at: SocketAddr = format!("{}:{}", text(udp, "vip"), udp["ports"][0]["port"]).parse().unwrap();
    echo(&socket, at, "hello").await.unwrap();

    demo.end().await;
    assert!(nodes.iter().all(|n| !alive(n["pid"].as_u64().unwrap())), "an agent is left");
    let file = PathBuf::from(text(&told, "service_file"));
    assert!(!file.exists(), "{} is left", file.display());
    assert!(whoami(format!("{vip}:{port}").parse().unwrap()).await.is_err());
}

/// Runs every command that the demo prints, at least so many.
async fn every_command_works(mut demo: Demo, least: usize) {
    let mut commands = Vec::new();
    loop {
        let line = demo.line().await;
        assert!(!line.is_empty(), "the demo ended");
        if line.starts_with("Ctrl-C") {
            break;
        }
        let tried = ["  dig ", "  curl ", "  bash ", "  export ", "  nsenter ", "  ls "];
        if tried.iter().any(|t| line.starts_with(t)) || line.contains(" status; ") {
            commands.push(line.split("   #").next().unwrap_or_default().trim().to_owned());
        }
    }
    assert!(commands.len() >= least, "{commands:?}");
    let export = commands.iter().find(|c| c.starts_with("export")).unwrap().clone();
    for command in &commands {
        let script = format!("set -e; {export}; {command}");
        let output = Command::new("timeout").args(["10", "bash", "-c", &script]).output().await.unwrap();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{command}: {out}{err}");
        assert!(command.starts_with("export") || !out.trim().is_empty(), "{command} printed nothing; {err}");
    }
    demo.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_it_prints_works() {
    every_command_works(Demo::start(&["--nodes", "3"]), 10).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_taken_port_is_named_and_nothing_is_left() -> Result<()> {
    let net = LoopbackNet::take()?;
    let _holder = tokio::net::TcpListener::bind((net.address(0, 1), 8080)).await?;
    let output = Command::new(agent_binary!())
        .args(["demo", "--network", &net.cidr()])
        .stdin(Stdio::null())
        .output()
        .await?;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(!output.status.success());
    let wanted = format!("{}:8080/tcp", net.address(0, 1));
    ensure!(error.contains(&wanted) && error.contains("--network"), "{error}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_end_with_a_demo_that_is_killed() -> Result<()> {
    let mut demo = Demo::start(&["--nodes", "2", "--json"]);
    let told: Value = serde_json::from_str(&demo.line().await)?;
    let pids: Vec<u64> =
        told["nodes"].as_array().context("nodes")?.iter().filter_map(|n| n["pid"].as_u64()).collect();
    demo.signal(rustix::process::Signal::KILL);
    demo.child.wait().await?;
    until("the agents end too", BOUND, || async {
        let left: Vec<&u64> = pids.iter().filter(|p| alive(**p)).collect();
        ensure!(left.is_empty(), "{left:?} are left");
        Ok(())
    })
    .await;
    let folder = PathBuf::from(text(&told, "service_file"));
    let folder = folder.ancestors().nth(2).context("folder")?;
    ensure!(folder.starts_with(std::env::temp_dir()) && folder.to_string_lossy().contains("mesh-demo-"));
    std::fs::remove_dir_all(folder)?;
    let mut rest = String::new();
    demo.out.read_to_string(&mut rest).await?;
    drop(demo.net);
    Ok(())
}

/// The names of network namespaces that a demo gave.
fn names(pid: u32) -> Vec<PathBuf> {
    let prefix = format!("/run/netns/mesh-demo-{pid}-");
    let entries = std::fs::read_dir("/run/netns").into_iter().flatten().flatten();
    entries.map(|e| e.path()).filter(|p| p.to_string_lossy().starts_with(&prefix)).collect()
}

/// What a program prints in the namespace of a file.
async fn within(netns: &str, command: &[&str]) -> String {
    let netns = format!("--net={netns}");
    let output =
        Command::new("timeout").args(["10", "nsenter", &netns]).args(command).output().await.unwrap();
    assert!(output.status.success(), "{command:?} in {netns}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Instances that answer `count` requests of the client to a published port; each saw the client's own address.
async fn met_by(client: &Value, at: &str, count: usize) -> BTreeSet<String> {
    let mut met = BTreeSet::new();
    for _ in 0..count {
        let body = within(&text(client, "netns"), &["curl", "-sS", "--max-time", "5", at]).await;
        let line = |key: &str| body.lines().find_map(|l| l.strip_prefix(key)).unwrap_or_default().to_owned();
        let seen: SocketAddr = line("Client: ").parse().unwrap_or_else(|e| panic!("{at}: {e}: {body}"));
        assert_eq!(seen.ip().to_string(), text(client, "address"), "{at}: {body}");
        met.insert(line("Instance: "));
    }
    met
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_nftables_containers_see_the_clients_own_address_through_every_node() {
    containers_see_the_clients_own_address_through_every_node("nftables").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_ebpf_containers_see_the_clients_own_address_through_every_node() {
    containers_see_the_clients_own_address_through_every_node("ebpf").await;
}

async fn containers_see_the_clients_own_address_through_every_node(plane: &str) {
    if !lab::possible() {
        return;
    }
    let mut demo = Demo::of(&["--data-plane", plane, "--json"]);
    let pid = demo.child.id().unwrap();
    let line = demo.line().await;
    let told: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"));
    let nodes = told["nodes"].as_array().unwrap();
    assert_eq!(nodes.len(), 3);
    let web = &told["services"][0];
    let instances = web["instances"].as_array().unwrap();
    let all: BTreeSet<String> = instances.iter().map(|i| text(i, "name")).collect();
    assert!(instances.iter().all(|i| text(i, "node") != "node-3"), "node-3 shows the routing mesh: {web}");
    let (client, published) = (&told["client"], &web["ports"][0]["published"]);
    for node in nodes {
        let at = format!("http://{}:{published}/", text(node, "address"));
        assert_eq!(met_by(client, &at, 8 * all.len()).await, all, "through {at}");
        let links = within(&text(node, "netns"), &["ip", "-brief", "link"]).await;
        assert!(links.contains("mesh-vx") && links.contains("mesh0"), "{links}");
    }
    // From a container of the node without an instance: the name, then the VIP.
    let (udp, last) = (&told["services"][1], &nodes[2]);
    let inside = udp["instances"].as_array().unwrap().iter().find(|i| text(i, "node") == "node-3").unwrap();
    let dns: SocketAddr = text(last, "dns").parse().unwrap();
    let server = format!("@{}", dns.ip());
    let found = within(&text(inside, "netns"), &["dig", "+short", &server, "whoami.cluster"]).await;
    assert_eq!(found.trim(), text(web, "vip"));
    let at = format!("http://{}:{}/", text(web, "vip"), web["ports"][0]["port"]);
    assert_eq!(met_by(inside, &at, 8 * all.len()).await, all);
    // A node whose agent is dead still forwards.
    let agent = i32::try_from(nodes[2]["pid"].as_u64().unwrap()).unwrap();
    let agent = rustix::process::Pid::from_raw(agent).unwrap();
    rustix::process::kill_process(agent, rustix::process::Signal::KILL).unwrap();
    let at = format!("http://{}:{published}/", text(last, "address"));
    assert_eq!(met_by(client, &at, 8 * all.len()).await, all, "through {at}, without its agent");

    assert_eq!(names(pid).len(), nodes.len() + 1 + all.len() + udp["instances"].as_array().unwrap().len());
    demo.end().await;
    assert!(nodes.iter().all(|n| !alive(n["pid"].as_u64().unwrap())), "an agent is left");
    assert_eq!(names(pid), Vec::<PathBuf>::new());
    let file = PathBuf::from(text(&told, "service_file"));
    assert!(!file.exists(), "{} is left", file.display());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_it_prints_with_nftables_works() {
    if lab::possible() {
        every_command_works(Demo::of(&["--data-plane", "nftables", "--nodes", "2"]), 13).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_names_of_a_killed_demo_go_with_the_next() {
    if !lab::possible() {
        return;
    }
    let named = async |demo: &Demo| {
        let pid = demo.child.id().unwrap();
        until("namespaces have names", BOUND, || async move {
            ensure!(!names(pid).is_empty());
            Ok(pid)
        })
        .await
    };
    let mut killed = Demo::of(&["--data-plane", "nftables"]);
    let pid = named(&killed).await;
    killed.signal(rustix::process::Signal::KILL);
    killed.child.wait().await.unwrap();
    std::fs::remove_dir_all(std::env::temp_dir().join(format!("mesh-demo-{pid}"))).unwrap();

    let mut next = Demo::of(&["--data-plane", "nftables"]);
    let own = named(&next).await;
    assert_eq!(names(pid), Vec::<PathBuf>::new());
    // Stopped before it was ready, it leaves nothing either.
    next.signal(rustix::process::Signal::TERM);
    let status = timeout(BOUND, next.child.wait()).await.expect("the demo does not end").unwrap();
    assert!(status.success(), "{status}");
    assert_eq!(names(own), Vec::<PathBuf>::new());
    assert!(!std::env::temp_dir().join(format!("mesh-demo-{own}")).exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_privileges_it_says_what_is_missing() {
    if !lab::possible() {
        return;
    }
    let output = Command::new("setpriv")
        .args(["--bounding-set=-all", "--inh-caps=-all"])
        .arg(agent_binary!())
        .args(["demo", "--data-plane", "nftables"])
        .output()
        .await
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(77), "{error}");
    assert!(error.contains("run it as root"), "{error}");
}
