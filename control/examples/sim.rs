//! The control plane in simulation: whole nodes, a virtual network and clock, everything from one seed.
//!
//! ```text
//! cargo run --release -p mesh-control --example sim -- --nodes 50 --seed 7 [--scenario split] [--json]
//! cargo run --release -p mesh-control --example sim -- --seeds 200
//! cargo run --release -p mesh-control --example sim -- --scenario scale --nodes 1000
//! ```
//! Exit code 1 when something does not hold; the seed and the command that replays it are printed.

#[path = "../tests/sim/mod.rs"]
mod sim;

use clap::Parser;
use sim::{
    figures::Figure,
    large, scale,
    story::{self, KINDS},
};
use std::{
    panic::catch_unwind,
    process::ExitCode,
    time::{Duration, Instant},
};

/// What every story checks.
const INVARIANTS: [&str; 7] = [
    "no VIP, published port or subnet has two holders in any view, after any step",
    "settled VIPs never move",
    "all live nodes hold and show the same within 3 anti-entropy intervals (30 s) after the heal",
    "what was acknowledged survives a crash with disk after 2 s, and any crash once another node holds it",
    "deleted keys stay deleted",
    "no view shows endpoints of dead nodes, 15 s after the last trouble (45 s from 65 nodes on)",
    "what a dead node announced returns with it",
];

/// Runs the control plane in simulation.
#[derive(Parser)]
struct Args {
    /// Nodes of the mesh; without it, 3 to 50 by the seed.
    #[arg(long)]
    nodes: Option<usize>,
    /// The seed of everything.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Runs this many seeds, from `--seed` on.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// mixed, split, storm, churn, clocks; large, a short story for 100 to 1,000 nodes; or scale, which measures.
    #[arg(long, default_value = "mixed")]
    scenario: String,
    /// One JSON object a seed instead of text.
    #[arg(long)]
    json: bool,
}

/// What is printed of one seed.
struct Report<'a> {
    scenario: &'a str,
    seed: u64,
    nodes: usize,
    figures: Vec<Figure>,
    trace: u64,
    exchanges: u64,
    simulated: f64,
    wall: Duration,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let kind = KINDS.into_iter().find(|(name, _)| *name == args.scenario).map(|(_, kind)| kind);
    if kind.is_none() && !["large", "scale"].contains(&args.scenario.as_str()) {
        let names: Vec<_> = KINDS.iter().map(|(name, _)| *name).collect();
        eprintln!("--scenario {}: use one of {}, large, scale", args.scenario, names.join(", "));
        return ExitCode::from(2);
    }
    let mut failed = Vec::new();
    for seed in args.seed..args.seed.saturating_add(args.seeds) {
        let nodes = args.nodes.unwrap_or_else(|| story::size(seed)).max(3);
        let begun = Instant::now();
        let told = catch_unwind(|| match kind {
            Some(kind) => {
                let told = story::tell(seed, nodes, kind);
                (told.sim, told.figures)
            }
            None if args.scenario == "large" => large::tell(seed, nodes.max(100)),
            None => scale::measure(seed, nodes, |sim, part| {
                eprintln!("{part}: {} s simulated in {:.0?}, {}", sim.now / 1_000, begun.elapsed(), memory());
            }),
        });
        let Ok((sim, figures)) = told else {
            let Args { scenario, .. } = &args;
            println!(
                "seed {seed} FAILED; to see it again: cargo run --release -p mesh-control --example sim -- \
                 --scenario {scenario} --nodes {nodes} --seed {seed}"
            );
            failed.push(seed);
            continue;
        };
        let report = Report {
            scenario: &args.scenario,
            seed,
            nodes,
            figures,
            trace: sim.trace,
            exchanges: sim.traffic[2],
            simulated: sim.now as f64 / 1_000.0,
            wall: begun.elapsed(),
        };
        match (args.json, args.seeds > 1) {
            (true, _) => println!("{}", report.json()),
            (false, true) => println!("{}", report.line()),
            (false, false) => println!("{}", report.text(kind.is_some())),
        }
    }
    if failed.is_empty() {
        if args.seeds > 1 && !args.json {
            println!("{} seeds, every invariant held", args.seeds);
        }
        return ExitCode::SUCCESS;
    }
    println!("{} of {} seeds failed: {failed:?}", failed.len(), args.seeds);
    ExitCode::FAILURE
}

impl Report<'_> {
    fn line(&self) -> String {
        let Report { seed, nodes, trace, wall, .. } = self;
        let figures: Vec<_> =
            self.figures.iter().map(|f| format!("{} {:.2} {}", f.what, f.value, f.unit)).collect();
        format!("seed {seed}: {nodes} nodes, trace {trace:016x}, {wall:.1?}; {}", figures.join("; "))
    }

    fn text(&self, story: bool) -> String {
        let Report { scenario, seed, nodes, simulated, wall, .. } = self;
        let mut lines = vec![format!("{scenario}, seed {seed}, {nodes} nodes")];
        if story {
            lines.extend(INVARIANTS.iter().map(|invariant| format!("  held: {invariant}")));
        }
        for f in &self.figures {
            let verdict = f.goal.map_or(String::new(), |goal| {
                let word = if f.value <= goal { "pass" } else { "FAIL" };
                format!("  {:.2} of the goal of {goal}: {word}", f.value / goal)
            });
            lines.push(format!("  {:44} {:>10.2} {:9}{verdict}", f.what, f.value, f.unit));
        }
        lines.push(format!("  {:44} {:>10}", "exchanges begun", self.exchanges));
        lines.push(format!("  simulated {simulated:.0} s in {wall:.1?}; {}", memory()));
        lines.push(format!("  trace {:016x}", self.trace));
        lines.join("\n")
    }

    fn json(&self) -> String {
        let Report { scenario, seed, nodes, simulated, exchanges, .. } = self;
        let figures: Vec<_> = self
            .figures
            .iter()
            .map(|f| {
                let goal = f.goal.map_or("null".into(), |goal| goal.to_string());
                format!(r#"{{"what":"{}","value":{:.3},"unit":"{}","goal":{goal}}}"#, f.what, f.value, f.unit)
            })
            .collect();
        format!(
            r#"{{"scenario":"{scenario}","seed":{seed},"nodes":{nodes},"trace":"{:016x}","exchanges":{exchanges},"simulated_s":{simulated:.1},"wall_s":{:.2},"figures":[{}]}}"#,
            self.trace,
            self.wall.as_secs_f64(),
            figures.join(",")
        )
    }
}

/// Resident memory and processor time of this process so far.
fn memory() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let status = read("/proc/self/status");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("?").trim();
    format!("{peak} resident at most")
}
