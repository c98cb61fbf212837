//! What a connection costs: through 10,000 services, and through a published port to a container of the node.

use super::{
    Options,
    contender::{Contender, Loaded, Plane},
    path::{NODE, Path, SERVER},
    pump::{self, Sink},
    services::{self, PORT, TARGET, endpoint, vip},
};
use crate::table::{Table, median};
use std::net::{Ipv4Addr, SocketAddr};

/// Connections in a turn, and turns in a round.
const BATCH: u32 = 200;
const TURNS: usize = 10;
/// The ports that are published: of connections, and of the stream.
const PUBLISHED: (u16, u16) = (30_080, 30_090);

/// A way to a backend.
struct Way {
    name: &'static str,
    path: Path,
    /// Where the `n`th connection goes.
    to: Box<dyn Fn(u32) -> SocketAddr + Send + Sync>,
    /// What holds the rules.
    _rules: Option<Loaded>,
    _plane: Option<Plane>,
    times: Vec<f64>,
    rates: Vec<f64>,
    costs: Vec<f64>,
}

impl Way {
    fn new(
        name: &'static str,
        to: impl Fn(u32) -> SocketAddr + Send + Sync + 'static,
    ) -> anyhow::Result<Way> {
        Ok(Way {
            name,
            path: Path::new()?,
            to: Box::new(to),
            _rules: None,
            _plane: None,
            times: Vec::new(),
            rates: Vec::new(),
            costs: Vec::new(),
        })
    }

    fn tracked(mut self) -> anyhow::Result<Way> {
        self.path.track()?;
        self.name = "direct, connection tracking";
        Ok(self)
    }
}

/// Through as many services as there are.
pub(super) fn services(options: &Options, json: bool) -> anyhow::Result<()> {
    let count = options.most();
    let service = move |n: u32| n.wrapping_mul(7919) % count;
    let direct = move |n| (endpoint(service(n), n % services::ENDPOINTS, 0), TARGET).into();
    let bare = Way::new("one dnat rule for all", move |n| (vip(service(n)), PORT).into())?;
    bare.path.translate()?;
    let mut ways = vec![Way::new("direct", direct)?, Way::new("direct", direct)?.tracked()?, bare];
    for contender in Contender::all(options)? {
        // The other two are slow to load at this size.
        if matches!(contender, Contender::Ours | Contender::Iptables) {
            let mut way = Way::new(contender.name(), move |n| (vip(service(n)), PORT).into())?;
            way._rules = Some(contender.load(&way.path.node, count)?);
            ways.push(way);
        }
    }
    connects(&mut ways, options)?;
    let title = format!(
        "nftables: one connection, {count} services of 10 endpoints (goal: at most 1.08 × direct with connection \
         tracking, 0.75 × iptables)"
    );
    print(&title, &ways, json);
    Ok(())
}

/// Through a published port, against forwarding alone.
pub(super) fn ingress(options: &Options, json: bool) -> anyhow::Result<()> {
    let direct = |_| (SERVER, TARGET).into();
    let mut ways = vec![Way::new("direct", direct)?, Way::new("direct", direct)?.tracked()?];
    let mut ours = Way::new(Contender::Ours.name(), |_| (NODE, PUBLISHED.0).into())?;
    let mut plane = Plane::start(&ours.path.node)?;
    plane.apply(&services::published(PUBLISHED.0, SERVER, TARGET))?;
    plane.apply(&services::published(PUBLISHED.1, SERVER, pump::PORT))?;
    ours._plane = Some(plane);
    ways.push(ours);
    connects(&mut ways, options)?;
    for _ in 0..options.rounds.max(1) * TURNS {
        // Nobody is always first.
        ways.rotate_left(1);
        for way in &mut ways {
            let published = way._plane.is_some();
            let to: (Ipv4Addr, u16) = if published { (NODE, PUBLISHED.1) } else { (SERVER, pump::PORT) };
            let sink = Sink::open(&way.path.server)?;
            let sample = pump::pump(&way.path.client, &sink, to.into())?;
            way.rates.push(sample.rate);
            way.costs.push(sample.cost);
        }
    }
    print("nftables: a published port to a container of the node, against plain forwarding", &ways, json);
    Ok(())
}

fn connects(ways: &mut [Way], options: &Options) -> anyhow::Result<()> {
    let mut first = 0;
    // The first turn finds neighbours and fills caches.
    for turn in 0..=options.rounds.max(1) * TURNS {
        ways.rotate_left(1);
        for way in &mut *ways {
            let times = way.path.connects((first..first + BATCH).map(&way.to))?;
            if turn > 0 {
                way.times.extend(times);
            }
        }
        first += BATCH;
    }
    Ok(())
}

fn print(title: &str, ways: &[Way], json: bool) {
    let head = ["way", "connect p50 µs", "p99", "ours/its p50", "MiB/s", "ours/its", "CPU µs/MiB"];
    let mut table = Table::new(title, &head);
    let Some(ours) = ways.iter().find(|way| way.name == Contender::Ours.name()) else { return };
    for way in ways {
        let mut sorted = way.times.clone();
        sorted.sort_by(f64::total_cmp);
        let p99 = sorted.get(sorted.len() * 99 / 100).copied().unwrap_or(0.0);
        let of_rates = |text: String| if way.rates.is_empty() { "-".to_owned() } else { text };
        let (p50, rate) = (median(&way.times), median(&way.rates));
        table.row(&[
            way.name.to_owned(),
            format!("{p50:.1}"),
            format!("{p99:.1}"),
            format!("{:.2}", median(&ours.times) / p50),
            of_rates(format!("{rate:.0}")),
            of_rates(format!("{:.2}", median(&ours.rates) / rate)),
            of_rates(format!("{:.0}", median(&way.costs))),
        ]);
    }
    table.print(json);
}
