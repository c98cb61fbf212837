//! A seeded simulation of whole nodes: what must hold holds under every kind of trouble.
//!
//! `SIM_SEEDS=2000` runs more seeds, `SIM_SEED=7` only that one; see also `make sim`.

mod sim;

use sim::story::{KINDS, Kind, size, tell};

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|v| v.parse().ok())
}

/// Runs each of `parts` tests' share of the seeds, so that they run side by side.
fn share(part: u64, parts: u64, kind: Kind) {
    let seeds: Vec<u64> = match number("SIM_SEED") {
        Some(seed) => (seed % parts == part).then_some(seed).into_iter().collect(),
        None => (0..number("SIM_SEEDS").unwrap_or(240)).filter(|seed| seed % parts == part).collect(),
    };
    for seed in seeds {
        println!("{kind:?}, seed {seed}, {} nodes", size(seed));
        println!("  trace {:016x}", tell(seed, size(seed), kind).sim.trace);
    }
}

macro_rules! shares {
    ($($name:ident: $part:literal of $parts:literal, $kind:ident;)*) => {
        $(#[test]
        fn $name() {
            share($part, $parts, Kind::$kind);
        })*
    };
}

shares! {
    every_trouble_at_once_1: 0 of 4, Mixed;
    every_trouble_at_once_2: 1 of 4, Mixed;
    every_trouble_at_once_3: 2 of 4, Mixed;
    every_trouble_at_once_4: 3 of 4, Mixed;
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for (name, kind) in KINDS {
        let first = tell(3, 8, kind).sim.trace;
        println!("{name}: trace {first:016x}");
        assert_eq!(first, tell(3, 8, kind).sim.trace, "{name}");
        assert_ne!(first, tell(13, 8, kind).sim.trace, "{name}");
    }
}
