//! The nftables data plane and the overlay, in network namespaces, against iptables, iptables over nf_tables, a ruleset
//! of kube-proxy's shape for `nft`, a VXLAN laid by hand, and plain forwarding. All turns are interleaved.

pub(crate) mod connect;
pub(crate) mod contender;
mod overlay;
mod pair;
pub(crate) mod path;
mod pump;
mod reprogram;
mod rivals;
pub(crate) mod tables;
mod turns;

use crate::{services, space::Space};
use clap::Args;
use contender::Contender;

/// Our plane here.
const OURS: Contender = Contender::Ours("nftables");

/// Parts of [`tables`], and their titles.
const TITLES: [(&str, &str); 3] = [
    (
        "load",
        "nftables: load all services, 10 endpoints each, from nothing (goal: 10,000 at least 20 × faster than iptables, 80 × \
         than iptables-nft)",
    ),
    ("change", "nftables: change one endpoint (goal: 1,000 × faster than iptables at 10,000, and flat)"),
    (
        "memory",
        "nftables: kernel memory that the services take, slab + per-CPU + vmalloc (goal: at most 1/8 of iptables)",
    ),
];

/// How much.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Rounds; everybody has a turn in each. Who takes more than 20 s for a load has one.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// How many services to load, in ascending order; connections are made at the greatest.
    #[arg(long, value_delimiter = ',', default_values_t = [1_000, 10_000])]
    services: Vec<u32>,
    /// Only these parts, of load, change, memory, connect, ingress, reprogram and overlay.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Without rivals, of which some take minutes.
    #[arg(long)]
    alone: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options { rounds: 3, services: vec![1_000, 10_000], only: Vec::new(), alone: false }
    }
}

impl Options {
    fn wants(&self, part: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == part)
    }

    fn most(&self) -> u32 {
        self.services.iter().copied().max().unwrap_or(1)
    }

    /// Ours, and those of these rivals that are able to.
    fn contenders(&self, rivals: &[Contender]) -> anyhow::Result<Vec<Contender>> {
        let rivals = if self.alone { &[] } else { rivals };
        Ok([vec![OURS], Contender::able(rivals)?].concat())
    }
}

/// Why this cannot run here, or nothing.
///
/// # Errors
/// Without the privileges, or without ip(8).
pub(crate) fn possible() -> anyhow::Result<()> {
    Space::new().map(drop)
}

/// Measures and prints.
///
/// # Errors
/// When this is not root, or a contender fails at what it is asked.
pub(crate) fn run(options: &Options, json: bool) -> anyhow::Result<()> {
    const PARTS: [&str; 7] = ["load", "change", "memory", "connect", "ingress", "reprogram", "overlay"];
    for only in &options.only {
        anyhow::ensure!(PARTS.contains(&only.as_str()), "--only {only}: one of {}", PARTS.join(", "));
    }
    anyhow::ensure!(
        !options.services.is_empty() && options.services.iter().all(|n| (1..=20_000).contains(n)),
        "--services: numbers from 1 to 20000, as 1000,10000"
    );
    if ["load", "change", "memory"].iter().any(|part| options.wants(part)) {
        let contenders =
            options.contenders(&[Contender::Iptables, Contender::IptablesNft, Contender::Nft])?;
        let titles = TITLES.map(|(part, title)| options.wants(part).then_some(title));
        tables::run(&contenders, (&options.services, options.rounds), titles, json)?;
    }
    if options.wants("connect") {
        connect::services(options, json)?;
        connect::across(options, json)?;
    }
    if options.wants("ingress") {
        connect::ingress(options, json)?;
    }
    if options.wants("reprogram") {
        reprogram::run(options, json)?;
    }
    if options.wants("overlay") {
        overlay::run(options, json)?;
    }
    Ok(())
}
