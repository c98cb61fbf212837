//! The eBPF data plane against floors in eBPF. All turns are interleaved.

mod cgroup;
mod connect;
mod contender;
mod forward;
mod maps;
mod packet;
mod reprogram;

pub(crate) use cgroup::Cgroup;
use clap::Args;

/// How much.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Rounds; everybody has ten turns in each, of packets one.
    #[arg(long, default_value_t = 10)]
    rounds: usize,
    /// How many services of ten endpoints there are.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 10_000])]
    services: Vec<u32>,
    /// Only these parts, of connect, packet, forward, reprogram.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Options { rounds: 10, services: vec![1, 10_000], only: Vec::new() }
    }
}

impl Options {
    fn wants(&self, part: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == part)
    }
}

/// Why this cannot run here, or nothing.
///
/// # Errors
/// Without the privileges, without ip(8) or a cgroup2.
pub(crate) fn possible() -> anyhow::Result<()> {
    crate::space::Space::new()?;
    cgroup::Cgroup::new("probe").map(drop)
}

/// Measures and prints.
///
/// # Errors
/// When this is not root, or a program does not load.
pub(crate) fn run(options: &Options, json: bool) -> anyhow::Result<()> {
    const PARTS: [&str; 4] = ["connect", "packet", "forward", "reprogram"];
    for only in &options.only {
        anyhow::ensure!(PARTS.contains(&only.as_str()), "--only {only}: one of {}", PARTS.join(", "));
    }
    anyhow::ensure!(
        !options.services.is_empty() && options.services.iter().all(|n| (1..=10_000).contains(n)),
        "--services: numbers from 1 to 10000, as 1,10000"
    );
    if options.wants("connect") {
        for services in &options.services {
            connect::run(*services, options.rounds, json)?;
        }
    }
    if options.wants("packet") {
        packet::run(options.rounds, json)?;
    }
    if options.wants("forward") {
        forward::run(options.rounds, json)?;
    }
    if options.wants("reprogram") {
        reprogram::run(options, json)?;
    }
    Ok(())
}
