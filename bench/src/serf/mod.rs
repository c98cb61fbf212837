//! Meshes of real mesh-agents against meshes of real serf agents of the same sizes, each node in a network namespace of
//! its own: what they send at rest, how soon all see a crash, and whom they wrongly give up under loss.
//!
//! All meshes stand at the same time, so that both sorts meet the same machine: at rest and under loss they are measured
//! together, crashes take turns mesh by mesh.

mod cluster;
mod measure;
mod net;
mod report;
mod stop;
mod watch;

pub(crate) use net::possible;

use anyhow::{Context as _, ensure};
use clap::Args;
use cluster::Cluster;
use std::time::Duration;
use stop::Stop;
use watch::Kind;

/// How large and how long.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Sizes of the meshes.
    #[arg(long, value_delimiter = ',', default_values_t = [10, 20, 30])]
    nodes: Vec<usize>,
    /// A look at it in about two minutes; too short to judge by.
    #[arg(long)]
    quick: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options { nodes: vec![10, 20, 30], quick: false }
    }
}

/// How long each phase takes.
struct Plan {
    settle: Duration,
    idle: Duration,
    crashes: usize,
    loss: Duration,
}

/// Measures and prints.
///
/// # Errors
/// When this is not root, a program is missing, a mesh does not come together, or a signal asks to stop. Whatever the
/// reason, processes and namespaces are removed.
pub(crate) fn run(options: &Options, json: bool) -> anyhow::Result<()> {
    possible().context("mesh-bench serf cannot run")?;
    ensure!(
        !options.nodes.is_empty() && options.nodes.iter().all(|n| (3..=100).contains(n)),
        "--nodes: sizes from 3 to 100, as 10,20,30"
    );
    let mut sizes = options.nodes.clone();
    sizes.sort_unstable();
    sizes.dedup();
    let seconds = Duration::from_secs;
    let plan = if options.quick {
        Plan { settle: seconds(5), idle: seconds(20), crashes: 2, loss: seconds(30) }
    } else {
        Plan { settle: seconds(20), idle: seconds(60), crashes: 5, loss: seconds(180) }
    };
    let stop = Stop::on_signals()?;
    let folder = tempfile::tempdir()?;
    let mut clusters = Vec::new();
    for size in sizes {
        for kind in [Kind::Ours, Kind::Serf] {
            stop.check()?;
            clusters.push(Cluster::start(kind, size, folder.path())?);
        }
    }
    let say = |text: &str| eprintln!("serf: {text}");
    say(&format!("{} meshes started; settling", clusters.len()));
    measure::settle(&mut clusters, plan.settle, &stop)?;
    say(&format!("at rest for {:?}", plan.idle));
    let rest = measure::rest(&mut clusters, plan.idle, &stop)?;
    say(&format!("{} crashes of each mesh in turn", plan.crashes));
    let crashes = measure::crashes(&mut clusters, plan.crashes, &stop)?;
    say(&format!("{} % of datagrams are lost for {:?}", net::LOSS, plan.loss));
    let losses = measure::losses(&mut clusters, plan.loss, &stop)?;
    report::print(&clusters, &plan, &rest, &crashes, &losses, json);
    Ok(())
}
