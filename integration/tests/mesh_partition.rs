//! As root, with real nodes in network namespaces: `mesh-agent demo --partition` tells of a split that heals and leaves
//! nothing behind, and a node whose link was down is answered again.

use anyhow::{Context, Result, ensure};
use mesh_agent::{
    demo::{
        agents::{Agent, write_files},
        layout::Layout,
        partition::{instances, network::Network},
    },
    sys::netns::Netns,
};
use mesh_integration::{BOUND, Node, agent_binary, lab, until, whoami};
use serde_json::Value;
use std::{
    path::PathBuf,
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    process::{Child, Command},
    runtime::Handle,
    task::spawn_blocking,
    time::timeout,
};

fn start() -> Child {
    Command::new(agent_binary!())
        .args(["demo", "--partition", "--json"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("it starts")
}

/// The demo's folder, which every process of it names in its command line.
fn folder(child: &Child) -> PathBuf {
    std::env::temp_dir().join(format!("mesh-demo-{}", child.id().expect("it runs")))
}

/// Processes whose command line names `folder`.
fn left(folder: &std::path::Path) -> Vec<String> {
    let name = folder.display().to_string();
    let processes = std::fs::read_dir("/proc").expect("proc").flatten();
    let lines = processes.filter_map(|p| std::fs::read(p.path().join("cmdline")).ok());
    lines
        .map(|line| String::from_utf8_lossy(&line).into_owned())
        .filter(|line| line.contains(&name))
        .collect()
}

#[tokio::test]
async fn a_partition_of_namespaces_heals_and_nothing_is_left() {
    if !lab::possible() {
        return;
    }
    let child = start();
    let folder = folder(&child);
    let ended = timeout(Duration::from_secs(240), child.wait_with_output()).await.expect("it never ends");
    let ended = ended.expect("its output");
    let told = String::from_utf8_lossy(&ended.stdout);
    assert!(ended.status.success(), "{told}{}", String::from_utf8_lossy(&ended.stderr));
    // The demo itself checks each step and fails when one does not come true.
    let told: Value = serde_json::from_str(&told).expect("one object");
    let texts: Vec<&str> =
        told["steps"].as_array().expect("steps").iter().filter_map(|s| s["text"].as_str()).collect();
    for said in ["is pulled", "node-1, node-2: node-3 down", "node-3: node-1, node-2 down", "is back"] {
        assert!(texts.iter().any(|text| text.contains(said)), "{said:?} is missing in {texts:?}");
    }
    assert!(["left", "right"].contains(&told["conflict"].as_str().expect("a loser")), "{told}");
    assert!(!folder.exists(), "{} is left", folder.display());
    assert_eq!(left(&folder), Vec::<String>::new());
}

#[tokio::test]
async fn an_interrupted_split_leaves_nothing_behind() {
    if !lab::possible() {
        return;
    }
    let child = start();
    let folder = folder(&child);
    until("the agents run", BOUND, || async {
        let agents = left(&folder).len();
        if agents >= 3 { Ok(()) } else { Err(format!("{agents} run")) }
    })
    .await;
    let pid = i32::try_from(child.id().expect("it runs")).expect("a pid");
    let pid = rustix::process::Pid::from_raw(pid).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("it is ours");
    let ended = timeout(Duration::from_secs(60), child.wait_with_output()).await.expect("it never ends");
    let ended = ended.expect("its output");
    assert_eq!(ended.status.code(), Some(1), "{}", String::from_utf8_lossy(&ended.stderr));
    assert!(!folder.exists(), "{} is left", folder.display());
    assert_eq!(left(&folder), Vec::<String>::new());
}

/// What `work` comes to in a network namespace: all that it opens and starts is there.
async fn inside<T: Send + 'static>(
    netns: &Arc<Netns>,
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    let (netns, runtime) = (Arc::clone(netns), Handle::current());
    spawn_blocking(move || netns.run(|| runtime.block_on(work))).await??
}

/// What the DNS of `node` answers in its own namespace for a name.
async fn lookup(netns: &Arc<Netns>, node: &Node, name: &'static str) -> Result<Vec<String>> {
    let node = node.clone();
    inside(netns, async move { node.lookup(name).await }).await
}

/// How `node` sees the node named `of`.
async fn state(node: &Node, of: &str) -> Result<String> {
    let (_, nodes) = node.admin("/v1/nodes").await?;
    let found = nodes["nodes"].as_array().into_iter().flatten().find(|n| n["name"] == of);
    Ok(found.and_then(|n| n["state"].as_str()).context("it is not known")?.to_owned())
}

/// moby#53141: after a node was away for 10 to 30 s its names stayed gone until somebody touched the service.
#[tokio::test]
async fn moby_53141_a_node_whose_link_was_down_is_answered_again_without_a_touch() {
    if !lab::possible() {
        return;
    }
    let folder = tempfile::Builder::new().prefix("mesh-test-").tempdir().expect("a folder");
    let mut layout = Layout::in_namespaces(3, folder.path()).expect("a layout");
    // The service lives on the node that goes away, and nowhere else.
    layout.services.truncate(1);
    layout.services[0].instances.retain(|i| i.node == "node-3");
    let instance = layout.services[0].instances[0].clone();
    let network = Network::build(&layout).expect("namespaces");
    write_files(&layout, &mesh_control::generate_key().expect("a key")).expect("files");
    let _instances = instances(&layout, &network).expect("an instance");
    let mut agents = Vec::new();
    for (place, netns) in layout.nodes.iter().zip(&network.nodes) {
        let place = place.clone();
        let spawn = async move { Ok(Agent::spawn(agent_binary!(), &place)?) };
        agents.push(inside(netns, spawn).await.expect("it starts"));
    }
    let nodes: Vec<Node> =
        layout.nodes.iter().map(|place| Node { place: place.clone(), host: None }).collect();
    let others: Vec<(&Node, &Arc<Netns>)> = nodes.iter().zip(&network.nodes).take(2).collect();
    let port = layout.services[0].port;

    // On every other node: the name's VIP; the instance, by DNS and through the VIP.
    let reached = async |(node, netns): (&Node, &Arc<Netns>)| {
        ensure!(state(node, "node-3").await? == "alive", "node-3 is not alive");
        let vip = lookup(netns, node, "whoami.cluster").await?;
        let tasks = lookup(netns, node, "tasks.whoami.cluster").await?;
        ensure!(tasks == [instance.address.to_string()], "the instances are {tasks:?}");
        let at = format!("{}:{port}", vip.first().context("no VIP")?).parse()?;
        let who = inside(netns, async move { whoami(at).await }).await?;
        ensure!(who.instance == instance.name, "{who:?} answered");
        Ok(vip)
    };
    let vip = until("the service is reached", BOUND, || reached(others[0])).await;
    assert_eq!(until("the service is reached", BOUND, || reached(others[1])).await, vip);

    network.plug(2, false).expect("the cable is pulled");
    let cut = Instant::now();
    for (node, netns) in &others {
        until("node-3 is taken for dead, and its instance gone", 2 * BOUND, || async {
            let (state, tasks) =
                (state(node, "node-3").await?, lookup(netns, node, "tasks.whoami.cluster").await?);
            ensure!(state == "down" && tasks.is_empty(), "node-3 is {state}, the instances are {tasks:?}");
            Ok(())
        })
        .await;
        assert_eq!(lookup(netns, node, "whoami.cluster").await.expect("an answer"), vip, "the VIP stays");
    }
    let away = cut.elapsed();

    network.plug(2, true).expect("the cable is back");
    let back = Instant::now();
    for other in others {
        assert_eq!(until("the service is reached again", 2 * BOUND, || reached(other)).await, vip);
    }
    let [away, back] = [away, back.elapsed()].map(|d| d.as_secs_f64());
    println!("away for {away:.1} s: answered again {back:.1} s after the link is back");
    for agent in &mut agents {
        agent.stop(Duration::from_secs(10)).await;
    }
}
