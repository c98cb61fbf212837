//! What facts mean, and how they are read.

use super::{facts::*, finding::*, judge, proc};
use crate::config::{HookChoice, XdpChoice};
use crate::sys::{
    conntrack::Usage,
    ruleset::{Chain, Hooked, Ruleset, TableName},
    vxlan::Vxlan,
};
use mesh_control::model::PortRange;

fn probed(name: &'static str, module: Option<&'static str>, overlay: bool) -> Probed {
    Probed { name, module, overlay, missing: None }
}

/// A host that has everything, for a configuration that asks for everything.
fn good() -> Facts {
    Facts {
        wanted: Wanted {
            encrypted: false,
            kernel_plane: Need::Required,
            ipvs: false,
            ebpf: Need::No,
            hook: HookChoice::Auto,
            xdp: XdpChoice::Off,
            bpffs: None,
            overlay: vec!["10.77.0.0/16".parse().unwrap()],
            vips: vec!["10.96.0.0/16".parse().unwrap()],
            dynamic_ports: PortRange::new(30_000, 32_767).ok(),
            listening: vec![listening("dns.listen", "0.0.0.0:53")],
            interfaces: Vec::new(),
            data_dir: None,
        },
        agent: false,
        kernel: "6.12.5-amd64".into(),
        probes: Ok(vec![
            probed("nf_tables", Some("nf_tables"), false),
            probed("netdev egress hook", None, false),
            probed("vxlan", Some("vxlan"), true),
        ]),
        sysctls: [
            ("net.ipv4.ip_forward", "1"),
            ("net.ipv4.conf.all.rp_filter", "1"),
            ("net.netfilter.nf_conntrack_tcp_loose", "1"),
            ("net.netfilter.nf_conntrack_tcp_be_liberal", "0"),
            ("net.ipv4.ip_local_port_range", "32768 60999"),
            ("net.ipv4.ip_local_reserved_ports", ""),
        ]
        .map(|(key, value)| (key, value.to_owned()))
        .into(),
        conntrack: Ok(Usage { entries: 10, max: 1_000 }),
        held: Vec::new(),
        links: Ok([("eth0".to_owned(), 2), ("eth1".to_owned(), 0), ("lo".to_owned(), 1)].into()),
        ruleset: Ok(Ruleset::default()),
        legacy_tables: Vec::new(),
        vxlans: vec![Vxlan { name: "mesh-vx".into(), vni: Some(77), port: 4789 }],
        routes: vec![
            ("192.0.2.0/24".parse().unwrap(), "eth0".into()),
            ("10.77.3.0/24".parse().unwrap(), "mesh-vx".into()),
        ],
        bpf: Bpf { syscall: true, btf: true, cgroup2: true },
        drivers: Vec::new(),
        ipvs: false,
        clock: Clock { unix: 1_795_000_000, synchronised: Some(true), last_written: Some(1_795_000_060) },
    }
}

fn listening(what: &str, at: &str) -> Listening {
    Listening { what: what.into(), at: at.parse().unwrap(), protocol: "UDP" }
}

fn chain(family: &'static str, table: &str, name: &str, hooked: Option<(&str, u32, i32, bool)>) -> Chain {
    Chain {
        table: TableName { family, name: table.into() },
        name: name.into(),
        hooked: hooked.map(|(kind, hook, priority, drops)| Hooked {
            kind: kind.into(),
            hook,
            priority,
            drops,
        }),
    }
}

/// What is not ok once a good host is changed, with its fix.
fn troubles(change: impl FnOnce(&mut Facts)) -> Vec<(&'static str, Level, String)> {
    let mut facts = good();
    change(&mut facts);
    let found = judge(&facts).into_iter().filter(|finding| finding.level != Level::Ok);
    found
        .map(|finding| (finding.check, finding.level, finding.fix.expect("every trouble has a fix")))
        .collect()
}

#[test]
fn a_good_host_has_no_trouble_and_every_check_speaks() {
    assert_eq!(troubles(|_| {}), []);
    let checks: Vec<&str> = judge(&good()).iter().map(|finding| finding.check).collect();
    let all = [
        "kernel",
        "nftables",
        "overlay-links",
        "ebpf",
        "ipvs",
        "clock",
        "forwarding",
        "rp_filter",
        "tcp-tracking",
        "conntrack",
        "dynamic-ports",
        "ports",
        "routes",
        "forward-policy",
    ];
    assert_eq!(checks, all);
}

#[test]
fn links_that_ports_are_published_on() {
    let of = |names: &[&str]| {
        let mut facts = good();
        facts.wanted.interfaces = names.iter().map(|name| (*name).to_owned()).collect();
        let found = judge(&facts).into_iter().filter(|finding| finding.check == "publish");
        found.map(|finding| (finding.found, finding.fix)).collect::<Vec<_>>()
    };
    assert_eq!(of(&[]), []);
    assert_eq!(of(&["eth0", "lo"]), [("on the addresses of eth0, lo".to_owned(), None)]);
    let trouble = |found: &str, fix: &str| (found.to_owned(), Some(fix.to_owned()));
    assert_eq!(
        of(&["eth1", "eth0", "wg7"]),
        [
            trouble(
                "publish.interfaces: eth1 has no address: no port is published there until it does",
                "ip address add ADDRESS/PREFIX dev eth1"
            ),
            trouble(
                "publish.interfaces: wg7 is not here: no port is published there until it is",
                "bring it up, or name one of eth0, eth1, lo"
            ),
        ]
    );
    let unread = troubles(|f| {
        f.wanted.interfaces = vec!["eth0".into()];
        f.links = Err("no".into());
    });
    assert_eq!(unread[0].0, "publish");
}

#[test]
fn programs_in_drivers() {
    let of = |xdp, agent, drivers: &[&str]| {
        let mut facts = Facts { agent, ..good() };
        facts.wanted.xdp = xdp;
        facts.drivers = drivers.iter().map(|name| (*name).to_owned()).collect();
        let found = judge(&facts).into_iter().find(|finding| finding.check == "xdp");
        found.map(|finding| (finding.level, finding.found))
    };
    assert_eq!(of(XdpChoice::Off, true, &[]), None);
    let used = "packets are taken at XDP on eth0, eth1";
    assert_eq!(of(XdpChoice::Auto, true, &["eth0", "eth1"]), Some((Level::Ok, used.into())));
    assert_eq!(of(XdpChoice::Auto, true, &[]).unwrap().0, Level::Warn);
    assert_eq!(of(XdpChoice::Native, false, &[]).unwrap().0, Level::Ok);
}

#[test]
fn where_programs_hang() {
    let of = |release: &str, hook| {
        let mut facts = Facts { kernel: release.into(), ..good() };
        (facts.wanted.hook, facts.wanted.ebpf) = (hook, Need::Required);
        let found = judge(&facts).into_iter().find(|finding| finding.check == "ebpf").unwrap();
        (found.level, found.found)
    };
    for (release, hook, level, says) in [
        ("6.12.5", HookChoice::Auto, Level::Ok, "by tcx"),
        ("6.12.5", HookChoice::Clsact, Level::Ok, "by clsact"),
        ("6.1.0-56-amd64", HookChoice::Auto, Level::Ok, "by clsact"),
        ("6.1.0-56-amd64", HookChoice::Tcx, Level::Fail, "tcx (Linux 6.6)"),
        ("5.15.0", HookChoice::Auto, Level::Fail, "Linux 6.1"),
    ] {
        let (found, text) = of(release, hook);
        assert!(found == level && text.contains(says), "{release} {hook:?}: {found:?} {text}");
    }
}

/// What `doctor` says is what the plane does.
#[cfg(feature = "ebpf")]
#[test]
fn the_plane_agrees_where_programs_hang() {
    for release in ["5.15.0", "6.0.9", "6.1.0", "6.5.13", "6.6.0", "6.12.5"] {
        let mut facts = Facts { kernel: release.into(), ..good() };
        facts.wanted.ebpf = Need::Required;
        let found = judge(&facts).into_iter().find(|finding| finding.check == "ebpf").unwrap();
        let old = mesh_ebpf::place::too_old(release).is_some();
        assert_eq!(found.level == Level::Fail, old, "{release}");
        assert!(old || found.found.contains("by tcx") == mesh_ebpf::place::has_tcx(release), "{release}");
    }
}

#[test]
fn the_kernel() {
    let of = |release: &str| troubles(|f| f.kernel = release.into());
    assert_eq!(
        of("5.15.0-91-generic")[0].2,
        "boot Linux 5.16 or later to keep the client's address between nodes"
    );
    assert_eq!(of("4.19.1")[0].0, "kernel");
    assert_eq!(of("strange")[0].0, "kernel");
    assert_eq!(of("5.16"), []);
    assert_eq!(of("10.0.1"), []);

    let lacks = |name: &'static str, need: Need| {
        troubles(|f| {
            f.wanted.kernel_plane = need;
            let probes = f.probes.as_mut().unwrap();
            probes.iter_mut().find(|p| p.name == name).unwrap().missing = Some("no such thing".into());
        })
    };
    assert_eq!(lacks("nf_tables", Need::Required), [("nftables", Level::Fail, "modprobe nf_tables".into())]);
    assert_eq!(lacks("nf_tables", Need::Preferred)[0].1, Level::Warn);
    assert_eq!(lacks("nf_tables", Need::No), []);
    let ipvs = |wanted| {
        troubles(|f| {
            f.ipvs = false;
            f.wanted.ipvs = wanted;
        })
    };
    assert_eq!(ipvs(true), [("ipvs", Level::Fail, "modprobe ip_vs, or set data_plane: auto".into())]);
    assert_eq!(ipvs(false), []);
    assert_eq!(lacks("netdev egress hook", Need::Required)[0].1, Level::Warn);
    assert_eq!(lacks("vxlan", Need::No), [("overlay-links", Level::Fail, "modprobe vxlan".into())]);

    let unprivileged = troubles(|f| f.probes = Err("not permitted".into()));
    assert_eq!(unprivileged, [("features", Level::Warn, "sudo mesh-agent doctor".into())]);
    let early = troubles(|f| f.clock.unix = 1_000);
    assert_eq!(early, [("clock", Level::Fail, "timedatectl set-ntp true".into())]);
    assert_eq!(troubles(|f| f.clock.synchronised = Some(false))[0].1, Level::Warn);
    assert_eq!(troubles(|f| f.clock.synchronised = None), []);
    assert_eq!(troubles(|f| f.clock.last_written = Some(1_795_000_061))[0].0, "clock", "set back");
}

#[test]
fn parameters_of_the_kernel() {
    let set = |key: &'static str, value: &str| troubles(|f| drop(f.sysctls.insert(key, value.into())));
    assert_eq!(
        set("net.ipv4.ip_forward", "0"),
        [("forwarding", Level::Warn, "sysctl -w net.ipv4.ip_forward=\"1\"".into())]
    );
    let strict = "sysctl -w net.ipv4.conf.mesh-vx.rp_filter=\"2\"";
    assert_eq!(set("net.ipv4.conf.mesh-vx.rp_filter", "0"), [("rp_filter", Level::Fail, strict.into())]);
    assert_eq!(set("net.ipv4.conf.mesh-vx.rp_filter", "2"), []);
    assert_eq!(set("net.netfilter.nf_conntrack_tcp_loose", "0")[0].0, "tcp-tracking");
    assert_eq!(set("net.bridge.bridge-nf-call-iptables", "1"), []);

    let full = |entries| troubles(|f| f.conntrack = Ok(Usage { entries, max: 1_000 }));
    assert_eq!(full(749), []);
    let more = "sysctl -w net.netfilter.nf_conntrack_max=\"2000\"";
    assert_eq!(full(750), [("conntrack", Level::Warn, more.into())]);
    assert_eq!(full(950), [("conntrack", Level::Fail, more.into())]);
    assert_eq!(troubles(|f| f.conntrack = Ok(Usage { entries: 9, max: 0 })), [], "no limit");
    assert_eq!(troubles(|f| f.conntrack = Err("no".into()))[0].1, Level::Warn);
}

#[test]
fn ports_and_who_has_them() {
    let ranges = |own: &str, reserved: &str| {
        troubles(|f| {
            f.sysctls.insert("net.ipv4.ip_local_port_range", own.into());
            f.sysctls.insert("net.ipv4.ip_local_reserved_ports", reserved.into());
        })
    };
    assert_eq!(ranges("32768 60999", ""), []);
    let reserve = |all: &str| {
        [("dynamic-ports", Level::Warn, format!("sysctl -w net.ipv4.ip_local_reserved_ports=\"{all}\""))]
    };
    assert_eq!(ranges("1024 65535", ""), reserve("30000-32767"));
    assert_eq!(ranges("1024 65535", "8080,9000-9010"), reserve("8080,9000-9010,30000-32767"));
    assert_eq!(ranges("1024 65535", "30000-32767"), []);
    assert_eq!(
        ranges("1024 65535", "30000-31000,31002-32767"),
        reserve("30000-31000,31002-32767,30000-32767")
    );

    let held = |what: &str, at: &str, by: &str, agent: bool| {
        troubles(|f| {
            f.agent = agent;
            f.held.push(Held { wanted: listening(what, at), by: by.into() });
        })
    };
    let dnsmasq = held("dns.listen", "0.0.0.0:53", "`dnsmasq` (pid 7)", false);
    let fix = "set dns.listen to another address or port, or stop it: kill 7";
    assert_eq!(dnsmasq, [("ports", Level::Fail, fix.into())]);
    let resolved = held("dns.listen", "127.0.0.53:53", "`systemd-resolve` (pid 8)", false);
    assert!(resolved[0].2.contains("DNSStubListener=no"));
    let ours = |agent| held("cluster.bind", "0.0.0.0:7946", "`mesh-agent` (pid 9)", agent);
    assert_eq!((ours(true).len(), ours(false).len()), (0, 1), "an agent that does not answer is in the way");
    let published = held("published by web", "0.0.0.0:8080", "`nginx` (pid 10)", true);
    assert_eq!(published[0].2, "publish another port, or stop it: kill 10");
}

#[test]
fn networks_of_others() {
    let device = |vni, port| troubles(|f| f.vxlans.push(Vxlan { name: "flannel.1".into(), vni, port }));
    assert_eq!(device(Some(1), 4789), []);
    assert_eq!(device(Some(77), 8472), []);
    let taken = [("vxlan", Level::Fail, "ip link del flannel.1, or set overlay.vni".to_owned())];
    assert_eq!(device(Some(77), 4789), taken);
    assert_eq!(device(None, 4789), taken);

    let route = |network: &str| troubles(|f| f.routes.push((network.parse().unwrap(), "tun0".into())));
    assert_eq!(route("10.78.0.0/16"), []);
    let fix = "choose another overlay.cidr, or: ip route del 10.0.0.0/9 dev tun0";
    assert_eq!(route("10.0.0.0/9")[0], ("routes", Level::Fail, fix.to_owned()));
    assert_eq!(route("10.96.4.0/24").len(), 1);
    assert_eq!(route("fd00::/8"), [], "another family");
}

#[test]
fn rules_of_others() {
    let rules = |chains: Vec<Chain>| troubles(|f| f.ruleset = Ok(Ruleset { chains, ..Ruleset::default() }));
    let forward = |family, table, name| chain(family, table, name, Some(("filter", 2, 0, true)));
    let docker = || vec![forward("ip", "filter", "FORWARD"), chain("ip", "filter", "DOCKER-USER", None)];
    let fix = "iptables -I DOCKER-USER -i mesh0 -j ACCEPT && iptables -I DOCKER-USER -o mesh0 -j ACCEPT && \
               iptables -I DOCKER-USER -i mesh-vx -j ACCEPT && iptables -I DOCKER-USER -o mesh-vx -j ACCEPT";
    assert_eq!(rules(docker()), [("forward-policy", Level::Fail, fix.into())]);
    let allowed = troubles(|f| {
        let naming = [TableName { family: "ip", name: "filter".into() }].into();
        f.ruleset = Ok(Ruleset { chains: docker(), naming });
    });
    assert_eq!(allowed, []);
    let without = |overlay: bool, chains: Vec<Chain>| {
        troubles(|f| {
            if !overlay {
                f.wanted.overlay.clear();
            }
            f.ruleset = Ok(Ruleset { chains, ..Ruleset::default() });
        })
    };
    assert_eq!(without(false, docker())[0].1, Level::Warn);
    let begins = |chains: Vec<Chain>, fix: &str| assert!(rules(chains)[0].2.starts_with(fix), "{fix}");
    begins(vec![forward("ip6", "filter", "FORWARD")], "ip6tables -I FORWARD -i mesh0 -j ACCEPT && ");
    begins(
        vec![forward("ip", "filter", "FORWARD"), chain("ip", "filter", "ufw-before-forward", None)],
        "ufw route allow in on mesh0 && ufw route allow out on mesh0 && ",
    );
    begins(vec![forward("inet", "firewalld", "filter_FORWARD")], "firewall-cmd --permanent --zone=trusted ");
    begins(vec![forward("inet", "fw", "fwd")], "nft insert rule inet fw fwd iifname mesh0 accept && ");
    assert_eq!(rules(vec![chain("inet", "fw", "fwd", Some(("filter", 2, 0, false)))]), []);
    assert_eq!(rules(vec![chain("inet", "fw", "in", Some(("filter", 1, 0, true)))]), [], "not forwarded");

    let nat = |table, priority| rules(vec![chain("ip", table, "pre", Some(("nat", 0, priority, false)))]);
    assert_eq!(nat("nat", -100), []);
    assert_eq!(nat("mesh-agent", -105), [], "ours");
    let early = "move it to priority -100: nft list chain ip nat pre";
    assert_eq!(nat("nat", -105), [("foreign-nat", Level::Warn, early.into())]);
    assert_eq!(rules(vec![chain("ip", "nat", "KUBE-SERVICES", None)]), [], "told, no trouble");

    let legacy = troubles(|f| f.legacy_tables.push("ip filter".into()));
    assert_eq!((legacy[0].0, legacy[0].1), ("legacy-iptables", Level::Warn));
    assert_eq!(troubles(|f| f.ruleset = Err("no".into()))[0].0, "rules");
}

#[test]
fn tables_of_the_kernel_are_read() {
    let octets = |a, b, c, d| format!("{:08X}", u32::from_ne_bytes([a, b, c, d]));
    let line = |to: String, mask: String| format!("eth0\t{to}\t00000000\t0001\t0\t0\t0\t{mask}\t0\t0\t0\n");
    let table = format!(
        "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n{}{}",
        line(octets(0, 0, 0, 0), octets(0, 0, 0, 0)),
        line(octets(192, 0, 2, 0), octets(255, 255, 255, 0)),
    );
    assert_eq!(proc::routes4(&table), [("192.0.2.0/24".parse().unwrap(), "eth0".to_owned())]);
    let zero = "00000000000000000000000000000000";
    let six = format!(
        "fd000000000000000000000000000000 40 {zero} 00 {zero} 00000100 00000001 00000000 00000001 eth0\n\
         fe800000000000000000000000000000 40 {zero} 00 {zero} 00000100 00000001 00000000 00000001 eth0\n\
         {zero} 00 {zero} 00 {zero} 00000100 00000001 00000000 00000001 eth0\n"
    );
    assert_eq!(proc::routes6(&six), [("fd00::/64".parse().unwrap(), "eth0".to_owned())]);
    for bad in ["", "\n", "eth0", "eth0 zz", "eth0 00000000 0 0 0 0 0 FF00FF00", "é 1 2 3"] {
        assert_eq!((proc::routes4(bad), proc::routes6(bad)), (vec![], vec![]), "{bad:?}");
    }
    assert!(proc::has_cgroup2("x / ext4 rw 0 0\ncgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n"));
    assert!(!proc::has_cgroup2("cgroup2 /sys/fs/cgroup cgroup rw 0 0\n"));
}
