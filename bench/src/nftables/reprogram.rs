//! Connections while all that the kernel holds is replaced: none may fail.

use super::{
    OURS, Options,
    contender::Plane,
    path::{Path, connect},
    services::{self, PORT, vip},
};
use crate::table::Table;
use mesh_agent::plan::Op;
use mesh_control::model::Scheduler;
use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

/// Clients that connect without a pause.
const CLIENTS: u32 = 2;
/// A connection that took so long had lost its first packet: that is sent again after a second (RFC 6298 section 2).
const RESENT: Duration = Duration::from_millis(900);

/// What is done meanwhile.
const PHASES: [&str; 5] = [
    "nothing",
    "every endpoint moves (100,000 elements at 10,000 services)",
    "every policy changes",
    "another run of the agent reads all",
    "all is laid anew, in place",
];

/// What connections met in one phase.
#[derive(Clone, Default, Debug)]
struct Met {
    connected: usize,
    failed: usize,
    resent: usize,
    worst: Duration,
    first: Option<String>,
    took: Vec<f64>,
}

/// Measures and prints.
pub(super) fn run(options: &Options, json: bool) -> anyhow::Result<()> {
    let count = options.most();
    let path = Path::new()?;
    let mut loaded = OURS.load(&path.node, count)?;
    let met = Mutex::new(vec![Met::default(); PHASES.len()]);
    let (phase, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let work = thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (path, met, phase, stop) = (&path, &met, &phase, &stop);
            scope.spawn(move || {
                path.client.inside(|| {
                    let mut n = client;
                    while !stop.load(Relaxed) {
                        let now = phase.load(Relaxed);
                        let result = connect((vip(n.wrapping_mul(7919) % count), PORT).into());
                        let mut met = met.lock().unwrap_or_else(PoisonError::into_inner);
                        met[now].note(result);
                        n += CLIENTS;
                        if n % 128 < CLIENTS {
                            path.hang_up();
                        }
                    }
                })
            });
        }
        let done = phases(&path, &mut loaded.plane, options, &phase, &met);
        stop.store(true, Relaxed);
        done
    });
    work?;
    let head =
        ["meanwhile", "times", "each takes ms", "connected", "failed", "first packet lost", "worst ms"];
    let title = format!("nftables: connections while {count} services are reprogrammed (goal: 0 failed)");
    let mut table = Table::new(&title, &head);
    let met = met.into_inner().unwrap_or_else(PoisonError::into_inner);
    for (name, met) in PHASES.iter().zip(&met) {
        if let Some(first) = &met.first {
            eprintln!("nftables: {name}: the first failure: {first}");
        }
        table.row(&[
            (*name).to_owned(),
            met.took.len().to_string(),
            format!("{:.0}", crate::table::median(&met.took)),
            met.connected.to_string(),
            met.failed.to_string(),
            met.resent.to_string(),
            format!("{:.1}", met.worst.as_secs_f64() * 1e3),
        ]);
    }
    table.print(json);
    Ok(())
}

fn phases(
    path: &Path,
    plane: &mut Option<Plane>,
    options: &Options,
    phase: &AtomicUsize,
    met: &Mutex<Vec<Met>>,
) -> anyhow::Result<()> {
    let count = options.most();
    for round in 0..options.rounds.max(1) {
        for now in 0..PHASES.len() {
            phase.store(now, Relaxed);
            let generation = u32::try_from(round)? + 1;
            let Some(running) = plane.as_mut() else { anyhow::bail!("our plane") };
            let took = match now {
                0 => {
                    crate::agent::pause(Duration::from_secs(1));
                    Duration::from_secs(1)
                }
                1 => running.apply(&services::all(count, generation))?,
                2 => running.apply(&policies(count, round % 2 == 0))?,
                3 => {
                    *plane = None;
                    let mut next = Plane::start(OURS.name(), &path.node)?;
                    let (took, read) = next.observe()?;
                    anyhow::ensure!(read == count as usize, "the other run read {read} frontends");
                    *plane = Some(next);
                    took
                }
                _ => {
                    path.node.run(
                        "nft",
                        &["add", "rule", "ip", "mesh-agent", "postrouting", "counter"],
                        "",
                    )?;
                    let (took, read) = running.observe()?;
                    let rules =
                        path.node.run("nft", &["list", "chain", "ip", "mesh-agent", "postrouting"], "")?;
                    anyhow::ensure!(read == count as usize && !rules.contains("counter"), "not laid anew");
                    took
                }
            };
            let mut met = met.lock().unwrap_or_else(PoisonError::into_inner);
            met[now].took.push(took.as_secs_f64() * 1e3);
        }
    }
    Ok(())
}

/// Every frontend schedules otherwise.
fn policies(count: u32, random: bool) -> Vec<Op> {
    let scheduler = if random { Scheduler::Random } else { Scheduler::default() };
    let put = |op| match op {
        Op::PutFrontend(mut frontend) => {
            Arc::make_mut(&mut frontend).scheduler = scheduler;
            Some(Op::PutFrontend(frontend))
        }
        _ => None,
    };
    services::all(count, 0).into_iter().filter_map(put).collect()
}

impl Met {
    fn note(&mut self, result: std::io::Result<Duration>) {
        match result {
            Ok(time) => {
                self.connected += 1;
                self.resent += usize::from(time >= RESENT);
                self.worst = self.worst.max(time);
            }
            Err(error) => {
                self.failed += 1;
                self.first.get_or_insert_with(|| error.to_string());
            }
        }
    }
}
