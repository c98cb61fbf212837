//! TCP throughput, connections per second and UDP datagrams per second through a proxy with one worker: ours, HAProxy
//! and nginx `stream`, interleaved in every round.
//!
//! Beside the rate stands the processor time of the proxy's process per unit: on a machine where load and proxy share
//! cores, or others work too, it is the steadier of the two.

mod load;
mod ours;
mod peers;

pub(crate) use ours::{Serve, serve};

use crate::table::{Table, median};
use anyhow::Context as _;
use clap::Args;
use load::{Backends, Sample};
use peers::Peer;
use std::time::Duration;

/// How long to measure.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Seconds per measurement.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Rounds; every round measures everything once.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options { seconds: 1.0, rounds: 5 }
    }
}

/// A kind of load: its title, its unit, and what runs it.
struct Case {
    title: &'static str,
    unit: &'static str,
    /// How many of what the load counts make one unit.
    scale: f64,
    run: fn(&Peer, Duration) -> anyhow::Result<Sample>,
    udp: bool,
}

const CASES: [Case; 3] = [
    Case {
        title: "proxy: TCP throughput, 4 flows",
        unit: "MiB",
        scale: 1024.0 * 1024.0,
        run: |peer, time| load::throughput(peer.tcp_bulk, time),
        udp: false,
    },
    Case {
        title: "proxy: TCP connections, one short exchange each, 8 clients",
        unit: "connection",
        scale: 1.0,
        run: |peer, time| load::connections(peer.tcp_short, time),
        udp: false,
    },
    Case {
        title: "proxy: UDP datagrams of 64 bytes and their answers, 4 clients",
        unit: "datagram",
        scale: 1.0,
        run: |peer, time| load::datagrams(peer.udp, time),
        udp: true,
    },
];

/// Measures and prints. A peer that is not installed is named on stderr and left out.
pub(crate) fn run(options: &Options, json: bool) -> anyhow::Result<()> {
    let time = Duration::try_from_secs_f64(options.seconds).context("--seconds")?;
    let folder = tempfile::tempdir()?;
    let backends = Backends::start()?;
    let mut peers = vec![ours::start(&backends)?];
    for peer in [peers::haproxy(&backends, folder.path()), peers::nginx(&backends, folder.path())] {
        match peer {
            Ok(peer) => peers.push(peer),
            Err(e) => eprintln!("SKIPPED: {e:#}"),
        }
    }
    for case in &CASES {
        let served: Vec<&Peer> = peers.iter().filter(|peer| peer.has_udp || !case.udp).collect();
        let mut rates = vec![Vec::new(); served.len()];
        let mut costs = vec![Vec::new(); served.len()];
        for _ in 0..options.rounds.max(1) {
            for (i, peer) in served.iter().enumerate() {
                let before = peer.processor_time()?;
                let sample =
                    (case.run)(peer, time).with_context(|| format!("{}: {}", case.title, peer.name))?;
                let used = peer.processor_time()?.saturating_sub(before);
                let units = sample.units / case.scale;
                rates[i].push(units / sample.time.as_secs_f64());
                costs[i].push(used.as_secs_f64() * 1e6 / units.max(1.0));
            }
        }
        print(case, &served, &rates, &costs, json);
    }
    Ok(())
}

fn print(case: &Case, served: &[&Peer], rates: &[Vec<f64>], costs: &[Vec<f64>], json: bool) {
    let rate_head = format!("{}/s", case.unit);
    let cost_head = format!("proxy µs/{}", case.unit);
    let head = ["proxy", &rate_head, "ours/its rate", &cost_head, "its/ours cost"];
    let mut table = Table::new(case.title, &head);
    let (our_rate, our_cost) = (median(&rates[0]), median(&costs[0]));
    for (i, peer) in served.iter().enumerate() {
        let (rate, cost) = (median(&rates[i]), median(&costs[i]));
        table.row(&[
            peer.name.to_owned(),
            format!("{rate:.0}"),
            format!("{:.2}", our_rate / rate),
            format!("{cost:.2}"),
            format!("{:.2}", cost / our_cost),
        ]);
    }
    table.print(json);
}
