//! Loading, changing and holding 1,000 and 10,000 services.

use super::{
    Options,
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

/// Measures and prints.
pub(super) fn run(options: &Options, json: bool) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    for services in &options.services {
        rows.extend(Contender::all(options)?.into_iter().map(|contender| Row {
            contender,
            services: *services,
            load: Vec::new(),
            change: Vec::new(),
            moved: Vec::new(),
            memory: Vec::new(),
            slow: false,
        }));
    }
    for round in 0..options.rounds.max(1) {
        for row in rows.iter_mut().filter(|row| !row.slow) {
            row.round().with_context(|| format!("{}, {}", row.contender.name(), row.services))?;
            let (name, load) = (row.contender.name(), row.load.last().copied().unwrap_or(0.0));
            eprintln!("nftables: round {round}: {name}, {} services: {load:.2} s", row.services);
        }
    }
    rows.sort_by_key(|row| row.services);
    let print = |title: &str, part: &str, unit: (&str, f64, usize), value: fn(&Row) -> f64| {
        if options.wants(part) {
            table(title, unit, &rows, value).print(json);
        }
    };
    let load = "nftables: load all services, 10 endpoints each, from nothing (goal: 10,000 at least 20 × faster than \
                iptables, 80 × than iptables-nft)";
    print(load, "load", ("ms", 1e3, 1), |row| median(&row.load));
    let change = "nftables: change one endpoint (goal: 1,000 × faster than iptables at 10,000, and flat)";
    print(change, "change", ("ms", 1e3, 3), |row| median(&row.change));
    rows.iter().filter(|row| options.wants("change") && !row.moved.is_empty()).for_each(|row| {
        let (services, moved) = (row.services, median(&row.moved) * 1e3);
        eprintln!(
            "nftables: {services} services: an endpoint moves, its flows are looked for: {moved:.3} ms"
        );
    });
    let memory = "nftables: kernel memory that the services take, slab + per-CPU + vmalloc (goal: at most 1/8 of \
                  iptables)";
    print(memory, "memory", ("MiB", 1.0 / f64::from(1 << 20), 1), |row| median(&row.memory));
    Ok(())
}

impl Row {
    fn round(&mut self) -> anyhow::Result<()> {
        let space = Space::new()?;
        let before = memory_at_rest()?;
        let mut loaded = self.contender.load(&space, self.services)?;
        self.load.push(loaded.took.as_secs_f64());
        self.memory.push(memory_at_rest()? - before);
        self.changes(&space, &mut loaded)?;
        self.slow = loaded.took > SLOW;
        Ok(())
    }

    fn changes(&mut self, space: &Space, loaded: &mut Loaded) -> anyhow::Result<()> {
        let count = if self.contender == Contender::Ours { CHANGES.0 } else { CHANGES.1 };
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
    rows: &[Row],
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
            ratio(Some(own), find(Contender::Ours, row.services)),
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
