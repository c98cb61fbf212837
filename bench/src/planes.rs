//! All data planes and a ruleset of kube-proxy's shape beside each other: connections and streams through one, a thousand
//! and ten thousand services; and what IPVS costs to program. All turns are interleaved. `make bench-vm` runs it where
//! there is IPVS.

use crate::{
    nftables::{connect::Way, contender::Contender, path::Path, tables},
    table::{Table, median},
};
use clap::Args;

/// Exchanges in a turn, and turns in a round; a stream goes before every second turn.
const BATCH: u32 = 100;
const TURNS: usize = 8;
/// Who is measured, as far as the kernel takes it.
const ALL: [Contender; 5] = [
    Contender::Ours("ebpf"),
    Contender::Ours("nftables"),
    Contender::Ours("ipvs"),
    Contender::Ours("userspace"),
    Contender::Iptables,
];
/// What is loaded and changed.
const PROGRAMMED: [Contender; 2] = [Contender::Ours("ipvs"), Contender::Ipvsadm];

/// How much.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Rounds; everybody has a load, or eight turns of connections, in each.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// How many services of ten endpoints there are.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 1_000, 10_000])]
    services: Vec<u32>,
    /// Only these parts, of connect and program.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Connections through these data planes alone, of ebpf, nftables, ipvs and userspace.
    #[arg(long, value_delimiter = ',')]
    planes: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Options { rounds: 3, services: vec![1, 1_000, 10_000], only: Vec::new(), planes: Vec::new() }
    }
}

/// Measures and prints.
///
/// # Errors
/// When this is not root, or somebody fails at what is asked.
pub(crate) fn run(options: &Options, json: bool) -> anyhow::Result<()> {
    const PARTS: [&str; 2] = ["connect", "program"];
    for only in &options.only {
        anyhow::ensure!(PARTS.contains(&only.as_str()), "--only {only}: one of {}", PARTS.join(", "));
    }
    anyhow::ensure!(
        !options.services.is_empty() && options.services.iter().all(|n| (1..=20_000).contains(n)),
        "--services: numbers from 1 to 20000, as 1,1000,10000"
    );
    let wants = |part: &str| options.only.is_empty() || options.only.iter().any(|only| only == part);
    if wants("program") {
        let contenders = Contender::able(&PROGRAMMED)?;
        let titles = [
            Some(
                "IPVS: load all services, 10 endpoints each, from nothing (goal: 2 × faster than ipvsadm -R)",
            ),
            Some("IPVS: change one endpoint (goal: flat)"),
            None,
        ];
        if !contenders.is_empty() {
            tables::run(&contenders, (&options.services, options.rounds), titles, json)?;
        }
    }
    if wants("connect") {
        let chosen = |of: &&Contender| {
            options.planes.is_empty() || options.planes.iter().any(|name| name == of.name())
        };
        let contenders = Contender::able(&ALL.iter().filter(chosen).copied().collect::<Vec<_>>())?;
        for services in &options.services {
            connect(&contenders, *services, options.rounds, json)?;
        }
    }
    Ok(())
}

fn connect(contenders: &[Contender], services: u32, rounds: usize, json: bool) -> anyhow::Result<()> {
    let mut ways = vec![Way::direct(Path::new()?, services)];
    for contender in contenders {
        ways.push(Way::through(*contender, Path::new()?, services)?);
    }
    let mut first = 0;
    // The first turn finds neighbours and fills caches.
    for turn in 0..=rounds.max(1) * TURNS {
        // Nobody is always first.
        ways.rotate_left(1);
        for way in &mut ways {
            if turn % 2 == 1 {
                way.rates.push(way.path.stream((way.to)(first))?.rate);
            }
            let took = way.path.exchanges((first..first + BATCH).map(&way.to))?;
            if turn > 0 {
                way.times.push(took / f64::from(BATCH));
            }
        }
        first += BATCH;
    }
    ways.sort_by_key(|way| ALL.iter().position(|of| of.name() == way.name));
    let title =
        format!("{services} services of 10 endpoints: short connections one after the other, and a stream");
    let mut table = Table::new(&title, &["way", "connections/s", "of direct", "MiB/s", "of direct"]);
    let [direct, ..] = &ways[..] else { return Ok(()) };
    for way in &ways {
        let ratio = |over: &[f64], under: &[f64]| {
            median(&over.iter().zip(under).map(|(over, under)| over / under).collect::<Vec<_>>())
        };
        table.row(&[
            way.name.to_owned(),
            format!("{:.0}", 1.0 / median(&way.times)),
            format!("{:.2}", ratio(&direct.times, &way.times)),
            format!("{:.0}", median(&way.rates)),
            format!("{:.2}", ratio(&way.rates, &direct.rates)),
        ]);
    }
    table.print(json);
    Ok(())
}
