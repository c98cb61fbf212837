use super::*;
use crate::overlay::Encryption;
use std::{net::SocketAddr, path::Path, time::Duration};

const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

fn host() -> HostFacts {
    HostFacts { hostname: Some("Node-A".into()), address: Some("192.0.2.10".parse().unwrap()) }
}

pub(super) fn parse(text: &str) -> Result<Config, ConfigErrors> {
    Config::parse("mesh.yaml", text, Path::new("/etc/mesh"), &host())
}

pub(super) fn errors(text: &str) -> Vec<String> {
    parse(text).expect_err("must be refused").lines()
}

/// `text` with a keyring behind it, so that only what the case is about is wrong.
pub(super) fn keyed(text: &str) -> String {
    if text.contains("cluster:\n") {
        text.replace("cluster:\n", &format!("cluster:\n  keys: [{KEY}]\n"))
    } else {
        format!("{text}cluster: {{keys: [{KEY}]}}\n")
    }
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[test]
fn a_key_is_all_that_is_needed() {
    let c = parse(&format!("cluster: {{keys: [{KEY}]}}\n")).unwrap();
    assert_eq!(c.node.name.as_str(), "node-a");
    assert_eq!(c.node.addresses.first(), Some("192.0.2.10".parse().unwrap()));
    assert_eq!((c.cluster.bind, c.cluster.advertise), (at("0.0.0.0:7946"), at("192.0.2.10:7946")));
    assert_eq!((c.domain.as_str(), c.data_plane), ("cluster", PlaneChoice::Auto));
    assert_eq!(c.vip_cidr, ["127.96.0.0/16".parse().unwrap()]);
    assert_eq!(c.dns.listen, [at("127.0.0.1:5300")]);
    assert_eq!(c.metrics.listen, Some(at("127.0.0.1:9480")));
    assert_eq!(c.sources, SourcesConfig::default());
}

#[test]
fn the_documented_example_is_read_and_shows_the_defaults() {
    let doc = include_str!("../../../docs/config.md");
    let yaml = doc.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let shown = parse(yaml).unwrap();
    let bare = parse(&format!("cluster: {{keys: [{KEY}]}}\n")).unwrap();
    assert_eq!(shown.cluster.join, ["192.0.2.11:7946", "node-c.example.com:7946"]);
    assert_eq!(shown.sources.files.as_ref().unwrap().poll, Duration::from_secs(10));
    let defaults = Config {
        node: NodeConfig { zone: None, ..shown.node },
        cluster: ClusterConfig { join: vec![], data_dir: None, ..shown.cluster },
        ebpf: EbpfConfig { bpffs: None, cgroup: None, ..shown.ebpf },
        userspace: UserspaceConfig { workers: None, ..shown.userspace },
        admin: AdminConfig { listen: None, ..shown.admin },
        overlay: vec![],
        sources: SourcesConfig::default(),
        dns: DnsConfig { kubernetes: None, ..shown.dns },
        ..shown
    };
    assert_eq!(defaults, bare);
}

#[test]
fn upstreams_by_domain_and_encrypted_ones_are_read() {
    let text = "dns: {upstreams: ['tls://9.9.9.9#dns.quad9.net', 192.0.2.53], \
                domains: {Corp.Example: 10.0.0.53, secret.example: []}}\n";
    let read = parse(&keyed(text)).unwrap().dns;
    let all = |list: &[&str]| list.iter().map(|u| u.parse().unwrap()).collect::<Vec<_>>();
    assert_eq!(read.upstreams, Upstreams::List(all(&["tls://9.9.9.9:853#dns.quad9.net", "192.0.2.53:53"])));
    let domains: Vec<_> = read.domains.into_iter().collect();
    let (corp, secret) = ("corp.example".to_owned(), "secret.example".to_owned());
    assert_eq!(domains, [(corp, all(&["10.0.0.53:53"])), (secret, all(&[]))]);
}

#[test]
fn an_overlay_has_a_prefix_length_for_each_family() {
    let read = |text: &str| -> Vec<(String, u8)> {
        let overlay = parse(&keyed(text)).unwrap().overlay;
        overlay.iter().map(|o| (o.network.to_string(), o.node_prefix)).collect()
    };
    let pair = |network: &str, bits| (network.to_owned(), bits);
    assert_eq!(read("domain: mesh\n"), []);
    assert_eq!(read("overlay: {cidr: 10.128.0.0/14}\n"), [pair("10.128.0.0/14", 24)]);
    assert_eq!(
        read("overlay: {cidr: ['fd00:1::/48', 10.128.0.0/14], node_prefix: 26}\n"),
        [pair("fd00:1::/48", 64), pair("10.128.0.0/14", 26)]
    );
    assert_eq!(
        read("overlay: {cidr: ['fd00:1::/48', 10.128.0.0/14], node_prefix: [80, 25]}\n"),
        [pair("fd00:1::/48", 80), pair("10.128.0.0/14", 25)]
    );
}

#[test]
fn the_overlays_links_can_be_named() {
    let text = "overlay: {cidr: 10.128.0.0/14, bridge: br-m, device: vx.9, vni: 9, port: 8472, audit_interval: 5s}\n";
    let links = parse(&keyed(text)).unwrap().overlay_links;
    assert_eq!((links.bridge.as_str(), links.device.as_str()), ("br-m", "vx.9"));
    assert_eq!((links.vni, links.port, links.audit_interval), (9, 8472, Duration::from_secs(5)));
    assert_eq!(parse(&keyed("domain: mesh\n")).unwrap().overlay_links, OverlayLinks::default());
}

#[test]
fn an_overlay_is_encrypted_where_that_is_asked_for() {
    let read = |more: &str| {
        parse(&keyed(&format!("overlay: {{cidr: 10.128.0.0/14{more}}}\n"))).unwrap().overlay_links.encryption
    };
    assert_eq!((read(""), read(", encryption: none")), (None, None));
    assert_eq!(read(", encryption: wireguard"), Some(Encryption::default()));
    let found = read(", encryption: wireguard, encryption_port: 51820, key_lifetime: 24h").unwrap();
    assert_eq!((found.port, found.key_lifetime), (51820, Duration::from_secs(86_400)));
}

#[test]
fn addresses_default_from_each_other() {
    let c = parse(&keyed("cluster:\n  bind: 127.0.0.5:7000\n")).unwrap();
    assert_eq!(c.cluster.advertise, at("127.0.0.5:7000"));
    assert_eq!(c.node.addresses.first(), Some("127.0.0.5".parse().unwrap()));
    let c = parse(&keyed("cluster:\n  bind: '[::]:7000'\nnode: {address: [192.0.2.1, '2001:db8::1']}\n"))
        .unwrap();
    assert_eq!(c.cluster.advertise, at("[2001:db8::1]:7000"));
    let c = parse(&keyed("cluster:\n  advertise: 198.51.100.4\n")).unwrap();
    assert_eq!(
        (c.cluster.advertise, c.node.addresses.first()),
        (at("198.51.100.4:7946"), Some([198, 51, 100, 4].into()))
    );
}

#[test]
fn every_mistake_is_named_with_line_key_value_and_fix() {
    for (text, want) in [
        ("domian: x\n", "mesh.yaml:1: domian: is no known key: did you mean \"domain\"?"),
        ("dns:\n  lisen: []\n", "mesh.yaml:2: dns.lisen: is no known key: did you mean \"listen\"?"),
        ("log:\n  zebra: 1\n", "mesh.yaml:2: log.zebra: is no known key: use one of format, level"),
        (
            "cluster:\n  bind: 10.0.0.1:99999\n",
            "mesh.yaml:3: cluster.bind: \"10.0.0.1:99999\" is no address and port: write IP:PORT, as 0.0.0.0:7946",
        ),
        (
            "cluster:\n  join: [node-b:0]\n",
            "mesh.yaml:3: cluster.join[0]: \"node-b:0\" is no node to join: write HOST:PORT, as node-a:7946",
        ),
        (
            "cluster:\n  advertise: 0.0.0.0\n",
            "mesh.yaml:3: cluster.advertise: \"0.0.0.0\" is no address that others can dial: write IP:PORT, as 192.0.2.10:7946",
        ),
        (
            "node: {name: a.b}\n",
            "mesh.yaml:1: node.name: `a.b` is no name: only letters, digits, `-` and `_` are allowed",
        ),
        (
            "node: {address: [10.0.0.1, 10.0.0.2]}\n",
            "mesh.yaml:1: node.address[1]: \"10.0.0.2\" is a second one of its family: give one IPv4 and one IPv6",
        ),
        (
            "vip_cidr: [10.96.0.0]\n",
            "mesh.yaml:1: vip_cidr[0]: \"10.96.0.0\" is no network: write ADDRESS/BITS, as 10.96.0.0/16",
        ),
        (
            "vip_cidr: 10.96.1.0/16\n",
            "mesh.yaml:1: vip_cidr: \"10.96.1.0/16\" has host bits set: write 10.96.0.0/16",
        ),
        (
            "vip_cidr:\n- 10.96.0.0/31\n",
            "mesh.yaml:2: vip_cidr[0]: \"10.96.0.0/31\" has 31 network bits: use 8 to 29, so that services find room",
        ),
        (
            "vip_cidr:\n- 10.96.0.0/16\n- 10.97.0.0/16\n",
            "mesh.yaml:3: vip_cidr[1]: \"10.97.0.0/16\" is a second network of its family: keep one IPv4 and one IPv6",
        ),
        (
            "vip_cidr: 192.0.2.0/24\n",
            "mesh.yaml:1: vip_cidr: \"192.0.2.0/24\" contains node.address 192.0.2.10, which a VIP could take: use a network of its own",
        ),
        (
            "overlay: {cidr: 10.96.0.0/12}\nvip_cidr: 10.96.0.0/16\n",
            "mesh.yaml:1: overlay: 10.96.0.0/12 overlaps 10.96.0.0/16, where VIPs are claimed: keep them apart",
        ),
        (
            "overlay:\n  cidr: [10.128.0.0/24]\n",
            "mesh.yaml:1: overlay: /24 for each node out of 10.128.0.0/24: use /25 to /28",
        ),
        (
            "overlay: {cidr: 10.128.0.1/14}\n",
            "mesh.yaml:1: overlay.cidr: \"10.128.0.1/14\" has host bits set: write 10.128.0.0/14",
        ),
        (
            "overlay: {node_prefix: 24}\n",
            "mesh.yaml:1: overlay: has no cidr: write one network a family, as [10.128.0.0/14], or leave overlay out",
        ),
        (
            "overlay: {cidr: 10.128.0.0/14, node_prefix: 48}\n",
            "mesh.yaml:1: overlay.node_prefix: \"48\" is no length of a node's subnet: use up to 28 for IPv4, 64 to 112 for IPv6",
        ),
        (
            "overlay: {cidr: 10.128.0.0/14, node_prefix: [24, 64]}\n",
            "mesh.yaml:1: overlay.node_prefix[1]: \"64\" is for a family that overlay.cidr has no network of: leave it out",
        ),
        (
            "overlay: {cidr: 10.128.0.0/14, node_prefix: [24, 25]}\n",
            "mesh.yaml:1: overlay.node_prefix[1]: \"25\" is a second one of its family: give one for IPv4 and one for IPv6",
        ),
        (
            "overlay: {cidr: 10.128.0.0/14, bridge: a-name-too-long-for-it}\n",
            "mesh.yaml:1: overlay.bridge: \"a-name-too-long-for-it\" is no name of a link: use 1 to 15 letters and digits, as mesh0",
        ),
        (
            "overlay: {cidr: 10.128.0.0/14, vni: 16777216}\n",
            "mesh.yaml:1: overlay.vni: \"16777216\" is no whole number from 1 to 16777215",
        ),
        (
            "overlay: {cidr: 10.128.0.0/14, device: mesh0}\n",
            "mesh.yaml:1: overlay: names both bridge and device mesh0: give them two names",
        ),
        (
            "overlay: {cidr: 10.128.0.0/14, encryption: ipsec}\n",
            "mesh.yaml:1: overlay.encryption: \"ipsec\" is not known: use none, wireguard",
        ),
        (
            "overlay: {cidr: 10.128.0.0/14, encryption: wireguard, encryption_port: 7946, probe_port: 7947}\n",
            "mesh.yaml:1: overlay: encryption_port 7946 or the next is also port or probe_port: give each its own",
        ),
        (
            "overlay: {cidr: 192.0.0.0/14}\n",
            "mesh.yaml:1: overlay.cidr: \"192.0.0.0/14\" contains node.address 192.0.2.10, which an endpoint could take: use a network of its own",
        ),
        (
            "dynamic_ports: 9-3\n",
            "mesh.yaml:1: dynamic_ports: `9-3` is no port or port range: write 80 or 6000-6010, from 1 to 65535, the smaller first",
        ),
        ("ebpf: {hook: tc}\n", "mesh.yaml:1: ebpf.hook: \"tc\" is no choice: use auto, tcx or clsact"),
        (
            "ebpf: {xdp: generic}\n",
            "mesh.yaml:1: ebpf.xdp: \"generic\" is no choice: use off, auto or native",
        ),
        (
            "ebpf: {return: direct}\n",
            "mesh.yaml:1: ebpf.return: direct goes through the overlay: set overlay, or use ingress",
        ),
        (
            "ebpf: {return: direct}\noverlay: {cidr: 10.244.0.0/16}\npublish: {addresses: [192.0.2.10]}\n",
            "mesh.yaml:1: ebpf.return: direct is for ports that every node publishes on all its addresses: leave publish empty, or use ingress",
        ),
        (
            "publish: {interfaces: [eth0, a/b]}\n",
            "mesh.yaml:1: publish.interfaces[1]: \"a/b\" is no name of a link: use 1 to 15 letters and digits, as mesh0",
        ),
        ("ipvs: {forward: route}\n", "mesh.yaml:1: ipvs.forward: \"route\" is no choice: use nat or direct"),
        (
            "ipvs: {forward: direct}\n",
            "mesh.yaml:1: ipvs.forward: direct goes through the overlay: set overlay, or use nat",
        ),
        ("ebpf: {return: both}\n", "mesh.yaml:1: ebpf.return: \"both\" is no choice: use ingress or direct"),
        (
            "ebpf: {max_flows: 0}\n",
            "mesh.yaml:1: ebpf.max_flows: \"0\" is no whole number from 1024 to 16000000",
        ),
        (
            "ebpf: {cached_flows: 2}\n",
            "mesh.yaml:1: ebpf.cached_flows: \"2\" is no whole number from 64 to 1048576",
        ),
        (
            "data_plane: x\n",
            "mesh.yaml:1: data_plane: \"x\" is no data plane: use auto, ebpf, nftables, ipvs or userspace",
        ),
        (
            "userspace: {workers: 0}\n",
            "mesh.yaml:1: userspace.workers: \"0\" is no whole number from 1 to 256",
        ),
        (
            "userspace:\n  udp_idle_timeout: 60\n",
            "mesh.yaml:2: userspace.udp_idle_timeout: \"60\" is no duration: write a number and a unit (us, ms, s, m, h), as 1m30s or 500ms",
        ),
        (
            "userspace: {connect_timeout: 1h}\n",
            "mesh.yaml:1: userspace.connect_timeout: \"1h\" is out of range: use 10ms to 2m",
        ),
        ("dns: {enabled: maybe}\n", "mesh.yaml:1: dns.enabled: \"maybe\" is neither true nor false"),
        (
            "dns: {listen: []}\n",
            "mesh.yaml:1: dns.listen: is empty: write at least one IP:PORT, or dns.enabled: false",
        ),
        (
            "dns: {upstreams: [dns.example]}\n",
            "mesh.yaml:1: dns.upstreams[0]: \"dns.example\" is no DNS server: write IP or IP:PORT, as 192.0.2.53, tls://IP#NAME, as tls://9.9.9.9#dns.quad9.net, or https://IP/PATH#NAME, as https://9.9.9.9/dns-query#dns.quad9.net",
        ),
        (
            "dns: {domains: {a..b: []}}\n",
            "mesh.yaml:1: dns.domains.a..b: is no domain: write labels of letters, digits and -, as cluster or mesh.example.com",
        ),
        (
            "dns: {domains: {corp.example: [], Corp.example.: []}}\n",
            "mesh.yaml:1: dns.domains.Corp.example.: stands there twice, but for case or the dot at its end: keep one",
        ),
        ("dns: 5\n", "mesh.yaml:1: dns: is a single value: write a mapping of keys and values"),
        (
            "domain: a..b\n",
            "mesh.yaml:1: domain: \"a..b\" is no domain: write labels of letters, digits and -, as cluster or mesh.example.com",
        ),
        (
            "dns: {listen: [0.0.0.0:9480]}\n",
            "mesh.yaml:1: dns.listen[0]: \"0.0.0.0:9480\" clashes with metrics.listen (127.0.0.1:9480, its default): use another port",
        ),
        (
            "dns: {listen: 127.0.0.1:7000}\nadmin:\n  listen: 127.0.0.1:7000\n",
            "mesh.yaml:3: admin.listen: \"127.0.0.1:7000\" clashes with dns.listen (127.0.0.1:7000): use another port",
        ),
        (
            "metrics: {listen: 127.0.0.1:31000}\n",
            "mesh.yaml:1: metrics.listen: \"127.0.0.1:31000\" lies in dynamic_ports 30000-32767, which published ports are taken from: use another port",
        ),
        (
            "admin: {listen: 0.0.0.0:9481}\n",
            "mesh.yaml:1: admin.listen: \"0.0.0.0:9481\" is beyond loopback: set admin.token_file or admin.tls.client_ca, or use 127.0.0.1",
        ),
        (
            "sources: {files: {}}\n",
            "mesh.yaml:1: sources.files: has no path: name a folder of *.yaml files, or one file",
        ),
        ("log: {format: xml}\n", "mesh.yaml:1: log.format: \"xml\" is not known: use logfmt, json, text"),
        (
            "log: {level: loud}\n",
            "mesh.yaml:1: log.level: \"loud\" is no log level: use error, warn, info, debug or trace, or a filter as info,mesh_agent=debug",
        ),
        (
            "publish: {addresses: [::1, ::1]}\n",
            "mesh.yaml:1: publish.addresses[1]: \"::1\" stands there twice: keep one",
        ),
    ] {
        assert_eq!(errors(&keyed(text)), [want], "{text}");
    }
}

#[test]
fn all_mistakes_are_named_at_once_in_the_order_of_lines() {
    let found = errors("log: {level: loud}\ndns: {ttl: -1, bogus: 1}\nvip_cidr: x\n");
    let lines: Vec<&str> = found.iter().map(|l| l.split(": ").next().unwrap()).collect();
    assert_eq!(
        lines,
        ["mesh.yaml:1", "mesh.yaml:1", "mesh.yaml:2", "mesh.yaml:2", "mesh.yaml:3"],
        "{found:#?}"
    );
}

#[test]
fn what_is_missing_is_named() {
    let none = Config::parse("mesh.yaml", "", Path::new(""), &HostFacts::default()).unwrap_err().lines();
    assert_eq!(none.len(), 3, "{none:#?}");
    for key in ["node.address", "node.name", "cluster.keys"] {
        assert!(none.iter().any(|l| l.contains(&format!(": {key}: is missing"))), "{key} in {none:#?}");
    }
}

#[test]
fn files_that_the_configuration_names_are_read_and_never_shown() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    let read = |text: &str| Config::parse("mesh.yaml", text, dir.path(), &host());
    write("keys", &format!("# the ring\n{KEY}\n"));
    write("token", "0123456789abcdef-secret\n");
    let c = read("cluster: {key_file: keys}\nadmin: {listen: 0.0.0.0:9481, token_file: token}\n").unwrap();
    assert_eq!(c.cluster.keys, [Secret::new(KEY)]);
    assert_eq!(c.admin.token, Some(Secret::new("0123456789abcdef-secret")));
    let shown = format!("{c:?}");
    assert!(!shown.contains(KEY) && !shown.contains("-secret"), "{shown}");

    write("keys", "c2VjcmV0LWJ1dC1zaG9ydA==\n");
    write("token", "short");
    write("pem", "no pem");
    let found = read(
        "cluster: {key_file: keys}\nadmin:\n  token_file: token\n  tls: {cert: pem, key: none.pem, client: x}\n",
    )
    .unwrap_err();
    let dir = dir.path().display();
    assert_eq!(
        found.lines(),
        [
            "mesh.yaml:1: cluster.key_file: line 1 of the file is no key: use the output of `mesh-agent key generate`, base64 of 32 bytes".to_owned(),
            "mesh.yaml:3: admin.token_file: names a file without a token: put one line of 16 to 512 visible characters there".into(),
            "mesh.yaml:4: admin.tls.cert: names a file without PEM: it must hold -----BEGIN …----- blocks".into(),
            format!("mesh.yaml:4: admin.tls.key: \"{dir}/none.pem\" cannot be read: No such file or directory (os error 2)"),
            "mesh.yaml:4: admin.tls.client: is no known key: did you mean \"client_ca\"?".into(),
        ]
    );
    assert!(!found.to_string().contains("c2VjcmV0"), "{found}");
}

#[test]
fn load_reads_a_file_and_names_what_it_cannot() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mesh.yaml");
    let missing = Config::load(&path).unwrap_err().to_string();
    assert_eq!(
        missing,
        format!("{}: cannot be read: No such file or directory (os error 2)", path.display())
    );
    assert!(Config::load(dir.path()).unwrap_err().to_string().ends_with("is a folder: name a file"));
    let device = Config::load(std::path::Path::new("/dev/zero")).unwrap_err().to_string();
    assert_eq!(device, "/dev/zero: cannot be read: is a device: name a file");
    std::fs::write(&path, b"a: 1\nb: \xff\n").unwrap();
    assert!(
        Config::load(&path).unwrap_err().to_string().ends_with("line 2 is not UTF-8: save the file as UTF-8")
    );
    std::fs::write(&path, vec![b'#'; yaml::MAX_BYTES + 1]).unwrap();
    assert!(Config::load(&path).unwrap_err().to_string().ends_with("is larger than 4 MiB: split it"));
    std::fs::write(&path, format!("node: {{name: n, address: 127.0.0.1}}\ncluster: {{keys: [{KEY}]}}\n"))
        .unwrap();
    assert_eq!(Config::load(&path).unwrap().node.name.as_str(), "n");
}

#[test]
fn a_secret_that_everybody_can_read_is_taken_with_a_warning() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let write = |name: &str, text: &str, mode| {
        std::fs::write(at(name), text).unwrap();
        std::fs::set_permissions(at(name), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    write("cluster.key", KEY, 0o644);
    write("token", "a-token-of-some-length", 0o604);
    let pem = "-----BEGIN X-----\n";
    write("cert.pem", pem, 0o644);
    write("key.pem", pem, 0o640);
    let text = "node: {name: n, address: 127.0.0.1}\ncluster: {key_file: cluster.key}\n\
                admin: {listen: '127.0.0.1:1', token_file: token, tls: {cert: cert.pem, key: key.pem}}\n";
    write("mesh.yaml", text, 0o644);
    let path = at("mesh.yaml");
    let line = |line, key: &str, name: &str, mode| {
        let file = at(name).display().to_string();
        let place = path.display();
        format!("{place}:{line}: {key}: every user can read {file} (mode {mode}): run `chmod 600 {file}`")
    };
    assert_eq!(
        Config::load(&path).unwrap().warnings,
        [line(2, "cluster.key_file", "cluster.key", "0644"), line(3, "admin.token_file", "token", "0604")]
    );
    for name in ["cluster.key", "token"] {
        std::fs::set_permissions(at(name), std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    assert_eq!(Config::load(&path).unwrap().warnings, [""; 0]);
}
