//! From the configuration to what each part is started with. Pure.

use crate::{
    admin,
    config::{self, Config},
    dataplane::userspace::UserspaceConfig,
    overlay::OverlayConfig,
    plan::NodeFacts,
};
use mesh_control::{
    ControlConfig,
    model::{NodeInfo, Tunnel},
};
use std::path::PathBuf;

/// What this node says of itself.
pub(super) fn info(config: &Config, tunnels: Vec<Tunnel>) -> NodeInfo {
    NodeInfo {
        tunnels,
        addresses: config.node.addresses,
        zone: config.node.zone.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        draining: false,
        ..NodeInfo::default()
    }
}

pub(super) fn control(config: &Config, info: NodeInfo) -> ControlConfig {
    let cluster = &config.cluster;
    ControlConfig {
        node: config.node.name.clone(),
        info,
        bind: cluster.bind,
        advertise: cluster.advertise,
        seeds: cluster.join.clone(),
        keys: cluster.keys.iter().map(|key| key.expose().to_owned()).collect(),
        vip_cidrs: config.vip_cidr.clone(),
        overlay: config.overlay.clone(),
        dynamic_ports: config.dynamic_ports,
        data_dir: cluster.data_dir.clone(),
    }
}

/// `None` without an overlay, and where VXLAN cannot run: between the agents of one machine's loopback.
pub(super) fn overlay(config: &Config) -> Option<OverlayConfig> {
    let links = &config.overlay_links;
    let overlay = OverlayConfig {
        networks: config.overlay.iter().map(|overlay| overlay.network).collect(),
        vip_cidrs: config.vip_cidr.clone(),
        underlay: config.node.addresses,
        vni: links.vni,
        port: links.port,
        bridge: links.bridge.clone(),
        device: links.device.clone(),
        audit_interval: links.audit_interval,
        probe_port: links.probe_port,
        probe_interval: links.probe_interval,
        encryption: links.encryption,
        ipvs: false,
    };
    let wanted = !overlay.networks.is_empty() && overlay.local().is_some();
    wanted.then_some(overlay)
}

pub(super) fn node_facts(config: &Config) -> NodeFacts {
    NodeFacts { name: config.node.name.clone(), zone: config.node.zone.clone() }
}

/// Where the overlay cannot lead answers back to the node that a flow came in at, none are expected from there: flows to
/// other nodes get this node's address.
#[cfg(feature = "nftables")]
pub(super) fn netfilter(config: &Config) -> crate::dataplane::NetfilterConfig {
    let overlay = overlay(config);
    crate::dataplane::NetfilterConfig {
        node: config.node.name.clone(),
        vip_cidrs: config.vip_cidr.clone(),
        bridge: overlay.as_ref().map(|overlay| overlay.bridge.clone()),
        overlay: overlay
            .filter(|_| crate::sys::ruleset::has_egress())
            .map(|overlay| overlay.networks)
            .unwrap_or_default(),
    }
}

/// Where the IPVS plane sends packets as they are.
#[cfg(feature = "nftables")]
pub(super) fn routed(config: &Config) -> Option<crate::dataplane::ipvs::Direct> {
    let overlay = overlay(config).filter(|_| config.ipvs.forward == config::ForwardChoice::Direct)?;
    let networks = config.overlay.iter().map(|overlay| (overlay.network, overlay.node_prefix));
    Some(crate::dataplane::ipvs::Direct { device: overlay.device, networks: networks.collect() })
}

/// Whether answers go straight to clients, where the data plane is eBPF's.
pub(super) fn direct(config: &Config) -> bool {
    config.ebpf.answers == config::ReturnChoice::Direct && overlay(config).is_some()
}

#[cfg(feature = "ebpf")]
pub(super) fn ebpf(
    config: &Config,
    snapshots: tokio::sync::watch::Receiver<std::sync::Arc<mesh_control::model::Snapshot>>,
) -> crate::dataplane::ebpf::EbpfConfig {
    let (overlay, chosen) = (overlay(config), &config.ebpf);
    let most = chosen.max_backends;
    crate::dataplane::ebpf::EbpfConfig {
        node: config.node.name.clone(),
        addresses: config.node.addresses,
        vip_cidrs: config.vip_cidr.clone(),
        bridge: overlay.as_ref().map(|overlay| overlay.bridge.clone()),
        tunnel: overlay.as_ref().map(|overlay| overlay.device.clone()),
        direct: direct(config),
        hook: match chosen.hook {
            config::HookChoice::Auto => crate::dataplane::ebpf::Hook::Auto,
            config::HookChoice::Tcx => crate::dataplane::ebpf::Hook::Tcx,
            config::HookChoice::Clsact => crate::dataplane::ebpf::Hook::Clsact,
        },
        xdp: match chosen.xdp {
            config::XdpChoice::Off => crate::dataplane::ebpf::Xdp::Off,
            config::XdpChoice::Auto => crate::dataplane::ebpf::Xdp::Auto,
            config::XdpChoice::Native => crate::dataplane::ebpf::Xdp::Native,
        },
        overlay: overlay.map(|overlay| overlay.networks).unwrap_or_default(),
        snapshots: Some(snapshots),
        bpffs: chosen.bpffs.clone(),
        cgroup: chosen.cgroup.clone(),
        sizes: crate::dataplane::ebpf::Sizes {
            frontends: most / 4,
            ports: most,
            backends: most,
            slots: most.saturating_mul(8),
            // Each has two directions.
            flows: chosen.max_flows.saturating_mul(2),
            cached: chosen.cached_flows,
            ..crate::dataplane::ebpf::Sizes::default()
        },
        new_flows: chosen.new_flows,
    }
}

pub(super) fn userspace(config: &Config) -> UserspaceConfig {
    let chosen = &config.userspace;
    UserspaceConfig {
        workers: chosen.workers.unwrap_or(0),
        max_flows: chosen.max_flows,
        udp_idle: chosen.udp_idle_timeout,
        tcp_idle: chosen.tcp_idle_timeout,
        connect_timeout: chosen.connect_timeout,
        ..UserspaceConfig::default()
    }
}

/// `None` while DNS is switched off.
pub(super) fn dns(config: &Config) -> Option<mesh_dns::DnsConfig> {
    let chosen = &config.dns;
    chosen.enabled.then(|| mesh_dns::DnsConfig {
        listen: chosen.listen.clone(),
        scopes: chosen.scopes.clone(),
        domain: config.domain.clone(),
        ttl: chosen.ttl,
        negative_ttl: chosen.negative_ttl,
        upstreams: match &chosen.upstreams {
            config::Upstreams::System => mesh_dns::Upstreams::ResolvConf(PathBuf::from("/etc/resolv.conf")),
            config::Upstreams::List(servers) if servers.is_empty() => mesh_dns::Upstreams::None,
            config::Upstreams::List(servers) => mesh_dns::Upstreams::List(servers.clone()),
        },
        domains: chosen.domains.clone(),
        upstream_ca: chosen.upstream_ca.clone(),
        local_reverse: config.vip_cidr.clone(),
        kubernetes: chosen.kubernetes.clone(),
        limits: chosen.limits.clone(),
        query_log: chosen.query_log,
    })
}

pub(super) fn admin(config: &Config) -> admin::AdminConfig {
    let chosen = &config.admin;
    admin::AdminConfig {
        unix: chosen.socket.clone(),
        tcp: chosen.listen.map(|listen| admin::TcpConfig {
            listen,
            token: chosen.token.clone(),
            tls: chosen.tls.as_ref().map(|tls| admin::TlsConfig {
                cert: tls.cert.clone(),
                key: tls.key.clone(),
                client_ca: tls.client_ca.clone(),
            }),
        }),
        metrics: config.metrics.listen,
        limits: admin::Limits::default(),
    }
}
