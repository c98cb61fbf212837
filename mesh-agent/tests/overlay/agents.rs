//! Whole agents: they claim subnets, build the overlay and put containers on it; and it outlives them.

use crate::{
    sealed::has_wireguard,
    talk::{ping, tcp},
    world::{Underlay, World, permitted, same, steady},
};
use mesh_agent::sys::netns::Netns;
use serde_json::Value;
use std::{
    net::IpAddr,
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const AGENT: &str = env!("CARGO_BIN_EXE_mesh-agent");

/// An agent, killed without a word when this goes.
struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(world: &World, folder: &Path, i: usize, encryption: &str) -> Agent {
    let config = folder.join(format!("n{i}.yaml"));
    let text = format!(
        "node: {{name: n{i}, address: 192.0.2.{}}}\n\
         cluster: {{keys: [{KEY}], join: [192.0.2.1, 192.0.2.2]}}\n\
         overlay: {{cidr: [10.128.0.0/14, 'fd00:4d::/48'], encryption: {encryption}}}\n\
         vip_cidr: [10.96.0.0/16]\ndata_plane: nftables\n\
         dns: {{enabled: false}}\nmetrics: {{listen: none}}\n\
         admin: {{socket: {}}}\n",
        i + 1,
        folder.join(format!("n{i}.sock")).display()
    );
    std::fs::write(&config, text).unwrap();
    let log = std::fs::File::create(folder.join(format!("n{i}.log"))).unwrap();
    let spawn = || {
        let mut command = Command::new(AGENT);
        command.args(["run", "--config"]).arg(&config).stdout(Stdio::null()).stderr(log).spawn().unwrap()
    };
    Agent(world.nodes[i].netns.run(spawn).unwrap())
}

fn cli(folder: &Path, i: usize, words: &[&str]) -> Output {
    let admin = format!("unix:{}", folder.join(format!("n{i}.sock")).display());
    Command::new(AGENT).args(words).args(["--json", "--admin", &admin]).output().unwrap()
}

/// The JSON that a command prints once it `suits`.
fn wait(folder: &Path, i: usize, words: &[&str], suits: impl Fn(&Value) -> bool) -> Value {
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        let output = cli(folder, i, words);
        let json = serde_json::from_slice(&output.stdout).unwrap_or_default();
        if suits(&json) {
            return json;
        }
        if Instant::now() > end {
            let log = std::fs::read_to_string(folder.join(format!("n{i}.log"))).unwrap();
            panic!("{words:?} on n{i}: {json} {}\n{log}", String::from_utf8_lossy(&output.stderr));
        }
        std::thread::park_timeout(Duration::from_millis(50));
    }
}

fn attach(folder: &Path, i: usize, netns: &Netns) -> Vec<IpAddr> {
    let path = netns.path();
    let words = ["attach", "--netns", path.to_str().unwrap()];
    let attached = wait(folder, i, &words, |json| json["addresses"].as_array().is_some());
    attached["addresses"].as_array().unwrap().iter().map(|a| a.as_str().unwrap().parse().unwrap()).collect()
}

#[test]
fn agents_join_containers_and_their_death_parts_none() {
    if permitted() {
        joined("none");
    }
}

#[test]
fn the_same_of_agents_that_encrypt_whose_keys_are_renewed_by_hand() {
    if permitted() && has_wireguard() {
        joined("wireguard");
    }
}

fn joined(encryption: &str) {
    let world = World::new(2, Underlay::V4);
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let agents: Vec<Agent> = (0..2).map(|i| start(&world, folder, i, encryption)).collect();
    for i in 0..2 {
        wait(folder, i, &["status"], |status| {
            let overlay = &status["overlay"];
            overlay["peers"] == 1 && overlay["gateways"].as_array().is_some_and(|all| all.len() == 2)
        });
    }
    let (one, two) = (Netns::new().unwrap(), Netns::new().unwrap());
    let (from, to) = (attach(folder, 0, &one), attach(folder, 1, &two));
    for (mine, other) in from.iter().zip(&to) {
        assert_eq!(tcp(&one, &two, *other, 100_000).unwrap(), *mine);
    }

    let look = |i: usize| {
        let node = &world.nodes[i];
        let all = ["-d link show", "address show", "route show table all proto 77", "rule show"];
        let text: String = all.iter().map(|words| node.run("ip", words)).collect();
        steady(&(text + &node.run("bridge", "fdb show dev mesh-vx")))
    };
    let before: Vec<_> = (0..2).map(look).collect();
    drop(agents);
    (0..2).zip(&before).for_each(|(i, before)| same(&look(i), before));
    for other in &to {
        ping(&one, *other).unwrap();
    }
    let _agents: Vec<Agent> = (0..2).map(|i| start(&world, folder, i, encryption)).collect();
    for (i, before) in (0..2).zip(&before) {
        let status = wait(folder, i, &["status"], |status| status["overlay"]["peers"] == 1);
        assert_eq!(status["overlay"]["problems"], Value::Array(vec![]), "{status}");
        same(&look(i), before);
    }
    // What was given is still known, though nothing was written anywhere but in the kernel.
    assert_eq!(attach(folder, 0, &one), from);
    for (mine, other) in from.iter().zip(&to) {
        assert_eq!(tcp(&one, &two, *other, 1000).unwrap(), *mine);
    }
    if encryption == "none" {
        let refused = cli(folder, 0, &["key", "renew"]);
        assert!(!refused.status.success(), "{refused:?}");
        return;
    }
    let keys = |status: &Value| status["overlay"]["keys"].as_array().cloned().unwrap_or_default();
    let old = keys(&wait(folder, 0, &["status"], |status| keys(status).len() == 1));
    assert!(cli(folder, 0, &["key", "renew"]).status.success());
    wait(folder, 0, &["status"], |status| {
        for other in &to {
            ping(&one, *other).unwrap();
        }
        // Both are told, and nothing is sent from the old one any more; it goes a minute later.
        let both = keys(status);
        let link = world.nodes[0].run("ip", "link show mesh-wg");
        both.len() == 2 && both.starts_with(&old) && link.contains("retired=")
    });
}
