//! The planes, and what every scenario begins with: three nodes, and instances in containers of two of them.

use anyhow::{Context as _, ensure};
use mesh_agent::{
    dataplane::ebpf::Apart,
    sys::{netdev::Netdev, ruleset::has_egress, wireguard::Wireguard},
};
use mesh_integration::{
    BOUND, HostMesh, agent_binary,
    lab::{self, Host, Lab},
    until, whoami_from,
};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Read, Write},
    net::{IpAddr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
};
use tokio::task::AbortHandle;

/// What moves the packets.
#[derive(Clone, Copy)]
pub(crate) struct Plane {
    /// In a node's configuration; V4 and V6 stand for its addresses.
    pub(crate) config: &'static str,
    /// In that of every second node, where it has another data plane.
    pub(crate) second: Option<&'static str>,
    /// Whether a node has eBPF's data plane.
    pub(crate) ebpf: bool,
    /// Whether that is at XDP, too.
    pub(crate) native: bool,
    /// Whether it answers outside clients from the backend's node.
    pub(crate) direct: bool,
    /// In `x-mesh` of a service whose instances are to know their clients.
    pub(crate) keeps_client: &'static str,
    /// Whether containers are attached to the overlay; else the way between those of two nodes is laid by hand.
    pub(crate) overlay: bool,
    /// Whether the overlay is encrypted.
    pub(crate) sealed: bool,
}

impl Plane {
    /// Whether an instance is told its client's address. Where the kernel cannot, it says so.
    pub(crate) fn knows_clients(&self) -> bool {
        // The proxy tells it in band.
        let known = !self.keeps_client.is_empty() || has_egress();
        if !known {
            eprintln!("SKIPPED: instances know their clients: no netdev egress hook before Linux 5.16");
        }
        known
    }

    /// Whether it can be tested here: says so when not.
    pub(crate) fn possible(&self) -> bool {
        if self.config.contains("ipvs") && !lab::has_ipvs() {
            return false;
        }
        if self.ebpf && !lab::runs_ebpf() {
            return false;
        }
        if self.native
            && let Err(error) = Netdev::open()
            && error.kind() == std::io::ErrorKind::NotFound
        {
            eprintln!(
                "SKIPPED: this kernel does not say which devices run programs, as Linux 6.3 does: {error}"
            );
            return false;
        }
        if !self.sealed {
            return lab::possible();
        }
        let Err(error) = Wireguard::open() else { return lab::possible() };
        eprintln!("SKIPPED: this kernel has no WireGuard ({error}); `make test-vm` boots one that has");
        false
    }
}

pub(crate) const USERSPACE: Plane = Plane {
    config: "data_plane: userspace\n",
    second: None,
    ebpf: false,
    native: false,
    direct: false,
    keeps_client: "proxy_protocol: true",
    overlay: false,
    sealed: false,
};
pub(crate) const USERSPACE_OVERLAY: Plane = Plane {
    config: "data_plane: userspace\noverlay: {cidr: [10.244.0.0/16, \"fd44::/48\"]}\n\
             publish: {addresses: [V4, \"V6\"]}\n",
    overlay: true,
    ..USERSPACE
};
pub(crate) const NFTABLES: Plane = Plane {
    config: "data_plane: nftables\nvip_cidr: [10.96.0.0/16, \"fd96::/112\"]\n\
             overlay: {cidr: [10.244.0.0/16, \"fd44::/48\"]}\n",
    second: None,
    ebpf: false,
    native: false,
    direct: false,
    keeps_client: "",
    overlay: true,
    sealed: false,
};
pub(crate) const NFTABLES_SEALED: Plane = Plane {
    config: "data_plane: nftables\nvip_cidr: [10.96.0.0/16, \"fd96::/112\"]\n\
             overlay: {cidr: [10.244.0.0/16, \"fd44::/48\"], encryption: wireguard}\n",
    sealed: true,
    ..NFTABLES
};

pub(crate) const IPVS: Plane = Plane {
    config: "data_plane: ipvs\nvip_cidr: [10.96.0.0/16, \"fd96::/112\"]\n\
             overlay: {cidr: [10.244.0.0/16, \"fd44::/48\"]}\n",
    ..NFTABLES
};
pub(crate) const IPVS_DIRECT: Plane = Plane {
    config: "data_plane: ipvs\nipvs: {forward: direct}\nvip_cidr: [10.96.0.0/16, \"fd96::/112\"]\n\
             overlay: {cidr: [10.244.0.0/16, \"fd44::/48\"]}\n",
    ..NFTABLES
};
pub(crate) const IPVS_DIRECT_SEALED: Plane = Plane {
    config: "data_plane: ipvs\nipvs: {forward: direct}\nvip_cidr: [10.96.0.0/16, \"fd96::/112\"]\n\
             overlay: {cidr: [10.244.0.0/16, \"fd44::/48\"], encryption: wireguard}\n",
    sealed: true,
    ..IPVS_DIRECT
};
pub(crate) const IPVS_DIRECT_AND_EBPF: Plane = Plane { ebpf: true, second: Some(EBPF.config), ..IPVS_DIRECT };
pub(crate) const IPVS_DIRECT_AND_NFTABLES: Plane = Plane { second: Some(NFTABLES.config), ..IPVS_DIRECT };
pub(crate) const EBPF: Plane = Plane {
    config: "data_plane: ebpf\nvip_cidr: [10.96.0.0/16, \"fd96::/112\"]\n\
             overlay: {cidr: [10.244.0.0/16, \"fd44::/48\"]}\n",
    ebpf: true,
    ..NFTABLES
};
pub(crate) const EBPF_NATIVE: Plane = Plane { native: true, ..EBPF };
pub(crate) const EBPF_DIRECT: Plane = Plane { direct: true, ..EBPF };
pub(crate) const EBPF_DIRECT_NATIVE: Plane = Plane { direct: true, ..EBPF_NATIVE };
pub(crate) const EBPF_DIRECT_AND_NFTABLES: Plane = Plane { direct: true, ..EBPF_AND_NFTABLES };
pub(crate) const EBPF_SEALED: Plane = Plane {
    config: "data_plane: ebpf\nvip_cidr: [10.96.0.0/16, \"fd96::/112\"]\n\
             overlay: {cidr: [10.244.0.0/16, \"fd44::/48\"], encryption: wireguard}\n",
    sealed: true,
    ..EBPF
};
pub(crate) const EBPF_DIRECT_SEALED: Plane = Plane { direct: true, ..EBPF_SEALED };
pub(crate) const IPVS_SEALED: Plane = Plane {
    config: "data_plane: ipvs\nvip_cidr: [10.96.0.0/16, \"fd96::/112\"]\n\
             overlay: {cidr: [10.244.0.0/16, \"fd44::/48\"], encryption: wireguard}\n",
    sealed: true,
    ..IPVS
};
pub(crate) const EBPF_AND_NFTABLES: Plane = Plane { second: Some(NFTABLES.config), ..EBPF };

/// Where instances are: a container of a node.
pub(crate) struct Container {
    pub(crate) host: Host,
    pub(crate) node: String,
    pub(crate) addresses: Vec<IpAddr>,
}

impl Container {
    /// As an endpoint of a service file, without the closing brace.
    pub(crate) fn endpoint(&self, instance: &str) -> String {
        let addresses: Vec<String> = self.addresses.iter().map(|a| format!("\"{a}\"")).collect();
        format!("{{name: {instance}, node: {}, address: [{}]", self.node, addresses.join(", "))
    }

    /// Starts an instance on all its addresses.
    pub(crate) fn serve(
        &self,
        mesh: &mut HostMesh,
        service: &str,
        instance: &str,
        protocol: &str,
        port: u16,
    ) -> Vec<AbortHandle> {
        let serve = |a: &IpAddr| {
            mesh.serve(&self.host, service, instance, &self.node, protocol, (*a, port).into()).unwrap()
        };
        self.addresses.iter().map(serve).collect()
    }
}

/// The last byte of a node's address.
fn lab_number(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(address) => address.octets()[3],
        IpAddr::V6(address) => address.octets()[15],
    }
}

/// Three nodes and a container on each of the first two.
pub(crate) async fn start(plane: &Plane) -> (HostMesh, Vec<Container>) {
    let mut lab = Lab::of(3).unwrap();
    let mut hosts = Vec::new();
    for i in [1, 2] {
        if plane.overlay {
            hosts.push((lab.hosts.add(&format!("container-{i}")).unwrap(), Vec::new()));
            continue;
        }
        let own = format!("10.244.{i}.5/24").parse().unwrap();
        hosts.push((lab.container(i, &[own]).unwrap(), vec![own.ip()]));
        let network = format!("10.244.{i}.0/24").parse().unwrap();
        for other in (1..=3).filter(|other| *other != i) {
            lab.node(other).route(network, lab.address(i)[0]).unwrap();
        }
    }
    if plane.native {
        lab.native().unwrap();
    }
    let ground = plane.ebpf.then(|| Apart::new().unwrap());
    let configure = |[v4, v6]: [IpAddr; 2]| {
        let even = lab_number(v4).is_multiple_of(2);
        let config = plane.second.filter(|_| even).unwrap_or(plane.config);
        let config = config.replace("V4", &v4.to_string()).replace("V6", &v6.to_string());
        let section = ground.as_ref().map(Apart::yaml).unwrap_or_default();
        let more = |on: bool, words: &str| if on { format!("{words}, ") } else { String::new() };
        let (native, direct) = (more(plane.native, "xdp: native"), more(plane.direct, "return: direct"));
        config + &section.replace("ebpf: {", &format!("ebpf: {{{native}{direct}"))
    };
    let mut mesh = HostMesh::start(lab, agent_binary!(), configure).unwrap();
    mesh.ground = ground;
    mesh.until_ready().await;
    let mut containers = Vec::new();
    for (i, (host, mut addresses)) in (1..).zip(hosts) {
        if plane.overlay {
            let attached = || mesh.attach(i, &host);
            addresses = until("the node has its subnet, and the container is on it", BOUND, attached).await;
        }
        containers.push(Container { host, node: format!("node-{i}"), addresses });
    }
    for node in mesh.nodes().iter().filter(|_| plane.overlay) {
        until("the overlay leads to every other node", BOUND, || async {
            let (_, status) = node.admin("/v1/status").await?;
            anyhow::ensure!(status["overlay"]["peers"] == 2, "{}", status["overlay"]);
            anyhow::Ok(())
        })
        .await;
    }
    (mesh, containers)
}

/// The kernel's numbers of all maps, programs and links of eBPF that the nodes have.
pub(crate) fn pinned(mesh: &HostMesh) -> BTreeMap<PathBuf, u32> {
    let Some(ground) = &mesh.ground else { return BTreeMap::new() };
    mesh_ebpf::ids(&ground.bpffs().join("mesh-agent")).unwrap()
}

/// A service with an instance in each container, all on `target`; the instances are named by the service.
pub(crate) fn one_in_each(
    mesh: &mut HostMesh,
    containers: &[Container],
    protocol: &str,
    ports: &str,
    target: u16,
) -> String {
    let name = if protocol == "tcp" { "whoami" } else { "echo" };
    let mut endpoints = String::new();
    for (i, container) in (1..).zip(containers) {
        let instance = format!("{name}-{i}");
        container.serve(mesh, name, &instance, protocol, target);
        endpoints += &format!("{}}}, ", container.endpoint(&instance));
    }
    format!("  {name}:\n    ports: [\"{ports}/{protocol}\"]\n    x-mesh:\n      endpoints: [{endpoints}]\n")
}

/// Waits until whoami at `at` was answered by all of `instances` in turn, and by nobody else.
pub(crate) async fn until_met(mesh: &HostMesh, at: SocketAddr, instances: &[&str]) {
    let own = mesh.lab.client_address(0)[usize::from(at.is_ipv6())];
    until(&format!("{instances:?} answer through {at}, and only they"), BOUND, || async {
        let mut met = BTreeSet::new();
        for _ in 0..6 {
            met.insert(mesh.lab.client.within(whoami_from(own, at)).await??.instance);
        }
        ensure!(met.iter().eq(instances), "met {met:?}");
        anyhow::Ok(())
    })
    .await;
}

/// What `doctor` says of that check on a node, as it is asked by a program.
pub(crate) fn findings(mesh: &HostMesh, i: u8, check: &str) -> anyhow::Result<Vec<Value>> {
    let place = &mesh.node(i.into()).place;
    let (config, admin) = (place.config.display().to_string(), format!("unix:{}", place.socket.display()));
    let agent = agent_binary!().to_str().context("a path of text")?;
    let told =
        mesh.lab.node(i).output(agent, &["--json", "--admin", &admin, "doctor", "--config", &config])?;
    let told: Value = serde_json::from_slice(&told.stdout)?;
    let all = told["findings"].as_array().context("findings")?.iter();
    Ok(all.filter(|finding| finding["check"] == check).cloned().collect())
}

/// Runs commands on a host, which must work.
#[track_caller]
pub(crate) fn shell(host: &Host, commands: &str) {
    done(host, "sh", &["-ec", commands]);
}

/// The same of `ip`: that of iproute2, where a shell may have one of its own that knows less.
#[track_caller]
pub(crate) fn ip(host: &Host, words: &str) {
    done(host, "ip", &words.split(' ').collect::<Vec<_>>());
}

#[track_caller]
fn done(host: &Host, program: &str, arguments: &[&str]) {
    let done = host.output(program, arguments).unwrap();
    let told = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{}: {program} {}: {told}", host.name, arguments.join(" "));
}

/// Answers every connection with what it sent, once all of it has come.
pub(crate) fn mirror(container: &Container, port: u16) {
    let listener =
        container.host.inside(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))).flatten().unwrap();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let mut all = Vec::new();
            drop(stream.read_to_end(&mut all).and_then(|_| stream.write_all(&all)));
        }
    });
}

/// Sends `bytes` to a mirror and gives what comes back.
pub(crate) fn mirrored(host: &Host, at: SocketAddr, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = host.inside(|| TcpStream::connect_timeout(&at, BOUND)).flatten()?;
    stream.set_read_timeout(Some(BOUND))?;
    stream.write_all(bytes)?;
    stream.shutdown(Shutdown::Write)?;
    let mut back = Vec::new();
    stream.read_to_end(&mut back)?;
    Ok(back)
}
