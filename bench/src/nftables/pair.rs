//! Two nodes with a container each, and the agent's overlay between them.

use crate::space::Space;
use anyhow::ensure;
use mesh_agent::{
    overlay::{
        OverlayConfig,
        apply::apply,
        attach::{AttachRequest, Containers, Ground},
        returns::Returns,
    },
    sys::rtnl::Rtnl,
};
use mesh_control::model::{Addresses, Family, Name, NodeInfo, NodeState, NodeView, Snapshot};
use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

/// Nodes, containers, and the second container's address.
pub(super) struct Laid {
    pub(super) nodes: [Space; 2],
    pub(super) containers: [Space; 2],
    pub(super) to: Ipv4Addr,
}

pub(super) fn underlay(node: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, node)
}

/// Two nodes on one cable.
pub(super) fn nodes() -> anyhow::Result<[Space; 2]> {
    let (one, two) = (Space::router()?, Space::router()?);
    let address = |node| format!("{}/24", underlay(node));
    one.cable(("eth0", &address(1)), (&two, "eth0", &address(2)))?;
    Ok([one, two])
}

fn name(node: u8) -> anyhow::Result<Name> {
    Ok(Name::new(&format!("n{node}"))?)
}

/// The overlay as the agent lays it, and containers as it attaches them; with its tables, which an agent lays unless it is
/// built without nftables, where `returns` says so.
pub(super) fn agents(returns: bool) -> anyhow::Result<Laid> {
    let nodes = nodes()?;
    let containers = [Space::new()?, Space::new()?];
    let (networks, vip_cidrs) = (vec!["10.9.0.0/16".parse()?], vec!["10.96.0.0/16".parse()?]);
    let mut to = None;
    for ((me, node), container) in (1..).zip(&nodes).zip(&containers) {
        let config = OverlayConfig {
            networks: networks.clone(),
            vip_cidrs: vip_cidrs.clone(),
            underlay: Addresses::from(IpAddr::V4(underlay(me))),
            vni: OverlayConfig::VNI,
            port: OverlayConfig::PORT,
            bridge: OverlayConfig::BRIDGE.into(),
            device: OverlayConfig::DEVICE.into(),
            audit_interval: OverlayConfig::AUDIT,
            probe_port: OverlayConfig::PROBE_PORT,
            probe_interval: OverlayConfig::PROBE,
            encryption: None,
            ipvs: false,
        };
        let snapshot = snapshot(me)?;
        let request = AttachRequest { netns: container.path().into(), name: "eth0".into(), address: None };
        let attached = node.inside(|| {
            let mut rtnl = Rtnl::open()?;
            let applied = apply(&mut rtnl, &config, &snapshot, &[Family::V4, Family::V6].into())?;
            ensure!(applied.failed.is_empty(), "{}", applied.failed.join("; "));
            if returns {
                Returns::open(networks.clone(), false)?.ensure(&applied.plan)?;
            }
            let ground = Ground { plan: &applied.plan, networks: &config.networks, snapshot: &snapshot };
            Ok(Containers::default().attach(&mut rtnl, ground, &request)?)
        })??;
        to = attached.lease.addresses.first().copied();
    }
    match to {
        Some(IpAddr::V4(to)) => Ok(Laid { nodes, containers, to }),
        other => anyhow::bail!("the container got the address {other:?}"),
    }
}

/// What a node sees of both.
fn snapshot(me: u8) -> anyhow::Result<Snapshot> {
    let mut snapshot = Snapshot::empty(name(me)?);
    for node in [1, 2] {
        let view = NodeView {
            name: name(node)?,
            info: NodeInfo { addresses: Addresses::from(IpAddr::V4(underlay(node))), ..NodeInfo::default() },
            gossip: None,
            state: NodeState::Alive,
            subnets: vec![format!("10.9.{node}.0/24").parse()?],
        };
        if node == me {
            snapshot.set_own_subnets(view.subnets.clone());
        }
        snapshot.set_node(name(node)?, Some(Arc::new(view)));
    }
    Ok(snapshot)
}
