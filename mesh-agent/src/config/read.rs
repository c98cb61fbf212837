//! From the tree to the [`Config`], section by section.

use super::{
    check::{Bound, check},
    ebpf::ebpf,
    host::HostFacts,
    ipvs::ipvs,
    limits::limits,
    overlay::overlay,
    scopes::{kubernetes, listener},
    secrets,
    types::{
        AdminConfig, ClusterConfig, Config, DnsConfig, FilesConfig, LogConfig, LogFormat, MetricsConfig,
        NodeConfig, PlaneChoice, PublishConfig, SourcesConfig, TlsConfig, Upstreams, UserspaceConfig,
    },
    upstreams::upstreams,
    values::{address, cidrs, domain, gossip_seed, ip, level, link_name, listen, optional_duration, path},
    yaml::{Field, Map},
};
use mesh_control::model::{Addresses, Name, PortRange};
use mesh_dns::Scope;
use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    time::Duration,
};

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);

/// Reads the whole document; `None` only after a problem was reported.
pub(super) fn config(root: &Field<'_>, base: &Path, host: &HostFacts) -> Option<Config> {
    let map = root.map()?;
    let mut bounds = Vec::new();
    let (node, cluster) = node_and_cluster(&map, base, host, &mut bounds);
    let domain = map.get("domain").and_then(|f| f.with(domain)).unwrap_or_else(|| "cluster".to_owned());
    let vip_field = map.get("vip_cidr");
    let vip_cidr = cidrs(vip_field.as_ref());
    let dynamic_ports =
        map.get("dynamic_ports").and_then(|f| f.parse()).or(PortRange::new(30_000, 32_767).ok())?;
    let data_plane = map.get("data_plane").and_then(|f| f.with(plane)).unwrap_or(PlaneChoice::Auto);
    let overlay_field = map.get("overlay");
    let section_of_overlay = overlay_field.as_ref().and_then(Field::map);
    let (overlay, overlay_links) = section_of_overlay.map(overlay).unwrap_or_default();
    let dns = dns(section(&map, "dns"), base, &domain, &mut bounds);
    let config = Config {
        node: node?,
        cluster: cluster?,
        domain,
        vip_cidr,
        overlay,
        overlay_links,
        dynamic_ports,
        data_plane,
        ebpf: ebpf(section(&map, "ebpf"), base),
        ipvs: ipvs(section(&map, "ipvs")),
        userspace: userspace(section(&map, "userspace")),
        publish: publish(section(&map, "publish")),
        dns,
        admin: admin(section(&map, "admin"), base, &mut bounds),
        metrics: metrics(section(&map, "metrics"), &mut bounds),
        sources: sources(section(&map, "sources"), base),
        log: log(section(&map, "log")),
        warnings: Vec::new(),
    };
    map.finish();
    check(&config, root, vip_field.as_ref(), overlay_field.as_ref(), &bounds);
    Some(config)
}

fn section<'a>(map: &Map<'a>, key: &'static str) -> Option<Map<'a>> {
    map.get(key)?.map()
}

fn find<'a>(section: Option<&Map<'a>>, key: &'static str) -> Option<Field<'a>> {
    section?.get(key)
}

fn plane(text: &str) -> Result<PlaneChoice, &'static str> {
    match text {
        "auto" => Ok(PlaneChoice::Auto),
        "ebpf" if cfg!(feature = "ebpf") => Ok(PlaneChoice::Ebpf),
        "nftables" if cfg!(feature = "nftables") => Ok(PlaneChoice::Nftables),
        "ipvs" if cfg!(feature = "nftables") => Ok(PlaneChoice::Ipvs),
        "userspace" => Ok(PlaneChoice::Userspace),
        "nftables" | "ebpf" | "ipvs" => {
            Err("is not in this build: use auto, ebpf, nftables, ipvs or userspace")
        }
        _ => Err("is no data plane: use auto, ebpf, nftables, ipvs or userspace"),
    }
}

fn node_and_cluster(
    map: &Map<'_>,
    base: &Path,
    host: &HostFacts,
    bounds: &mut Vec<Bound>,
) -> (Option<NodeConfig>, Option<ClusterConfig>) {
    let node = section(map, "node");
    let cluster = section(map, "cluster");
    let bind_field = find(cluster.as_ref(), "bind");
    let wildcard = SocketAddr::from((Ipv4Addr::UNSPECIFIED, Config::GOSSIP_PORT));
    let bind = bind_field.as_ref().and_then(|f| f.with(|t| listen(t, wildcard, 1))).unwrap_or(wildcard);
    bounds.push(Bound::new("cluster.bind", bind_field.as_ref(), bind));
    let given = find(cluster.as_ref(), "advertise").and_then(|f| f.with(|t| address(t, bind.port())));

    let mut addresses = Addresses::default();
    let address_field = find(node.as_ref(), "address");
    for field in address_field.iter().flat_map(Field::one_or_list) {
        if let Some(found) = field.with(ip) {
            if addresses.iter().any(|a| a.is_ipv4() == found.is_ipv4()) {
                field.fail_value(
                    &found.to_string(),
                    "is a second one of its family: give one IPv4 and one IPv6",
                );
            }
            addresses.set(found);
        }
    }
    let fallback =
        || given.map(|a| a.ip()).or(Some(bind.ip()).filter(|a| !a.is_unspecified())).or(host.address);
    if addresses.is_empty() && address_field.is_none() {
        match fallback() {
            Some(found) => addresses.set(found),
            None => map.field().fail_at(
                "node.address",
                "is missing and this host has no route out to take one from: write this node's address",
            ),
        }
    }
    let advertise = given.or_else(|| {
        if !bind.ip().is_unspecified() {
            return Some(bind);
        }
        let same = addresses.iter().find(|a| a.is_ipv4() == bind.is_ipv4());
        Some(SocketAddr::new(same.or_else(|| addresses.first())?, bind.port()))
    });

    let name_field = find(node.as_ref(), "name");
    let name = match &name_field {
        Some(field) => field.parse::<Name>(),
        None => {
            let found = host.hostname.as_deref().and_then(|h| Name::new(h).ok());
            if found.is_none() {
                map.field()
                    .fail_at("node.name", "is missing and the host's name is no label: write one, as node-a");
            }
            found
        }
    };
    let zone = find(node.as_ref(), "zone").and_then(|f| f.parse::<Name>());
    let seeds = find(cluster.as_ref(), "join").iter().flat_map(Field::one_or_list).collect::<Vec<_>>();
    let join = seeds.iter().filter_map(|f| f.with(gossip_seed)).collect();
    let (inline, file) = (find(cluster.as_ref(), "keys"), find(cluster.as_ref(), "key_file"));
    let keys = secrets::keys(map.field(), inline.as_ref(), file.as_ref(), base);
    let data_dir = find(cluster.as_ref(), "data_dir").and_then(|f| f.with(|t| path(t, base)));
    [node, cluster].into_iter().flatten().for_each(Map::finish);
    (
        name.map(|name| NodeConfig { name, addresses, zone }),
        advertise.map(|advertise| ClusterConfig { bind, advertise, join, keys, data_dir }),
    )
}

fn userspace(map: Option<Map<'_>>) -> UserspaceConfig {
    let mut found = UserspaceConfig {
        workers: None,
        max_flows: 65_536,
        udp_idle_timeout: Duration::from_secs(60),
        tcp_idle_timeout: None,
        connect_timeout: Duration::from_secs(2),
    };
    let Some(map) = map else { return found };
    found.workers = map.get("workers").and_then(|f| f.number(1..=256));
    if let Some(n) = map.get("max_flows").and_then(|f| f.number(1..=10_000_000)) {
        found.max_flows = n;
    }
    if let Some(d) = map.get("udp_idle_timeout").and_then(|f| f.duration(SECOND..=DAY)) {
        found.udp_idle_timeout = d;
    }
    found.tcp_idle_timeout = map.get("tcp_idle_timeout").and_then(|f| optional_duration(&f, SECOND..=DAY));
    let range = Duration::from_millis(10)..=Duration::from_secs(120);
    if let Some(d) = map.get("connect_timeout").and_then(|f| f.duration(range)) {
        found.connect_timeout = d;
    }
    map.finish();
    found
}

fn publish(map: Option<Map<'_>>) -> PublishConfig {
    let Some(map) = map else { return PublishConfig::default() };
    let mut addresses: Vec<IpAddr> = Vec::new();
    for field in map.get("addresses").iter().flat_map(Field::one_or_list) {
        match field.with(ip) {
            Some(a) if addresses.contains(&a) => {
                field.fail_value(&a.to_string(), "stands there twice: keep one");
            }
            Some(a) => addresses.push(a),
            None => {}
        }
    }
    let mut interfaces: Vec<String> = Vec::new();
    for field in map.get("interfaces").iter().flat_map(Field::one_or_list) {
        match field.with(link_name) {
            Some(name) if interfaces.contains(&name) => {
                field.fail_value(&name, "stands there twice: keep one");
            }
            Some(name) => interfaces.push(name),
            None => {}
        }
    }
    map.finish();
    PublishConfig { addresses, interfaces }
}

fn dns(map: Option<Map<'_>>, base: &Path, domain: &str, bounds: &mut Vec<Bound>) -> DnsConfig {
    let fallback = SocketAddr::from((Ipv4Addr::LOCALHOST, 5300));
    let mut found = DnsConfig {
        enabled: true,
        listen: vec![fallback],
        scopes: vec![Scope::default()],
        upstreams: Upstreams::System,
        domains: BTreeMap::new(),
        upstream_ca: None,
        ttl: 5,
        negative_ttl: 5,
        kubernetes: None,
        limits: mesh_dns::Limits::default(),
        query_log: 0,
    };
    let listen_field = map.as_ref().and_then(|m| m.get("listen"));
    let items: Vec<Field<'_>> = listen_field.iter().flat_map(Field::one_or_list).collect();
    if let Some(map) = map {
        if let Some(b) = map.get("enabled").and_then(|f| f.bool()) {
            found.enabled = b;
        }
        if let Some(n) = map.get("ttl").and_then(|f| f.number(0..=86_400)) {
            found.ttl = n;
        }
        found.negative_ttl = map.get("negative_ttl").and_then(|f| f.number(0..=86_400)).unwrap_or(found.ttl);
        found.kubernetes = map.get("kubernetes").and_then(|f| kubernetes(&f, domain));
        upstreams(&map, base, &mut found);
        found.query_log = map.get("query_log").and_then(|f| f.number(0..=1_000_000_000)).unwrap_or(0);
        found.limits = section(&map, "limits").map(limits).unwrap_or_default();
        map.finish();
    }
    if let Some(field) = &listen_field {
        if items.is_empty() && found.enabled {
            field.fail("is empty: write at least one IP:PORT, or dns.enabled: false");
        }
        found.listen.clear();
        found.scopes.clear();
    } else if found.enabled {
        bounds.push(Bound::new("dns.listen", None, fallback));
    }
    for item in &items {
        if let Some((at, scope)) = listener(item, fallback) {
            found.listen.push(at);
            found.scopes.push(scope);
            if found.enabled {
                bounds.push(Bound::new(item.path(), Some(item), at));
            }
        }
    }
    found
}

fn admin(map: Option<Map<'_>>, base: &Path, bounds: &mut Vec<Bound>) -> AdminConfig {
    let mut found = AdminConfig { socket: Some(Config::ADMIN_SOCKET.into()), ..AdminConfig::default() };
    let Some(map) = map else { return found };
    if let Some(field) = map.get("socket") {
        found.socket = if field.value().is_text("none") {
            None
        } else {
            // The kernel's limit is 108 bytes with the final 0 (unix(7), sun_path).
            field.with(|t| match path(t, base)? {
                p if p.as_os_str().len() > 107 => {
                    Err("is longer than 107 bytes: use a shorter path".to_owned())
                }
                p => Ok(p),
            })
        };
    }
    let listen_field = map.get("listen");
    let example = SocketAddr::from((Ipv4Addr::LOCALHOST, 9481));
    found.listen = listen_field.as_ref().and_then(|f| f.with(|t| listen(t, example, 0)));
    found.token = map.get("token_file").and_then(|f| secrets::token(&f, base));
    let mut client_ca = false;
    if let Some(tls) = map.get("tls").filter(|f| !f.is_null()) {
        found.tls = tls.map().and_then(|m| tls_files(m, base));
        client_ca = found.tls.as_ref().is_some_and(|t| t.client_ca.is_some());
    }
    if let (Some(field), Some(at)) = (&listen_field, found.listen) {
        bounds.push(Bound::new("admin.listen", Some(field), at));
        let wants_auth = map.get("token_file").is_some() || client_ca;
        if !at.ip().is_loopback() && !wants_auth {
            field.fail_value(
                &at.to_string(),
                "is beyond loopback: set admin.token_file or admin.tls.client_ca, or use 127.0.0.1",
            );
        }
    }
    map.finish();
    found
}

fn tls_files(map: Map<'_>, base: &Path) -> Option<TlsConfig> {
    let file = |key| map.get(key).and_then(|f| secrets::pem(&f, base));
    let (cert, client_ca) = (file("cert"), file("client_ca"));
    let key = map.get("key").and_then(|f| secrets::private_pem(&f, base));
    for key in ["cert", "key"] {
        if map.get(key).is_none() {
            map.field().fail(format!("has no {key}: name the PEM file"));
        }
    }
    map.finish();
    Some(TlsConfig { cert: cert?, key: key?, client_ca })
}

fn metrics(map: Option<Map<'_>>, bounds: &mut Vec<Bound>) -> MetricsConfig {
    let fallback = SocketAddr::from((Ipv4Addr::LOCALHOST, Config::METRICS_PORT));
    let field = map.as_ref().and_then(|m| m.get("listen"));
    if let Some(map) = map {
        map.finish();
    }
    let listen = match &field {
        Some(f) if f.value().is_text("none") => None,
        Some(f) => f.with(|t| listen(t, fallback, 0)),
        None => Some(fallback),
    };
    if let Some(at) = listen {
        bounds.push(Bound::new("metrics.listen", field.as_ref(), at));
    }
    MetricsConfig { listen }
}

fn sources(map: Option<Map<'_>>, base: &Path) -> SourcesConfig {
    let Some(map) = map else { return SourcesConfig::default() };
    let files = section(&map, "files").and_then(|files| {
        let path_field = files.get("path");
        let range = Duration::from_millis(100)..=Duration::from_secs(3600);
        let poll = files.get("poll").and_then(|f| f.duration(range)).unwrap_or(Duration::from_secs(10));
        if path_field.is_none() {
            files.field().fail("has no path: name a folder of *.yaml files, or one file");
        }
        files.finish();
        Some(FilesConfig { path: path_field?.with(|t| path(t, base))?, poll })
    });
    map.finish();
    SourcesConfig { files }
}

fn log(map: Option<Map<'_>>) -> LogConfig {
    let mut found = LogConfig { format: LogFormat::Logfmt, level: "info".to_owned() };
    let Some(map) = map else { return found };
    let formats = [("logfmt", LogFormat::Logfmt), ("json", LogFormat::Json), ("text", LogFormat::Text)];
    if let Some(format) = map.get("format").and_then(|f| f.word(&formats)) {
        found.format = format;
    }
    if let Some(text) = map.get("level").and_then(|f| f.with(level)) {
        found.level = text;
    }
    map.finish();
    found
}
