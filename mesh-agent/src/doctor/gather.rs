//! Looks at the host, and changes nothing: what has to be tried is tried in a network namespace that goes at once.

use super::{
    facts::{Bpf, Clock, Facts, Held, Probed, Wanted},
    proc,
};
use crate::sys::{
    clock,
    conntrack::Conntrack,
    link::set_up,
    netns::Netns,
    rtnl::Rtnl,
    ruleset::{self, Feature},
    vxlan::{self, LinkKind},
};
use std::{
    collections::BTreeMap,
    fs, io,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

/// Parameters that are judged.
const SYSCTLS: [&str; 9] = [
    "net.ipv4.ip_forward",
    "net.ipv6.conf.all.forwarding",
    "net.ipv4.conf.all.rp_filter",
    "net.ipv4.conf.mesh-vx.rp_filter",
    "net.bridge.bridge-nf-call-iptables",
    "net.netfilter.nf_conntrack_tcp_loose",
    "net.netfilter.nf_conntrack_tcp_be_liberal",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
];

/// Looks at the host. `agent` is whether one answers here. Blocks.
#[must_use]
pub fn gather(wanted: Wanted, agent: bool) -> Facts {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let release = read("/proc/sys/kernel/osrelease").trim().to_owned();
    let mut routes = proc::routes4(&read("/proc/thread-self/net/route"));
    routes.extend(proc::routes6(&read("/proc/thread-self/net/ipv6_route")));
    let builtin = read(&format!("/lib/modules/{release}/modules.builtin"));
    let held = wanted.listening.iter().filter_map(|socket| {
        mesh_dns::port_owner(socket.at, socket.protocol).map(|by| Held { wanted: socket.clone(), by })
    });
    Facts {
        agent,
        probes: probe(wanted.encrypted).map_err(|e| e.to_string()),
        sysctls: SYSCTLS.into_iter().filter_map(|key| sysctl(key).map(|value| (key, value))).collect(),
        conntrack: Conntrack::open().and_then(|mut table| table.usage()).map_err(|e| e.to_string()),
        held: held.collect(),
        links: links().map_err(|e| e.to_string()),
        ruleset: ruleset::read(super::judge::BRIDGE).map_err(|e| e.to_string()),
        legacy_tables: ["ip", "ip6"]
            .iter()
            .flat_map(|family| {
                let names = read(&format!("/proc/thread-self/net/{family}_tables_names"));
                names.lines().map(|name| format!("{family} {name}")).collect::<Vec<_>>()
            })
            .collect(),
        vxlans: vxlan::devices().unwrap_or_default(),
        routes,
        bpf: Bpf {
            syscall: Path::new("/proc/sys/kernel/unprivileged_bpf_disabled").exists(),
            btf: Path::new("/sys/kernel/btf/vmlinux").exists(),
            cgroup2: proc::has_cgroup2(&read("/proc/mounts")),
        },
        drivers: drivers(wanted.bpffs.as_deref()).unwrap_or_default(),
        ipvs: Path::new("/proc/net/ip_vs").exists() || builtin.contains("/ip_vs.ko"),
        clock: Clock {
            unix: unix(SystemTime::now()),
            last_written: wanted.data_dir.as_deref().and_then(last_written),
            synchronised: clock::synchronised(),
        },
        kernel: release,
        wanted,
    }
}

/// The links, by name, and how many addresses each has.
fn links() -> io::Result<BTreeMap<String, usize>> {
    let mut rtnl = Rtnl::open()?;
    let (links, addresses) = (rtnl.links()?, rtnl.addresses()?);
    let count = |index| addresses.iter().filter(|address| address.link == index).count();
    Ok(links.into_iter().map(|link| (link.name, count(link.index))).collect())
}

/// The devices, by name, with the program of the eBPF data plane.
fn drivers(bpffs: Option<&Path>) -> io::Result<Vec<String>> {
    #[cfg(feature = "ebpf")]
    let have = crate::dataplane::ebpf::drivers(bpffs)?;
    #[cfg(not(feature = "ebpf"))]
    let (_, have) = (bpffs, Vec::<u32>::new());
    if have.is_empty() {
        return Ok(Vec::new());
    }
    let links = Rtnl::open()?.links()?;
    Ok(links.into_iter().filter(|link| have.contains(&link.index)).map(|link| link.name).collect())
}

fn unix(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// When the newest file of a folder was written.
fn last_written(folder: &Path) -> Option<u64> {
    let files = fs::read_dir(folder).ok()?.flatten();
    files.filter_map(|file| file.metadata().ok()?.modified().ok()).map(unix).max()
}

fn sysctl(key: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/sys/{}", key.replace('.', "/"))).ok()?;
    Some(text.split_ascii_whitespace().collect::<Vec<_>>().join(" "))
}

/// Tries what the data plane and the overlay need.
fn probe(encrypted: bool) -> io::Result<Vec<Probed>> {
    let netns = Netns::new()?;
    set_up(&netns, "lo", true)?;
    let mut all = Vec::new();
    for (name, module, feature) in [
        ("nf_tables", Some("nf_tables"), Feature::Tables),
        ("nat chains", Some("nft_chain_nat"), Feature::Nat),
        ("netdev egress hook", None, Feature::Egress),
        ("ct", Some("nft_ct"), Feature::Expression("ct")),
        ("dynset", Some("nf_tables"), Feature::Expression("dynset")),
        ("fib", Some("nft_fib_ipv4"), Feature::Expression("fib")),
        ("hash", Some("nft_hash"), Feature::Expression("hash")),
        ("masq", Some("nft_masq"), Feature::Expression("masq")),
        ("nat", Some("nft_nat"), Feature::Expression("nat")),
        ("numgen", Some("nft_numgen"), Feature::Expression("numgen")),
        ("reject", Some("nft_reject_ipv4"), Feature::Expression("reject")),
    ] {
        let missing = netns.run(|| ruleset::try_feature(feature))?.err().map(|e| e.to_string());
        all.push(Probed { name, module, overlay: false, missing });
    }
    let wireguard = ("wireguard", LinkKind::Wireguard);
    let plain = [("bridge", LinkKind::Bridge), ("veth", LinkKind::Veth), ("vxlan", LinkKind::Vxlan)];
    for (name, kind) in plain.into_iter().chain(encrypted.then_some(wireguard)) {
        let missing = vxlan::try_link(&netns, kind).err().map(|e| e.to_string());
        all.push(Probed { name, module: Some(name), overlay: true, missing });
    }
    Ok(all)
}
