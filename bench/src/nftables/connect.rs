//! What a connection costs: through 10,000 services, and through a published port to a container of the node.

use super::{
    OURS, Options,
    contender::{Contender, Loaded, Plane},
    path::{NODE, Path, SERVER},
    services::{self, PORT, TARGET, endpoint, vip},
    turns::{LAID, listed, mean, mix},
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
    rules: Vec<Loaded>,
    _plane: Option<Plane>,
    /// Of connections, of streams, of processor time.
    pub(crate) times: Vec<f64>,
    pub(crate) rates: Vec<f64>,
    costs: Vec<f64>,
}

impl Way {
    pub(crate) fn new(
        name: &'static str,
        path: Path,
        to: impl Fn(u32) -> SocketAddr + Send + Sync + 'static,
    ) -> Way {
        Way {
            name,
            path,
            to: Box::new(to),
            rules: Vec::new(),
            _plane: None,
            times: Vec::new(),
            rates: Vec::new(),
            costs: Vec::new(),
        }
    }

    /// To the endpoints of so many services themselves.
    pub(crate) fn direct(path: Path, count: u32) -> Way {
        let to = move |n: u32| (endpoint(service(n, count), n % services::ENDPOINTS, 0), TARGET).into();
        Way::new("direct", path, to)
    }

    /// To their VIPs, which a contender holds on each node.
    pub(crate) fn through(contender: Contender, path: Path, count: u32) -> anyhow::Result<Way> {
        let mut way = Way::new(contender.name(), path, to_vips(count));
        way.rules = way.path.nodes().map(|node| contender.load(node, count)).collect::<Result<_, _>>()?;
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

fn to_vips(count: u32) -> impl Fn(u32) -> SocketAddr {
    move |n| (vip(service(n, count)), PORT).into()
}

/// Through as many services as there are.
pub(super) fn services(options: &Options, json: bool) -> anyhow::Result<()> {
    let count = options.most();
    let mut ways = Vec::new();
    for _ in 0..LAID {
        let bare = Way::new("one dnat rule for all", Path::new()?, to_vips(count));
        bare.path.translate()?;
        let smallest = Way::new("two maps, nothing else", Path::new()?, to_vips(count));
        smallest.path.balance(count)?;
        let ours = Way::through(OURS, Path::new()?, count)?;
        ways.extend([
            Way::direct(Path::new()?, count),
            Way::direct(Path::new()?, count).tracked()?,
            bare,
            smallest,
            ours,
        ]);
    }
    // The other two are slow to load at this size, and one is slow enough to be laid once.
    for contender in options.contenders(&[Contender::Iptables])?.into_iter().filter(|c| *c != OURS) {
        ways.push(Way::through(contender, Path::new()?, count)?);
    }
    connects(&mut ways, options)?;
    let title = format!(
        "nftables: one connection, {count} services of 10 endpoints (goal: at most 1.08 × direct with connection \
         tracking, 0.75 × iptables)"
    );
    print(&title, &ways, json);
    Ok(())
}

/// The same between containers of two nodes, both of which hold all services. Rivals track the overlay's own packets, too.
pub(super) fn across(options: &Options, json: bool) -> anyhow::Result<()> {
    let count = options.most();
    let mut ways = Vec::new();
    for _ in 0..LAID {
        let smallest = Way::new("two maps, nothing else", Path::across(false)?, to_vips(count));
        smallest.path.track()?;
        smallest.path.balance(count)?;
        let direct = |returns| Ok::<_, anyhow::Error>(Way::direct(Path::across(returns)?, count));
        let mut ours = direct(true)?;
        ours.name = "direct, the agent's overlay with its tables";
        ways.extend([direct(false)?, direct(false)?.tracked()?, ours, smallest]);
        ways.push(Way::through(OURS, Path::across(true)?, count)?);
    }
    connects(&mut ways, options)?;
    let title = format!(
        "nftables: one connection between containers of two nodes over the overlay, {count} services of 10 endpoints \
         (goal: at most 1.08 × direct with connection tracking)"
    );
    print(&title, &ways, json);
    Ok(())
}

/// Through a published port, against forwarding alone.
pub(super) fn ingress(options: &Options, json: bool) -> anyhow::Result<()> {
    let direct = |_| (SERVER, TARGET).into();
    let mut ways =
        vec![Way::new("direct", Path::new()?, direct), Way::new("direct", Path::new()?, direct).tracked()?];
    let mut ours = Way::new(OURS.name(), Path::new()?, |_| (NODE, PUBLISHED).into());
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
        mix(ways, turn);
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

/// A row for each name: the mean of what each way of that name has in the middle.
fn print(title: &str, ways: &[Way], json: bool) {
    let head =
        ["way", "connect p50 µs", "as laid each time", "ours/its p50", "MiB/s", "ours/its", "CPU µs/MiB"];
    let mut table = Table::new(title, &head);
    let medians = |name: &str, what: fn(&Way) -> &[f64]| -> Vec<f64> {
        ways.iter().filter(|way| way.name == name).map(|way| median(what(way))).collect()
    };
    let [times, rates, costs]: [fn(&Way) -> &[f64]; 3] =
        [|way| &way.times, |way| &way.rates, |way| &way.costs];
    let mut names: Vec<&str> = Vec::new();
    for way in ways {
        if names.contains(&way.name) {
            continue;
        }
        names.push(way.name);
        let of_rates = |text: String| if way.rates.is_empty() { "-".to_owned() } else { text };
        let each = medians(way.name, times);
        let (p50, rate) = (mean(&each), mean(&medians(way.name, rates)));
        let ours = |what| mean(&medians(OURS.name(), what));
        table.row(&[
            way.name.to_owned(),
            format!("{p50:.1}"),
            listed(each, 1),
            format!("{:.2}", ours(times) / p50),
            of_rates(format!("{rate:.0}")),
            of_rates(format!("{:.2}", ours(rates) / rate)),
            of_rates(format!("{:.0}", mean(&medians(way.name, costs)))),
        ]);
    }
    table.print(json);
}
