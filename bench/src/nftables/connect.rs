//! What a connection costs: through 10,000 services, and through a published port to a container of the node.

use super::{
    OURS, Options,
    contender::{Contender, Loaded, Plane},
    path::{NODE, Path, SERVER},
    services::{self, PORT, TARGET, endpoint, vip},
};
use crate::table::{Table, median};
use std::net::SocketAddr;

/// Connections in a turn, and turns in a round.
const BATCH: u32 = 200;
const TURNS: usize = 10;
/// The port that is published.
const PUBLISHED: u16 = 30_080;

/// A way to a backend.
pub(crate) struct Way {
    pub(crate) name: &'static str,
    pub(crate) path: Path,
    /// Where the `n`th connection goes.
    pub(crate) to: Box<dyn Fn(u32) -> SocketAddr + Send + Sync>,
    /// What holds the rules.
    rules: Option<Loaded>,
    _plane: Option<Plane>,
    /// Of connections, of streams, of processor time.
    pub(crate) times: Vec<f64>,
    pub(crate) rates: Vec<f64>,
    costs: Vec<f64>,
}

impl Way {
    pub(crate) fn new(
        name: &'static str,
        to: impl Fn(u32) -> SocketAddr + Send + Sync + 'static,
    ) -> anyhow::Result<Way> {
        Ok(Way {
            name,
            path: Path::new()?,
            to: Box::new(to),
            rules: None,
            _plane: None,
            times: Vec::new(),
            rates: Vec::new(),
            costs: Vec::new(),
        })
    }

    /// To the endpoints of so many services themselves.
    pub(crate) fn direct(count: u32) -> anyhow::Result<Way> {
        let to = move |n: u32| (endpoint(service(n, count), n % services::ENDPOINTS, 0), TARGET).into();
        Way::new("direct", to)
    }

    /// To their VIPs, which a contender holds.
    pub(crate) fn through(contender: Contender, count: u32) -> anyhow::Result<Way> {
        let mut way = Way::new(contender.name(), move |n| (vip(service(n, count)), PORT).into())?;
        way.rules = Some(contender.load(&way.path.node, count)?);
        Ok(way)
    }

    fn tracked(mut self) -> anyhow::Result<Way> {
        self.path.track()?;
        self.name = "direct, connection tracking";
        Ok(self)
    }
}

/// The service of the `n`th connection: all over them.
fn service(n: u32, count: u32) -> u32 {
    n.wrapping_mul(7919) % count
}

/// Through as many services as there are.
pub(super) fn services(options: &Options, json: bool) -> anyhow::Result<()> {
    let count = options.most();
    let to_vips = move |n| (vip(service(n, count)), PORT).into();
    let bare = Way::new("one dnat rule for all", to_vips)?;
    bare.path.translate()?;
    let smallest = Way::new("two maps, nothing else", to_vips)?;
    smallest.path.balance(count)?;
    let mut ways = vec![Way::direct(count)?, Way::direct(count)?.tracked()?, bare, smallest];
    // The other two are slow to load at this size.
    for contender in options.contenders(&[Contender::Iptables])? {
        ways.push(Way::through(contender, count)?);
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
    let mut ours = Way::new(OURS.name(), |_| (NODE, PUBLISHED).into())?;
    let mut plane = Plane::start(OURS.name(), &ours.path.node)?;
    plane.apply(&services::published(PUBLISHED, SERVER, TARGET))?;
    ours._plane = Some(plane);
    ways.push(ours);
    connects(&mut ways, options)?;
    for _ in 0..options.rounds.max(1) * TURNS {
        // Nobody is always first.
        ways.rotate_left(1);
        for way in &mut ways {
            let sample = way.path.stream((way.to)(0))?;
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
    let Some(ours) = ways.iter().find(|way| way.name == OURS.name()) else { return };
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
