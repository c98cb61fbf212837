//! A stream between containers of two nodes: over the agent's overlay, over a VXLAN laid by hand, and routed without
//! any encapsulation. The nodes, bridges and cables are alike. With a routing rule of its own, whatever it says, a network
//! namespace asks all its rules about each packet; the agent's overlay needs one.

use super::{
    Options,
    pump::{self, PORT, Sample, Sink},
};
use crate::{
    space::Space,
    table::{Table, median},
};
use anyhow::{Context as _, ensure};
use mesh_agent::{
    overlay::{
        OverlayConfig,
        apply::apply,
        attach::{AttachRequest, Containers, Ground},
    },
    sys::rtnl::Rtnl,
};
use mesh_control::model::{Addresses, Family, Name, NodeInfo, NodeState, NodeView, Snapshot};
use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

const OURS: &str = "mesh-agent";
/// How often each way is laid: two that are laid alike differ by some hundredths, as their memory lies.
const LAID: usize = 4;
/// Streams over each of those in a round.
const TURNS: usize = 5;
/// What VXLAN over IPv4 takes of each packet (RFC 7348 section 5), bytes.
const HEADERS: u32 = 50;

/// What is compared.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Ours,
    ByHand,
    Ruled,
    Routed,
}

impl Kind {
    const ALL: [Kind; 4] = [Kind::Ours, Kind::ByHand, Kind::Ruled, Kind::Routed];

    fn name(self) -> &'static str {
        match self {
            Kind::Ours => OURS,
            Kind::ByHand => "VXLAN by hand",
            Kind::Ruled => "VXLAN by hand, a routing rule",
            Kind::Routed => "routed, no encapsulation",
        }
    }

    fn lay(self) -> anyhow::Result<Laid> {
        match self {
            Kind::Ours => agents(),
            Kind::ByHand => laid_by_hand(true),
            Kind::Routed => laid_by_hand(false),
            Kind::Ruled => {
                let laid = laid_by_hand(true)?;
                laid.nodes.iter().try_for_each(|node| node.ip("rule add pref 77 fwmark 0x4d lookup 77\n"))?;
                Ok(laid)
            }
        }
    }
}

/// Two nodes with a container each.
struct Way {
    kind: Kind,
    laid: Laid,
    samples: Vec<Sample>,
}

/// Measures and prints.
pub(super) fn run(options: &Options, json: bool) -> anyhow::Result<()> {
    let mut ways = Vec::new();
    for kind in (0..LAID).flat_map(|_| Kind::ALL) {
        ways.push(Way { kind, laid: kind.lay().context(kind.name())?, samples: Vec::new() });
    }
    for turn in 0..options.rounds.max(1) * TURNS {
        // Nobody is always first, nor always after the same.
        let by = (1 + turn) % ways.len();
        ways.rotate_left(by);
        ways.reverse();
        for Way { kind, laid, samples } in &mut ways {
            let sink = Sink::open(&laid.containers[1])?;
            let sample = pump::pump(&laid.containers[0], &sink, (laid.to, PORT).into());
            samples.push(sample.context(kind.name())?);
        }
    }
    let title = "nftables: a stream between containers of two nodes (goal: at least 0.98 of a VXLAN by hand)";
    let head = ["way", "MiB/s", "as laid each time", "ours/its", "CPU µs/MiB", "its/ours"];
    let mut table = Table::new(title, &head);
    // One figure for each time that it was laid, and the mean of those.
    let of = |kind: Kind, what: fn(&Sample) -> f64| -> Vec<f64> {
        let laid = ways.iter().filter(|way| way.kind == kind);
        laid.map(|way| median(&way.samples.iter().map(what).collect::<Vec<f64>>())).collect()
    };
    let mean = |kind, what| of(kind, what).iter().sum::<f64>() / LAID as f64;
    let [rate, cost]: [fn(&Sample) -> f64; 2] = [|sample| sample.rate, |sample| sample.cost];
    for kind in Kind::ALL {
        let mut each = of(kind, rate);
        each.sort_by(f64::total_cmp);
        table.row(&[
            kind.name().to_owned(),
            format!("{:.0}", mean(kind, rate)),
            each.iter().map(|one| format!("{one:.0}")).collect::<Vec<_>>().join(" "),
            format!("{:.2}", mean(Kind::Ours, rate) / mean(kind, rate)),
            format!("{:.0}", mean(kind, cost)),
            format!("{:.2}", mean(kind, cost) / mean(Kind::Ours, cost)),
        ]);
    }
    table.print(json);
    Ok(())
}

/// Nodes, containers, and the second container's address.
struct Laid {
    nodes: [Space; 2],
    containers: [Space; 2],
    to: Ipv4Addr,
}

fn underlay(node: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, node)
}

/// Two nodes on one cable.
fn nodes() -> anyhow::Result<[Space; 2]> {
    let (one, two) = (Space::router()?, Space::router()?);
    let address = |node| format!("{}/24", underlay(node));
    one.cable(("eth0", &address(1)), (&two, "eth0", &address(2)))?;
    Ok([one, two])
}

/// As an operator would.
fn laid_by_hand(vxlan: bool) -> anyhow::Result<Laid> {
    let nodes = nodes()?;
    let containers = [Space::new()?, Space::new()?];
    for ((me, node), container) in (1..).zip(&nodes).zip(&containers) {
        let (other, mtu) = (3 - me, if vxlan { 1500 - HEADERS } else { 1500 });
        let (own, peer) = (underlay(me), underlay(other));
        node.ip(&format!(
            "link add br0 type bridge\naddr add 10.9.{me}.1/24 dev br0\nlink set br0 mtu {mtu} up\n"
        ))?;
        node.cable(("c0", ""), (container, "eth0", &format!("10.9.{me}.2/24")))?;
        node.ip(&format!("link set c0 mtu {mtu} master br0\n"))?;
        container.ip(&format!("link set eth0 mtu {mtu}\nroute add default via 10.9.{me}.1\n"))?;
        if vxlan {
            node.ip(&format!(
                "link add vx0 type vxlan id 5 local {own} remote {peer} dstport 4789 dev eth0 nolearning\n\
                 addr add 10.9.0.{me}/24 dev vx0\nlink set vx0 mtu {mtu} up\n\
                 route add 10.9.{other}.0/24 via 10.9.0.{other}\n"
            ))?;
        } else {
            node.ip(&format!("route add 10.9.{other}.0/24 via {peer}\n"))?;
        }
    }
    Ok(Laid { nodes, containers, to: Ipv4Addr::new(10, 9, 2, 2) })
}

fn name(node: u8) -> anyhow::Result<Name> {
    Ok(Name::new(&format!("n{node}"))?)
}

/// The overlay as the agent lays it, and containers as it attaches them.
fn agents() -> anyhow::Result<Laid> {
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
