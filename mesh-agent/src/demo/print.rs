//! What the demo says once everything is ready: text for people, one line of JSON for programs. Pure.

use super::layout::{Layout, Node, Service};
use serde_json::{Value, json};
use std::{collections::BTreeMap, net::IpAddr, path::Path};

/// What is only known once the mesh runs.
#[derive(Clone, Debug, Default)]
pub struct Running {
    /// Process id by node.
    pub pids: BTreeMap<String, u32>,
    /// VIP by service.
    pub vips: BTreeMap<String, IpAddr>,
}

/// The line of `--json`.
#[must_use]
pub fn json(layout: &Layout, running: &Running) -> Value {
    let node = |n: &Node| {
        json!({
            "name": n.name,
            "address": n.address,
            "dns": layout.dns(n).to_string(),
            "admin": format!("unix:{}", n.socket.display()),
            "metrics": format!("http://{}/metrics", n.metrics()),
            "pid": running.pids.get(&n.name),
            "config": n.config,
            "log": n.log,
        })
    };
    let service = |s: &Service| {
        let instance =
            |i: &super::layout::Instance| json!({"name": i.name, "node": i.node, "address": i.address});
        json!({
            "name": s.name,
            "vip": running.vips.get(s.name),
            "ports": [{"protocol": s.protocol, "port": s.port, "published": s.published}],
            "instances": s.instances.iter().map(instance).collect::<Vec<_>>(),
        })
    };
    json!({
        "nodes": layout.nodes.iter().map(node).collect::<Vec<_>>(),
        "services": layout.services.iter().map(service).collect::<Vec<_>>(),
        "service_file": layout.service_file,
    })
}

/// The text for people. `exe` is how the agent was called.
#[must_use]
pub fn text(layout: &Layout, running: &Running, exe: &Path) -> String {
    let mut out = String::new();
    let mut line = |text: String| {
        out += &text;
        out.push('\n');
    };
    line(format!("A mesh of {} agents runs on this machine.\n", layout.nodes.len()));
    for n in &layout.nodes {
        let pid = running.pids.get(&n.name).map_or_else(|| "-".to_owned(), u32::to_string);
        let here: Vec<&str> = layout
            .services
            .iter()
            .flat_map(|s| &s.instances)
            .filter(|i| i.node == n.name)
            .map(|i| i.name.as_str())
            .collect();
        let here = if here.is_empty() { "no instance".to_owned() } else { here.join(", ") };
        line(format!("  {}  {}  pid {pid:<7} {here}", n.name, n.address));
    }
    let exe = exe.display();
    let (first, last) = (&layout.nodes[0], &layout.nodes[layout.nodes.len() - 1]);
    for s in &layout.services {
        let vip = running.vips.get(s.name).map_or_else(|| "-".to_owned(), IpAddr::to_string);
        line(format!(
            "\n{} ({}): VIP {vip}:{}, published on every node as {}",
            s.name, s.protocol, s.port, s.published
        ));
        line(format!("  dig +short @{} -p {} {}.cluster", first.dns().ip(), first.dns().port(), s.name));
        line(format!("  dig +short @{} -p {} tasks.{}.cluster", last.dns().ip(), last.dns().port(), s.name));
        if s.protocol == "tcp" {
            line(format!("  curl http://{vip}:{}/", s.port));
            for n in &layout.nodes {
                let none =
                    if s.instances.iter().any(|i| i.node == n.name) { "" } else { "   # no instance here" };
                line(format!("  curl http://{}:{}/{none}", n.address, s.published));
            }
        } else {
            line(format!("  bash -c 'exec 3<>/dev/udp/{vip}/{}; echo hello >&3; head -n1 <&3'", s.port));
            line(format!(
                "  bash -c 'exec 3<>/dev/udp/{}/{}; echo hello >&3; head -n1 <&3'",
                last.address, s.published
            ));
        }
    }
    line("\nLook inside:".to_owned());
    line(format!("  export MESH_ADMIN=unix:{}", first.socket.display()));
    line(format!("  {exe} status; {exe} service ls; {exe} nodes; {exe} service inspect whoami"));
    line(format!("  curl http://{}/metrics", first.metrics()));
    line("\nTry:".to_owned());
    line(format!("  edit {}    (saved is applied, on all nodes)", layout.service_file.display()));
    if let (true, Some(pid)) = (layout.nodes.len() > 1, running.pids.get(&first.name)) {
        line(format!(
            "  kill -9 {pid}    ({}'s instances leave within seconds; it is started again after a while)",
            first.name
        ));
    }
    line("\nCtrl-C removes everything.".to_owned());
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::layout::Options;

    #[test]
    fn both_forms_name_every_node_and_service() {
        let options = Options { nodes: 3, json: false, network: None };
        let layout = Layout::new(&options, Path::new("/d")).unwrap();
        let mut running = Running::default();
        running.pids.insert("node-1".into(), 42);
        running.vips.insert("whoami".into(), "127.77.128.9".parse().unwrap());
        let text = text(&layout, &running, Path::new("mesh-agent"));
        for part in [
            "node-3",
            "no instance here",
            "curl http://127.77.128.9:8000/",
            "kill -9 42",
            "tasks.echo.cluster",
        ] {
            assert!(text.contains(part), "{part:?} is missing in {text}");
        }
        let json = json(&layout, &running);
        assert_eq!(json["nodes"][0]["pid"], 42);
        assert_eq!(json["services"][0]["ports"][0]["published"], 8080);
        assert_eq!(json["services"][0]["vip"], "127.77.128.9");
        assert!(!json.to_string().contains('\n'));
    }
}
