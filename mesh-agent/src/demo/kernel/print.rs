//! What the demo says once it runs on a plane of the kernel: text for people, one line of JSON for programs. Pure.

use super::network::{CLIENT, CLIENT_ADDRESS, Network};
use crate::demo::{
    layout::Layout,
    print::{self, Running},
};
use serde_json::{Value, json};
use std::{net::IpAddr, path::Path};

/// What there is to say.
pub(super) struct Text<'a> {
    pub(super) layout: &'a Layout,
    pub(super) network: &'a Network,
    pub(super) running: &'a Running,
}

impl Text<'_> {
    /// The file of a host's namespace.
    fn netns(&self, name: &str) -> String {
        self.network.host(name).path.display().to_string()
    }

    /// The line of `--json`.
    pub(super) fn json(&self, steps: &[Value]) -> Value {
        let mut told = print::json(self.layout, self.running);
        let with_netns = |list: &mut Value| {
            for host in list.as_array_mut().into_iter().flatten() {
                let name = host["name"].as_str().unwrap_or_default().to_owned();
                host["netns"] = json!(self.netns(&name));
            }
        };
        with_netns(&mut told["nodes"]);
        for service in told["services"].as_array_mut().into_iter().flatten() {
            with_netns(&mut service["instances"]);
        }
        told["client"] = json!({"netns": self.netns(CLIENT), "address": CLIENT_ADDRESS});
        told["steps"] = json!(steps);
        told
    }

    /// The text for people. `exe` is how the agent was called.
    pub(super) fn people(&self, exe: &Path) -> String {
        let mut out = String::new();
        let mut line = |text: String| {
            out += &text;
            out.push('\n');
        };
        let layout = self.layout;
        let into = |name: &str| format!("nsenter --net={}", self.netns(name));
        line(format!(
            "\nA mesh of {} agents runs on this machine, each in a network namespace of its own:\n",
            layout.nodes.len()
        ));
        let instances = || layout.services.iter().flat_map(|service| &service.instances);
        for n in &layout.nodes {
            let pid = self.running.pids.get(&n.name).map_or_else(|| "-".to_owned(), u32::to_string);
            let here: Vec<String> = instances()
                .filter(|i| i.node == n.name)
                .map(|i| format!("{} {}", i.name, i.address))
                .collect();
            line(format!("  {}  {}  pid {pid:<7} containers {}", n.name, n.address, here.join(", ")));
        }
        line(format!("  {CLIENT}  {CLIENT_ADDRESS}  outside\n\n  ls {}*", self.prefix()));

        line("\nFrom outside, through any node; `Client:` is the client's own address:".to_owned());
        for s in &layout.services {
            for n in &layout.nodes {
                let (at, port) = (n.address, s.published);
                let ask = match s.protocol {
                    "tcp" => format!("curl -s http://{at}:{port}/"),
                    _ => format!("bash -c 'exec 3<>/dev/udp/{at}/{port}; echo hello >&3; head -n1 <&3'"),
                };
                let none =
                    if s.instances.iter().any(|i| i.node == n.name) { "" } else { "   # no instance here" };
                line(format!("  {} {ask}{none}", into(CLIENT)));
            }
        }
        let (first, last) = (&layout.nodes[0], &layout.nodes[layout.nodes.len() - 1]);
        if let Some(i) = instances().find(|i| i.node == last.name) {
            line(format!("\nFrom a container, as {} on {}:", i.name, i.node));
            for s in &layout.services {
                let vip = self.running.vips.get(s.name).map_or_else(|| "-".to_owned(), IpAddr::to_string);
                line(format!("  {} dig +short @{} {}.cluster", into(&i.name), last.address, s.name));
                if s.protocol == "tcp" {
                    line(format!("  {} curl -s http://{vip}:{}/", into(&i.name), s.port));
                }
            }
        }
        let exe = exe.display();
        line("\nLook inside:".to_owned());
        line(format!("  export MESH_ADMIN=unix:{}", first.socket.display()));
        line(format!("  {exe} status; {exe} service ls; {exe} nodes; {exe} attachments"));
        line(format!("  {} ip route", into(&first.name)));
        line(format!("  {} curl -s http://{}/metrics", into(&first.name), first.metrics()));
        line("\nTry:".to_owned());
        line(format!("  {} nft list ruleset", into(&first.name)));
        line(format!("  edit {}    (saved is applied, on all nodes)", layout.service_file.display()));
        if let Some(pid) = self.running.pids.get(&first.name) {
            line(format!(
                "  kill -9 {pid}    (the kernel of {} goes on without its agent, which is started again after a while)",
                first.name
            ));
        }
        line("\nCtrl-C removes everything.".to_owned());
        out
    }

    /// What the files of all namespaces begin with.
    fn prefix(&self) -> String {
        let client = self.netns(CLIENT);
        client.strip_suffix(CLIENT).unwrap_or(&client).to_owned()
    }
}
