//! Loading, changing and holding many services.

use super::{
    contender::{Contender, Loaded},
    services,
};
use crate::{
    agent::pause,
    space::Space,
    table::{Table, median},
};
use anyhow::Context as _;
use std::time::{Duration, Instant};

/// A contender that took longer for one load has one round.
const SLOW: Duration = Duration::from_secs(20);
/// Changes of one endpoint in a round; of rivals fewer.
const CHANGES: (u32, u32) = (101, 5);
/// Memory at rest: two looks that differ by less, bytes.
const SAME: f64 = 512.0 * 1024.0;
/// Time between those looks, and the most of them.
const LOOK: (Duration, usize) = (Duration::from_millis(250), 240);

/// What was measured of one contender at one size.
struct Row {
    contender: Contender,
    services: u32,
    load: Vec<f64>,
    change: Vec<f64>,
    /// Of ours: an endpoint moves, and its flows are looked for and reset.
    moved: Vec<f64>,
    memory: Vec<f64>,
    slow: bool,
}

/// Measures and prints; the first of the contenders is whom ratios are of. The tables are of loads, changes and memory, as
/// they have a title.
pub(crate) fn run(
    contenders: &[Contender],
    (sizes, rounds): (&[u32], usize),
    [load, change, memory]: [Option<&str>; 3],
    json: bool,
) -> anyhow::Result<()> {
    let row = |services, contender| Row {
        contender,
        services,
        load: Vec::new(),
        change: Vec::new(),
        moved: Vec::new(),
        memory: Vec::new(),
        slow: false,
    };
    let mut rows: Vec<Row> = sizes
        .iter()
        .flat_map(|services| contenders.iter().map(|contender| row(*services, *contender)))
        .collect();
    for round in 0..rounds.max(1) {
        for row in rows.iter_mut().filter(|row| !row.slow) {
            row.round(memory.is_some())
                .with_context(|| format!("{}, {}", row.contender.name(), row.services))?;
            let (name, load) = (row.contender.name(), row.load.last().copied().unwrap_or(0.0));
            eprintln!("round {round}: {name}, {} services: {load:.2} s", row.services);
        }
    }
    rows.sort_by_key(|row| row.services);
    let print = |title: Option<&str>, unit: (&str, f64, usize), value: fn(&Row) -> f64| {
        title.into_iter().for_each(|title| table(title, unit, (contenders[0], &rows), value).print(json));
    };
    print(load, ("ms", 1e3, 1), |row| median(&row.load));
    print(change, ("ms", 1e3, 3), |row| median(&row.change));
    rows.iter().filter(|row| change.is_some() && !row.moved.is_empty()).for_each(|row| {
        let (name, services, moved) = (row.contender.name(), row.services, median(&row.moved) * 1e3);
        eprintln!("{name}: {services} services: an endpoint moves, its flows are looked for: {moved:.3} ms");
    });
    print(memory, ("MiB", 1.0 / f64::from(1 << 20), 1), |row| median(&row.memory));
    Ok(())
}

impl Row {
    fn round(&mut self, memory: bool) -> anyhow::Result<()> {
        let space = Space::new()?;
        let at_rest = || if memory { memory_at_rest() } else { Ok(0.0) };
        let before = at_rest()?;
        let mut loaded = self.contender.load(&space, self.services)?;
        self.load.push(loaded.took.as_secs_f64());
        self.memory.push(at_rest()? - before);
        self.changes(&space, &mut loaded)?;
        self.slow = loaded.took > SLOW;
        Ok(())
    }

    fn changes(&mut self, space: &Space, loaded: &mut Loaded) -> anyhow::Result<()> {
        let count = if matches!(self.contender, Contender::Ours(_)) { CHANGES.0 } else { CHANGES.1 };
        let start = Instant::now();
        for i in 0..count {
            // Everywhere in the list of services.
            let service = i.wrapping_mul(7919) % self.services;
            let took = self.contender.change(space, loaded, service, 1 + i % 3)?;
            self.change.push(took.as_secs_f64());
            if let Some(plane) = loaded.plane.as_mut() {
                self.moved.push(plane.apply(&[services::put(service, 4, 1 + i % 3)])?.as_secs_f64());
            }
            if start.elapsed() > SLOW {
                break;
            }
        }
        Ok(())
    }
}

fn table(
    title: &str,
    (unit, scale, digits): (&str, f64, usize),
    (ours, rows): (Contender, &[Row]),
    value: fn(&Row) -> f64,
) -> Table {
    let mut table = Table::new(title, &["services", "by", unit, "its/ours", "to the size before", "rounds"]);
    for row in rows {
        let find = |contender, services| {
            rows.iter().find(|r| r.contender == contender && r.services == services).map(value)
        };
        let ratio = |over: Option<f64>, under: Option<f64>| match (over, under) {
            (Some(over), Some(under)) if under > 0.0 => format!("{:.2}", over / under),
            _ => "-".to_owned(),
        };
        let own = value(row);
        let before = rows.iter().map(|r| r.services).filter(|s| *s < row.services).max();
        let before = before.and_then(|services| find(row.contender, services));
        table.row(&[
            row.services.to_string(),
            row.contender.name().to_owned(),
            format!("{:.digits$}", own * scale),
            ratio(Some(own), find(ours, row.services)),
            ratio(Some(own), before),
            row.load.len().to_string(),
        ]);
    }
    table
}

/// What the kernel has for itself that it cannot give back, bytes, once it does not change any more: namespaces and
/// rules go in the background.
fn memory_at_rest() -> anyhow::Result<f64> {
    let (mut last, mut least) = (memory()?, f64::INFINITY);
    for _ in 0..LOOK.1 {
        pause(LOOK.0);
        let now = memory()?;
        if (now - last).abs() < SAME {
            return Ok(now);
        }
        (last, least) = (now, least.min(now));
    }
    eprintln!(
        "nftables: the kernel's memory does not come to rest: something else is running; the least is taken"
    );
    Ok(least)
}

fn memory() -> anyhow::Result<f64> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let mut sum = 0.0;
    for field in ["SUnreclaim:", "Percpu:", "VmallocUsed:"] {
        let line = text.lines().find_map(|l| l.strip_prefix(field)).with_context(|| format!("no {field}"))?;
        let value = line.split_whitespace().next().context("no number")?;
        sum += value.parse::<f64>()? * 1024.0;
    }
    Ok(sum)
}
