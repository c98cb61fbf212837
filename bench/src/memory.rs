//! Resident memory of the real agent by what it holds, and where the state came from.
//!
//! A row is a fresh process. "at rest" is taken when the data plane has followed the newest snapshot and two looks
//! half a second apart agree; "peak" is the kernel's high-water mark (`VmHWM`), which includes reading the files.

use crate::{
    agent::{self, Agent, Network, Plan, Services, name, pause},
    table::Table,
};
use anyhow::Context as _;
use clap::Args;
use std::{path::Path, time::Duration};

/// What to hold.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Services.
    #[arg(long, default_value_t = 10_000)]
    services: usize,
    /// Endpoints of each.
    #[arg(long, default_value_t = 10)]
    endpoints: usize,
    /// Nodes that declare what a joining one hears by gossip; each announces its share of the endpoints.
    #[arg(long, default_value_t = 1)]
    peers: u8,
}

impl Default for Options {
    fn default() -> Self {
        Options { services: 10_000, endpoints: 10, peers: 1 }
    }
}

/// Two looks that differ by less are rest.
const SAME: u64 = 256 << 10;

/// Measures and prints.
pub(crate) fn run(options: &Options, json: bool) -> anyhow::Result<()> {
    agent::binary()?;
    let key = mesh_control::generate_key()?;
    let bare = Services { count: options.services, endpoints: options.endpoints, port: false };
    let full = Services { port: true, ..bare };
    let limit = agent::descriptor_limit();
    let title = format!(
        "memory: {} services of {} endpoints, one userspace worker, DNS on (hard limit of descriptors: {})",
        options.services,
        options.endpoints,
        limit.map_or("unknown".to_owned(), |l| l.to_string()),
    );
    let head =
        ["agent", "at rest MiB", "peak MiB", "bytes/endpoint", "listeners", "failed", "complete in", "CPU"];
    let mut table = Table::new(&title, &head);
    let empty = alone(&key, None)?;
    empty.row(&mut table, "empty", options, None);
    alone(&key, Some(bare))?.row(&mut table, "from files, no ports", options, Some(&empty));
    alone(&key, Some(full))?.row(&mut table, "from files, a VIP port each", options, Some(&empty));
    for (services, text) in [(bare, "no ports"), (full, "a VIP port each")] {
        let title = format!("by gossip from {}, {text}", options.peers);
        joiner(&key, services, options.peers)?.row(&mut table, &title, options, Some(&empty));
    }
    table.print(json);
    if let Some(limit) = limit.filter(|limit| options.services as u64 > limit / 2) {
        eprintln!(
            "NOTE: {} frontends want more sockets than half the descriptor limit ({limit}): the rest is refused, \
             counted under `failed` and retried",
            options.services
        );
    }
    Ok(())
}

/// One process, measured.
struct Measured {
    rest: u64,
    peak: u64,
    listeners: u64,
    failed: usize,
    complete: Duration,
    busy: Duration,
}

impl Measured {
    fn of(agent: &mut Agent, services: Services) -> anyhow::Result<Self> {
        let (complete, status) = agent.until_complete(services.count, services.count * services.endpoints)?;
        let mut rest = agent.memory("VmRSS")?;
        for _ in 0..20 {
            pause(Duration::from_millis(500));
            let now = agent.memory("VmRSS")?;
            if now.abs_diff(std::mem::replace(&mut rest, now)) < SAME {
                break;
            }
        }
        let plane = &status["plane"];
        Ok(Measured {
            rest,
            peak: agent.memory("VmHWM")?,
            listeners: plane["frontends"].as_u64().context("plane.frontends")?,
            failed: plane["failed"].as_array().map_or(0, Vec::len),
            complete,
            busy: agent.processor_time()?,
        })
    }

    fn row(&self, table: &mut Table, name: &str, options: &Options, empty: Option<&Measured>) {
        #[expect(clippy::cast_precision_loss, reason = "sizes are far below 2^52")]
        let mib = |bytes: u64| format!("{:.1}", bytes as f64 / f64::from(1 << 20));
        let all = (options.services * options.endpoints).max(1) as u64;
        let each = empty.map(|empty| (self.rest.saturating_sub(empty.rest) / all).to_string());
        table.row(&[
            name.to_owned(),
            mib(self.rest),
            mib(self.peak),
            each.unwrap_or("-".to_owned()),
            self.listeners.to_string(),
            self.failed.to_string(),
            format!("{:.1} s", self.complete.as_secs_f64()),
            format!("{:.1} s", self.busy.as_secs_f64()),
        ]);
    }
}

/// One node with these services in files.
fn alone(key: &str, services: Option<Services>) -> anyhow::Result<Measured> {
    let (network, folder) = (Network::take()?, tempfile::tempdir()?);
    let files = folder.path().join("services");
    if let Some(services) = services {
        services.write(&files, &[name(1)])?;
    }
    let plan = Plan { number: 1, join: &[], services: services.map(|_| files.as_path()) };
    let mut agent = Agent::start(&network, key, folder.path(), &plan)?;
    Measured::of(&mut agent, services.unwrap_or(Services { count: 0, endpoints: 0, port: false }))
}

/// A node that declares nothing and joins `peers` that do.
fn joiner(key: &str, services: Services, peers: u8) -> anyhow::Result<Measured> {
    let (network, folder) = (Network::take()?, tempfile::tempdir()?);
    let files = folder.path().join("services");
    let numbers: Vec<u8> = (1..=peers.max(1)).collect();
    let names: Vec<String> = numbers.iter().map(|i| name(*i)).collect();
    services.write(&files, &names)?;
    let start = |number: u8, join: &[u8], services: Option<&Path>| {
        Agent::start(&network, key, folder.path(), &Plan { number, join, services })
    };
    let mut others = Vec::new();
    for number in &numbers {
        // One after the other, so that what is measured later does not depend on a race of the declarations.
        let mut other = start(*number, &numbers[..1], Some(&files))?;
        let there = (0..services.endpoints).filter(|e| e % numbers.len() < usize::from(*number)).count();
        let (took, _) = other.until_complete(services.count, services.count * there)?;
        eprintln!("{} of {} that declare: complete after {:.1} s", number, numbers.len(), took.as_secs_f64());
        others.push(other);
    }
    let mut last = start(peers.max(1) + 1, &numbers[..1], None)?;
    Measured::of(&mut last, services)
}
