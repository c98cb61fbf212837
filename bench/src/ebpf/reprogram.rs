//! How long the maps take to be written, and what memory they are.

use super::{Options, connect::cpu_time};
use crate::{
    services::{self, node},
    space::Space,
    table::{Table, median},
};
use anyhow::{Context as _, ensure};
use mesh_agent::{
    dataplane::{
        DataPlane as _,
        ebpf::{Apart, EbpfConfig, EbpfPlane, Hook, Sizes, Xdp},
    },
    plan::Op,
};
use mesh_control::model::Addresses;
use mesh_ebpf::{Kernel, place};
use std::{
    fs,
    os::fd::AsRawFd as _,
    path::Path,
    time::{Duration, Instant},
};
use tokio::runtime::Runtime;

/// Changes of each kind in a round.
const CHANGES: u32 = 101;

/// What was measured at one size, a value for each turn, in seconds.
#[derive(Default)]
struct Row {
    services: u32,
    load: Vec<f64>,
    /// Of it, what the thread took of a processor: others have it in between.
    load_cpu: Vec<f64>,
    /// One endpoint stops being ready, and moves.
    unready: Vec<f64>,
    moved: Vec<f64>,
    /// All endpoints move.
    all: Vec<f64>,
    /// Another run of the agent takes all up.
    taken_up: Vec<f64>,
    /// Bytes of all maps, and of those without an entry.
    memory: [f64; 2],
}

/// A run of the plane.
struct Run {
    plane: EbpfPlane,
    runtime: Runtime,
}

impl Run {
    fn start(space: &Space, apart: &Apart) -> anyhow::Result<Run> {
        let config = EbpfConfig {
            node: node(),
            addresses: Addresses::default(),
            vip_cidrs: vec![services::VIPS.parse()?],
            overlay: vec![services::BACKENDS.parse()?],
            bridge: None,
            tunnel: None,
            direct: false,
            hook: Hook::Auto,
            xdp: Xdp::Off,
            snapshots: None,
            bpffs: Some(apart.bpffs()),
            cgroup: Some(apart.cgroup().to_owned()),
            sizes: Sizes::default(),
            new_flows: 0,
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let plane = space.inside(|| {
            let _entered = runtime.enter();
            EbpfPlane::start(config)
        })??;
        Ok(Run { plane, runtime })
    }

    fn apply(&mut self, ops: &[Op]) -> anyhow::Result<f64> {
        let start = Instant::now();
        let report = self.runtime.block_on(self.plane.apply(ops));
        let took = start.elapsed();
        let first = report.failed.first().map(|(_, error)| error.to_string());
        ensure!(report.applied == ops.len(), "{} of {} applied: {first:?}", report.applied, ops.len());
        Ok(took.as_secs_f64())
    }

    fn observe(&mut self, services: u32) -> anyhow::Result<Duration> {
        let start = Instant::now();
        let read = self.runtime.block_on(self.plane.observe())?.len();
        ensure!(u32::try_from(read)? == services, "{read} of {services} frontends were read");
        Ok(start.elapsed())
    }
}

/// Measures and prints.
pub(super) fn run(options: &Options, json: bool) -> anyhow::Result<()> {
    let mut rows: Vec<Row> =
        options.services.iter().map(|n| Row { services: *n, ..Row::default() }).collect();
    for round in 0..options.rounds.max(1) {
        for row in &mut rows {
            row.round(u32::try_from(round)?).with_context(|| format!("{} services", row.services))?;
        }
    }
    let head = [
        "services",
        "from empty, ms",
        "of CPU",
        "an endpoint is not ready, ms",
        "an endpoint moves, ms",
        "all move, ms",
        "another run takes up, ms",
        "maps, MiB",
        "empty, MiB",
    ];
    let title = "eBPF: writing services of 10 endpoints into the maps (goal: 10,000 from empty in 500 ms; one \
                 change flat in services)";
    let mut table = Table::new(title, &head);
    for row in &rows {
        let ms = |values: &[f64], digits: usize| format!("{:.digits$}", median(values) * 1e3);
        let mib = |bytes: f64| format!("{:.1}", bytes / f64::from(1 << 20));
        table.row(&[
            row.services.to_string(),
            ms(&row.load, 1),
            ms(&row.load_cpu, 1),
            ms(&row.unready, 3),
            ms(&row.moved, 3),
            ms(&row.all, 1),
            ms(&row.taken_up, 1),
            mib(row.memory[0]),
            mib(row.memory[1]),
        ]);
    }
    table.print(json);
    Ok(())
}

impl Row {
    fn round(&mut self, round: u32) -> anyhow::Result<()> {
        let (space, apart, count) = (Space::new()?, Apart::new()?, self.services);
        let cookie = space.inside(place::netns_cookie)??;
        let folder = mesh_ebpf::folder(&apart.bpffs(), cookie);
        let mut run = Run::start(&space, &apart)?;
        run.observe(0)?;
        self.memory[1] = memory(&folder)?;
        let (all, start) = (services::all(count, 0), cpu_time()?);
        self.load.push(run.apply(&all)?);
        self.load_cpu.push((cpu_time()? - start).as_secs_f64());
        self.memory[0] = memory(&folder)?;
        for i in 0..CHANGES {
            // Everywhere in the list of services.
            let service = i.wrapping_mul(7919) % count;
            self.unready.push(run.apply(&[services::unready(service, 3)])?);
            self.moved.push(run.apply(&[services::put(service, 4, 1 + (round + i) % 2)])?);
        }
        self.all.push(run.apply(&services::all(count, 3))?);
        drop(run);
        let start = Instant::now();
        let mut run = Run::start(&space, &apart)?;
        run.observe(count)?;
        self.taken_up.push(start.elapsed().as_secs_f64());
        run.runtime.block_on(run.plane.teardown())?;
        Ok(())
    }
}

/// The bytes of all maps that are pinned there, as the kernel counts them.
fn memory(folder: &Path) -> anyhow::Result<f64> {
    let kernel = Kernel::open(folder, &Sizes::default())?;
    let mut sum = 0.0;
    for file in fs::read_dir(folder)?.flatten().filter(|file| !file.path().is_dir()) {
        let name = file.file_name().to_string_lossy().into_owned();
        let map = kernel.raw_map(&name)?;
        let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", map.as_raw_fd()))?;
        let line = text.lines().find_map(|line| line.strip_prefix("memlock:")).context("no memlock")?;
        sum += line.trim().parse::<f64>()?;
    }
    Ok(sum)
}
