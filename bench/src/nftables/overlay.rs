//! A stream between containers of two nodes: over the agent's overlay, over a VXLAN laid by hand, and routed without
//! any encapsulation. The nodes, bridges and cables are alike. With a routing rule of its own, whatever it says, a network
//! namespace asks all its rules about each packet; the agent's overlay needs one.

use super::{
    Options,
    pair::{Laid, agents, nodes, underlay},
    path,
    pump::{self, PORT, Sample, Sink},
    turns::{LAID, listed, mean, mix},
};
use crate::{
    space::Space,
    table::{Table, median},
};
use anyhow::Context as _;
use std::net::Ipv4Addr;

const OURS: &str = "mesh-agent";
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
    /// With its tables, which an agent lays unless it is built without nftables, and which track connections.
    OursTracked,
    ByHandTracked,
}

impl Kind {
    const ALL: [Kind; 6] =
        [Kind::Ours, Kind::ByHand, Kind::Ruled, Kind::Routed, Kind::OursTracked, Kind::ByHandTracked];

    fn name(self) -> &'static str {
        match self {
            Kind::Ours => OURS,
            Kind::ByHand => "VXLAN by hand",
            Kind::Ruled => "VXLAN by hand, a routing rule",
            Kind::Routed => "routed, no encapsulation",
            Kind::OursTracked => "mesh-agent with its tables, tracked",
            Kind::ByHandTracked => "VXLAN by hand, tracked",
        }
    }

    /// Which of ours it is compared with.
    fn ours(self) -> Kind {
        match self {
            Kind::OursTracked | Kind::ByHandTracked => Kind::OursTracked,
            _ => Kind::Ours,
        }
    }

    fn lay(self) -> anyhow::Result<Laid> {
        match self {
            Kind::Ours => agents(false),
            Kind::ByHand => laid_by_hand(true),
            Kind::Routed => laid_by_hand(false),
            Kind::OursTracked => agents(true),
            Kind::ByHandTracked => {
                let laid = laid_by_hand(true)?;
                laid.nodes.iter().try_for_each(path::track)?;
                Ok(laid)
            }
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
        mix(&mut ways, turn);
        for Way { kind, laid, samples } in &mut ways {
            let sink = Sink::open(&laid.containers[1])?;
            let sample = pump::pump(&laid.containers[0], &sink, (laid.to, PORT).into());
            samples.push(sample.context(kind.name())?);
        }
    }
    let title = "nftables: a stream between containers of two nodes (goal: at least 0.98 of a VXLAN by hand)";
    let head = ["way", "MiB/s", "as laid each time", "ours/its", "CPU µs/MiB", "its/ours"];
    let mut table = Table::new(title, &head);
    let of = |kind: Kind, what: fn(&Sample) -> f64| -> Vec<f64> {
        let laid = ways.iter().filter(|way| way.kind == kind);
        laid.map(|way| median(&way.samples.iter().map(what).collect::<Vec<f64>>())).collect()
    };
    let mean = |kind, what| mean(&of(kind, what));
    let [rate, cost]: [fn(&Sample) -> f64; 2] = [|sample| sample.rate, |sample| sample.cost];
    for kind in Kind::ALL {
        table.row(&[
            kind.name().to_owned(),
            format!("{:.0}", mean(kind, rate)),
            listed(of(kind, rate), 0),
            format!("{:.2}", mean(kind.ours(), rate) / mean(kind, rate)),
            format!("{:.0}", mean(kind, cost)),
            format!("{:.2}", mean(kind, cost) / mean(kind.ours(), cost)),
        ]);
    }
    table.print(json);
    Ok(())
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
