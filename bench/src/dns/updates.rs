//! Questions answered while services change.

use super::{
    Options, load,
    ours::{self, Plan},
    turns::Turns,
    zone::Zone,
};
use crate::table::Table;
use anyhow::Context as _;
use std::path::Path;

/// Changes a second.
const CHANGES: u32 = 1_000;

/// With and without changes, at 10,000 services.
pub(super) fn run(options: &Options, json: bool) -> anyhow::Result<()> {
    let (zone, folder) = (Zone::new(10_000), tempfile::tempdir()?);
    let times = folder.path().join("times");
    let idle = ours::planned(&zone, &Plan { workers: 1, ..Plan::default() })?;
    let changing = ours::planned(
        &zone,
        &Plan { workers: 1, updates: CHANGES, times: Some(times.clone()), ..Plan::default() },
    )?;
    let questions = zone.hits();
    let (mut turns, mut micros) = ([Turns::default(), Turns::default()], Vec::new());
    for round in 0..options.rounds {
        eprintln!("dns, changes: round {} of {}", round + 1, options.rounds);
        let take = |turns: &mut Turns, server| {
            turns.take(server, || load::run(server.address, &questions, options.window, options.time()))
        };
        let [still, moving] = &mut turns;
        take(still, &idle)?;
        // Those of the other's turn do not count: the core was the other's.
        let before = read(&times)?.len();
        take(moving, &changing)?;
        micros.extend(&read(&times)?[before..]);
    }
    micros.sort_unstable();
    let at = |share: usize| micros.get(micros.len() * share / 100).copied().unwrap_or(0) as f64 / 1_000.0;
    let [still, moving] = &turns;
    let mut table = Table::new(
        "DNS over UDP, 10,000 names: 1,000 changes a second beside the questions, one core",
        &["q/s at rest", "q/s", "of it", "applied to answered p50 ms", "p99 ms", "changes", "trouble"],
    );
    table.row(&[
        format!("{:.0}", still.rate()),
        format!("{:.0}", moving.rate()),
        format!("{:.2}", moving.rate() / still.rate()),
        format!("{:.2}", at(50)),
        format!("{:.2}", at(99)),
        micros.len().to_string(),
        moving.trouble(),
    ]);
    table.print(json);
    Ok(())
}

/// What the changes took so far, in microseconds.
fn read(times: &Path) -> anyhow::Result<Vec<u64>> {
    let text = std::fs::read_to_string(times).context("no changes were written")?;
    text.lines().map(|line| line.parse().with_context(|| line.to_owned())).collect()
}
