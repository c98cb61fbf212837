//! Network namespaces: one a node, and one a mesh that routes between its nodes. Removed on drop.

use anyhow::{Context as _, bail, ensure};
use std::{
    io::Write as _,
    net::Ipv4Addr,
    os::unix::fs::MetadataExt as _,
    path::Path,
    process::{Command, Stdio},
};

/// The hub of each mesh. Nodes reach each other through it as a router: the kernel holds 1,024 neighbours for all
/// namespaces together, too few for meshes in which everybody is everybody's neighbour.
const HUB: Ipv4Addr = Ipv4Addr::new(10, 231, 0, 254);

/// Datagrams dropped on reception in the lossy phase, of 100.
pub(super) const LOSS: u64 = 20;

/// Why namespaces cannot be made here, or nothing.
///
/// # Errors
/// When this is not root or a program is missing.
pub(crate) fn possible() -> anyhow::Result<()> {
    let root = std::fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0);
    ensure!(root, "network namespaces need root: run this as root (sudo)");
    for (name, package) in [("ip", "iproute2"), ("nft", "nftables"), ("serf", "serf")] {
        let found = ["/usr/sbin", "/sbin", "/usr/bin", "/bin", "/usr/local/bin"]
            .iter()
            .any(|folder| Path::new(folder).join(name).exists());
        ensure!(found, "{name} is not installed (apt-get install {package})");
    }
    Ok(())
}

/// The address of a node in its mesh. Meshes do not see each other, so they all use one network.
pub(super) fn address(node: usize) -> anyhow::Result<Ipv4Addr> {
    Ok(Ipv4Addr::new(10, 231, 0, u8::try_from(node).context("at most 250 nodes")?))
}

/// The namespaces of one mesh. Their names carry the process id and so are nobody else's.
#[derive(Debug)]
pub(super) struct Network {
    base: String,
    made: Vec<String>,
}

impl Drop for Network {
    fn drop(&mut self) {
        for name in self.made.iter().rev() {
            if let Err(error) = ip(&["netns", "del", name], "") {
                eprintln!("namespace {name} is left behind: {error:#}");
            }
        }
    }
}

impl Network {
    /// Namespaces of nodes 1 to `nodes`, each with an interface `eth0` at its address.
    ///
    /// # Errors
    /// When the kernel or the privileges do not allow it; what was made until then is removed.
    pub(super) fn make(label: &str, nodes: usize) -> anyhow::Result<Self> {
        let mut network =
            Network { base: format!("mesh-bench-{}-{label}", std::process::id()), made: Vec::new() };
        let hub = network.add("hub")?;
        run("ip", &["netns", "exec", &hub, "sysctl", "-qw", "net.ipv4.ip_forward=1"], "")?;
        ip(&["-n", &hub, "-batch", "-"], &format!("link set lo up\naddr add {HUB}/32 dev lo\n"))?;
        for node in 1..=nodes {
            let name = network.add(&node.to_string())?;
            // IPv6's own chatter (neighbour and listener discovery) would be counted as somebody's.
            run("ip", &["netns", "exec", &name, "sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1"], "")?;
            let port = format!("node{node}");
            ip(&["-n", &name, "link", "add", "eth0", "type", "veth", "peer", &port, "netns", &hub], "")?;
            let me = address(node)?;
            let hub_side = format!("link set {port} up\nroute add {me}/32 dev {port} src {HUB}\n");
            let node_side = format!(
                "link set lo up\naddr add {me}/32 dev eth0\nlink set eth0 up\n\
                 route add {HUB}/32 dev eth0\nroute add default via {HUB}\n"
            );
            ip(&["-n", &hub, "-batch", "-"], &hub_side)?;
            ip(&["-n", &name, "-batch", "-"], &node_side)?;
        }
        Ok(network)
    }

    fn add(&mut self, part: &str) -> anyhow::Result<String> {
        let name = format!("{}-{part}", self.base);
        ip(&["netns", "add", &name], "")?;
        self.made.push(name.clone());
        Ok(name)
    }

    fn namespace(&self, node: usize) -> String {
        format!("{}-{node}", self.base)
    }

    /// A command that becomes `program` in the namespace of `node`: `ip netns exec` replaces itself, so the child's
    /// process id is the program's.
    pub(super) fn command(&self, node: usize, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace(node)]).arg(program);
        command
    }

    /// From now on `node` loses [`LOSS`] of 100 datagrams that reach it.
    pub(super) fn lose(&self, node: usize) -> anyhow::Result<()> {
        let rules = format!(
            "table inet bench {{\n counter reached {{ }}\n counter dropped {{ }}\n chain input {{\n\
             type filter hook input priority 0; policy accept;\n\
             iifname eth0 meta l4proto udp counter name reached\n\
             iifname eth0 meta l4proto udp numgen random mod 100 < {LOSS} counter name dropped drop\n }}\n}}\n"
        );
        run("ip", &["netns", "exec", &self.namespace(node), "nft", "-f", "-"], &rules).map(drop)
    }

    /// Datagrams that reached `node` since [`lose`](Self::lose), and how many of them were dropped.
    pub(super) fn lost(&self, node: usize) -> anyhow::Result<(u64, u64)> {
        let arguments = ["netns", "exec", &self.namespace(node), "nft", "-j", "list", "counters"];
        let answer: serde_json::Value = serde_json::from_str(&run("ip", &arguments, "")?)?;
        let list = answer["nftables"].as_array().context("nft lists nothing")?;
        let packets = |name: &str| {
            let counter = list.iter().map(|o| &o["counter"]).find(|c| c["name"] == name);
            counter.and_then(|c| c["packets"].as_u64()).with_context(|| format!("no counter {name}"))
        };
        Ok((packets("reached")?, packets("dropped")?))
    }
}

fn ip(arguments: &[&str], input: &str) -> anyhow::Result<String> {
    run("ip", arguments, input)
}

fn run(program: &str, arguments: &[&str], input: &str) -> anyhow::Result<String> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| program.to_owned())?;
    let mut stdin = child.stdin.take().context("no stdin")?;
    // A program that reads nothing may be gone already; its exit code tells.
    drop(stdin.write_all(input.as_bytes()));
    drop(stdin);
    let output = child.wait_with_output()?;
    if !output.status.success() {
        let says = String::from_utf8_lossy(&output.stderr);
        bail!("{program} {} failed: {}", arguments.join(" "), says.trim());
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// What the network namespace of a process has sent, as the kernel counts it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sent {
    /// Bytes of IP packets, headers of IP, UDP and TCP included (`/proc/PID/net/netstat`, `IpExt OutOctets`).
    pub(super) bytes: u64,
    /// Datagrams (`/proc/PID/net/snmp`, `Udp OutDatagrams`).
    pub(super) datagrams: u64,
    /// Segments, without those sent again (`Tcp OutSegs`).
    pub(super) segments: u64,
}

impl Sent {
    /// Reads the counters.
    pub(super) fn by(process: u32) -> anyhow::Result<Self> {
        let file = |name: &str| std::fs::read_to_string(format!("/proc/{process}/net/{name}"));
        let (netstat, snmp) = (file("netstat")?, file("snmp")?);
        Ok(Sent {
            bytes: counter(&netstat, "IpExt", "OutOctets")?,
            datagrams: counter(&snmp, "Udp", "OutDatagrams")?,
            segments: counter(&snmp, "Tcp", "OutSegs")?,
        })
    }
}

/// A value out of the pairs of lines (names, values) of `/proc/net/snmp` and `/proc/net/netstat`.
fn counter(text: &str, group: &str, name: &str) -> anyhow::Result<u64> {
    let mut lines = text.lines().filter_map(|l| l.strip_prefix(group)?.strip_prefix(": "));
    let pair = lines.next().zip(lines.next()).with_context(|| format!("no {group}"))?;
    let found = pair.0.split(' ').zip(pair.1.split(' ')).find(|(n, _)| *n == name);
    Ok(found.with_context(|| format!("no {group} {name}"))?.1.parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_is_found_by_group_and_name() {
        let text =
            "Udp: InDatagrams OutDatagrams\nUdp: 3 4\nUdpLite: InDatagrams OutDatagrams\nUdpLite: 0 0\n";
        assert_eq!(counter(text, "Udp", "OutDatagrams").unwrap(), 4);
        assert!(counter(text, "Tcp", "OutSegs").is_err());
        assert!(Sent::by(std::process::id()).is_ok());
    }
}
