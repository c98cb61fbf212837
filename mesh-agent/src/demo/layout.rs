//! Where everything of the demo stands: addresses, ports, files. Pure.
//!
//! A demo owns one /16 of the loopback network, `127.X.0.0/16`: node *i* has `127.X.0.i`, its instances
//! `127.X.i.k`, and VIPs are claimed out of `127.X.128.0/17`. Several demos run side by side in different networks.

use ipnetwork::Ipv4Network;
use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

/// What a user chooses.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many agents, 1 to 9.
    pub nodes: u8,
    /// One line of JSON instead of text.
    pub json: bool,
    /// The /16 inside 127.0.0.0/8 that the demo uses; [`Options::DEFAULT_NETWORK`] when absent.
    pub network: Option<Ipv4Network>,
}

impl Options {
    /// The network used when none is named.
    pub const DEFAULT_NETWORK: &str = "127.77.0.0/16";
}

/// One agent of the demo.
#[derive(Clone, Debug)]
pub struct Node {
    /// `node-1`, `node-2`, …
    pub name: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its configuration file.
    pub config: PathBuf,
    /// Its admin socket.
    pub socket: PathBuf,
    /// Its log.
    pub log: PathBuf,
}

impl Node {
    /// Where its DNS answers. Port 53 would need privileges.
    #[must_use]
    pub fn dns(&self) -> SocketAddr {
        (self.address, 1053).into()
    }

    /// Where Prometheus scrapes it.
    #[must_use]
    pub fn metrics(&self) -> SocketAddr {
        (self.address, 9480).into()
    }

    /// Where its gossip listens.
    #[must_use]
    pub fn gossip(&self) -> SocketAddr {
        (self.address, 7946).into()
    }
}

/// One instance of a demo service.
#[derive(Clone, Debug)]
pub struct Instance {
    /// `whoami-1`, …
    pub name: String,
    /// The node it runs on.
    pub node: String,
    /// Its address.
    pub address: Ipv4Addr,
}

/// A demo service.
#[derive(Clone, Debug)]
pub struct Service {
    /// Its name.
    pub name: &'static str,
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    /// The port on the VIP and on every instance.
    pub port: u16,
    /// The port on every node.
    pub published: u16,
    /// Its instances.
    pub instances: Vec<Instance>,
}

/// Everything of a demo.
#[derive(Clone, Debug)]
pub struct Layout {
    /// The agents.
    pub nodes: Vec<Node>,
    /// The services.
    pub services: Vec<Service>,
    /// The file that declares the services to all agents.
    pub service_file: PathBuf,
    vip_cidr: Ipv4Network,
    /// The plane of the kernel that moves the packets, if it is one.
    kernel: Option<KernelPlane>,
    /// What configurations say besides, in whole lines.
    pub further: String,
}

/// A data plane in the kernel: its nodes have network namespaces of their own and containers on an overlay.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KernelPlane {
    /// eBPF.
    Ebpf,
    /// nftables.
    Nftables,
}

impl KernelPlane {
    /// As `data_plane` of the configuration and `--data-plane` write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            KernelPlane::Ebpf => "ebpf",
            KernelPlane::Nftables => "nftables",
        }
    }
}

impl Layout {
    /// Lays a demo out below `dir`.
    ///
    /// # Errors
    /// A text that names the option, the value and the fix.
    pub fn new(options: &Options, dir: &Path) -> Result<Layout, String> {
        let network = match options.network {
            Some(network) => network,
            None => Options::DEFAULT_NETWORK.parse().map_err(|e: ipnetwork::IpNetworkError| e.to_string())?,
        };
        if network.prefix() != 16 || !network.ip().is_loopback() {
            return Err(format!(
                "--network {network}: use a /16 inside 127.0.0.0/8, as {}",
                Options::DEFAULT_NETWORK
            ));
        }
        if !(1..=9).contains(&options.nodes) {
            return Err(format!("--nodes {}: use 1 to 9", options.nodes));
        }
        let [_, x, ..] = network.ip().octets();
        // The last node of three or more runs no whoami: its published port shows the routing mesh.
        let hosts = if options.nodes > 2 { options.nodes - 1 } else { options.nodes };
        Self::place([127, x], [127, x], options.nodes, hosts, dir)
    }

    /// Lays out nodes with network namespaces of their own, `10.77.0.i`, whose containers hold the instances: at
    /// addresses that their nodes give them once they run ([`Instance::address`] is to be set then). The last node
    /// runs no whoami.
    ///
    /// # Errors
    /// A text that names the option, the value and the fix.
    pub fn on_overlay(plane: KernelPlane, options: &Options, dir: &Path) -> Result<Layout, String> {
        let nodes = options.nodes;
        if !(2..=9).contains(&nodes) {
            return Err(format!("--nodes {nodes}: an overlay needs 2 to 9"));
        }
        if let Some(network) = options.network {
            return Err(format!(
                "--network {network}: the nodes of {} have networks of their own: leave it out",
                plane.name()
            ));
        }
        let layout = Self::place([10, 77], [10, 99], nodes, nodes - 1, dir)?;
        Ok(Layout { kernel: Some(plane), ..layout })
    }

    /// Lays out nodes with network namespaces of their own, so that no address is anybody else's: node *i* has
    /// `10.77.0.i`, its instances `10.77.i.k`, VIPs are on its loopback device. Every node runs instances.
    ///
    /// # Errors
    /// A text that names the option, the value and the fix.
    pub fn in_namespaces(nodes: u8, dir: &Path) -> Result<Layout, String> {
        if !(3..=9).contains(&nodes) {
            return Err(format!("--nodes {nodes}: a mesh that is to be split needs 3 to 9"));
        }
        Self::place([10, 77], [127, 77], nodes, nodes, dir)
    }

    /// The first two bytes of the addresses of nodes and instances, and those of VIPs.
    fn place([a, b]: [u8; 2], vips: [u8; 2], count: u8, hosts: u8, dir: &Path) -> Result<Layout, String> {
        let nodes: Vec<Node> = (1..=count)
            .map(|i| {
                let name = format!("node-{i}");
                Node {
                    address: Ipv4Addr::new(a, b, 0, i),
                    config: dir.join(&name).join("mesh.yaml"),
                    socket: dir.join(&name).join("admin.sock"),
                    log: dir.join(format!("{name}.log")),
                    name,
                }
            })
            .collect();
        let hosts = usize::from(hosts);
        let service =
            |name: &'static str, protocol, port, published, count: usize, hosts: &[Node], first: u8| {
                Service {
                    name,
                    protocol,
                    port,
                    published,
                    instances: (0..count)
                        .map(|k| {
                            let node = &hosts[k % hosts.len()];
                            let [_, _, _, i] = node.address.octets();
                            let offset = u8::try_from(k / hosts.len()).unwrap_or(0);
                            Instance {
                                name: format!("{name}-{}", k + 1),
                                node: node.name.clone(),
                                address: Ipv4Addr::new(a, b, i, first + offset),
                            }
                        })
                        .collect(),
                }
            };
        let whoami = service("whoami", "tcp", 8000, 8080, hosts.max(2) + 1, &nodes[..hosts], 1);
        let echo_hosts: Vec<Node> = nodes.iter().rev().take(2).rev().cloned().collect();
        let echo = service("echo", "udp", 7000, 7070, 2, &echo_hosts, 101);
        Ok(Layout {
            nodes,
            services: vec![whoami, echo],
            service_file: dir.join("services").join("demo.yaml"),
            vip_cidr: Ipv4Network::new(Ipv4Addr::new(vips[0], vips[1], 128, 0), 17)
                .map_err(|e| e.to_string())?,
            kernel: None,
            further: String::new(),
        })
    }

    /// Where the DNS of a node answers.
    #[must_use]
    pub fn dns(&self, node: &Node) -> SocketAddr {
        // In a namespace of its own it takes the port that clients ask by themselves.
        if self.kernel.is_some() { (node.address, 53).into() } else { node.dns() }
    }

    /// Every socket address that must be free, with what it is for.
    pub fn needed(&self) -> impl Iterator<Item = (SocketAddr, &'static str, String)> + '_ {
        let own = self.nodes.iter().flat_map(|n| {
            [
                (n.dns(), "udp", format!("DNS of {}", n.name)),
                (n.dns(), "tcp", format!("DNS of {}", n.name)),
                (n.metrics(), "tcp", format!("metrics of {}", n.name)),
                (n.gossip(), "udp", format!("gossip of {}", n.name)),
                (n.gossip(), "tcp", format!("gossip of {}", n.name)),
            ]
        });
        let published = self.nodes.iter().flat_map(|n| {
            self.services.iter().map(|s| {
                (
                    (n.address, s.published).into(),
                    s.protocol,
                    format!("published port of {} on {}", s.name, n.name),
                )
            })
        });
        let instances = self.services.iter().flat_map(|s| {
            s.instances
                .iter()
                .map(|i| ((i.address, s.port).into(), s.protocol, format!("instance {}", i.name)))
        });
        own.chain(published).chain(instances)
    }

    /// The text of the shared service file.
    #[must_use]
    pub fn service_yaml(&self) -> String {
        let mut text = String::from(
            "# The demo's services. Edit and save: every agent follows at once, without a restart.\nservices:\n",
        );
        for s in &self.services {
            text += &format!(
                "  {}:\n    ports:\n      - \"{}:{}/{}\"\n",
                s.name, s.published, s.port, s.protocol
            );
            text += "    stop_grace_period: 2s\n    x-mesh:\n";
            if s.protocol == "tcp" && self.kernel.is_none() {
                text += "      proxy_protocol: true   # so that whoami sees the client's own address\n";
            }
            if s.protocol == "tcp" {
                text += &format!(
                    "      health: {{tcp: {}, interval: 1s, timeout: 1s, rise: 1, fall: 2}}\n",
                    s.port
                );
            }
            text += "      endpoints:\n";
            for i in &s.instances {
                text +=
                    &format!("        - {{name: {}, address: {}, node: {}}}\n", i.name, i.address, i.node);
            }
        }
        text
    }

    /// The text of a node's configuration. `key` is the cluster key.
    #[must_use]
    pub fn config_yaml(&self, node: &Node, key: &str) -> String {
        let seeds: Vec<String> =
            self.nodes.iter().filter(|n| n.name != node.name).map(|n| n.gossip().to_string()).collect();
        let address = node.address;
        let plane = match self.kernel {
            None => format!(
                "data_plane: userspace\n\
                 userspace: {{workers: 1}}\n\
                 publish: {{addresses: [{address}]}}\n"
            ),
            Some(plane) => {
                let name = plane.name();
                format!("data_plane: {name}\noverlay: {{cidr: [10.88.0.0/16]}}\n{}", self.further)
            }
        };
        format!(
            "node: {{name: {name}, address: {address}}}\n\
             cluster:\n  bind: {gossip}\n  join: [{seeds}]\n  keys: [\"{key}\"]\n\
             vip_cidr: [{vips}]\n\
             {plane}\
             dns: {{listen: [\"{dns}\"]}}\n\
             admin: {{socket: {socket}}}\n\
             metrics: {{listen: \"{metrics}\"}}\n\
             sources: {{files: {{path: {services}}}}}\n\
             log: {{format: logfmt, level: info}}\n",
            name = node.name,
            gossip = node.gossip(),
            dns = self.dns(node),
            seeds = seeds.iter().map(|s| format!("\"{s}\"")).collect::<Vec<_>>().join(", "),
            vips = self.vip_cidr,
            socket = node.socket.display(),
            metrics = node.metrics(),
            services = self.service_file.parent().unwrap_or(Path::new(".")).display(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(nodes: u8) -> Options {
        Options { nodes, json: false, network: None }
    }

    #[test]
    fn every_size_has_instances_on_known_nodes_and_no_address_twice() {
        for nodes in 1..=9 {
            let layout = Layout::new(&options(nodes), Path::new("/d")).unwrap();
            let names: Vec<_> = layout.nodes.iter().map(|n| n.name.clone()).collect();
            let mut sockets: Vec<_> = layout.needed().map(|(a, p, _)| (a, p)).collect();
            let all = sockets.len();
            sockets.sort();
            sockets.dedup();
            assert_eq!(sockets.len(), all, "{nodes} nodes");
            for service in &layout.services {
                assert!(service.instances.len() >= 2);
                assert!(service.instances.iter().all(|i| names.contains(&i.node)));
            }
        }
    }

    #[test]
    fn with_three_nodes_one_runs_no_whoami() {
        let layout = Layout::new(&options(3), Path::new("/d")).unwrap();
        assert!(layout.services[0].instances.iter().all(|i| i.node != "node-3"));
    }

    #[test]
    fn where_the_kernel_moves_packets_the_configuration_says_so_and_nothing_hides_clients() {
        let layout = Layout::on_overlay(KernelPlane::Nftables, &options(3), Path::new("/d")).unwrap();
        let config = layout.config_yaml(&layout.nodes[0], "KEY");
        for line in ["data_plane: nftables", "overlay: {cidr: [10.88.0.0/16]}", "vip_cidr: [10.99.128.0/17]"]
        {
            assert!(config.lines().any(|l| l == line), "{line:?} is missing in {config}");
        }
        assert!(!layout.service_yaml().contains("proxy_protocol"));
        let mut bad = options(1);
        assert!(Layout::on_overlay(KernelPlane::Nftables, &bad, Path::new("/d")).is_err());
        bad = options(3);
        bad.network = "127.78.0.0/16".parse().ok();
        let error = Layout::on_overlay(KernelPlane::Nftables, &bad, Path::new("/d")).unwrap_err();
        assert!(error.contains("leave it out"), "{error}");
    }

    #[test]
    fn bad_options_name_value_and_fix() {
        let mut bad = options(3);
        bad.network = "10.0.0.0/16".parse().ok();
        assert!(Layout::new(&bad, Path::new("/d")).unwrap_err().contains("inside 127.0.0.0/8"));
        assert!(Layout::new(&options(0), Path::new("/d")).unwrap_err().contains("use 1 to 9"));
    }
}
