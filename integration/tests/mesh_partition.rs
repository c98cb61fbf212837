//! `mesh-agent demo --partition` as root: a split of real nodes in network namespaces heals, and nothing is left.

use mesh_integration::{BOUND, agent_binary, until};
use serde_json::Value;
use std::{path::PathBuf, process::Stdio, time::Duration};
use tokio::{
    process::{Child, Command},
    time::timeout,
};

/// Whether network namespaces can be made here. In CI they must be.
fn privileged(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    assert!(root || std::env::var_os("CI").is_none(), "{test} needs root, and CI skips nothing");
    if !root {
        eprintln!("SKIPPED: {test} needs root for network namespaces: run it with sudo");
    }
    root
}

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
    if !privileged("the partition demo") {
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
    if !privileged("the interrupted partition demo") {
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
