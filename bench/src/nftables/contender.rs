//! Who is measured.

use super::{
    rivals,
    services::{self, node},
};
use crate::space::{Space, installed};
use anyhow::{Context as _, ensure};
use mesh_agent::{
    dataplane::{
        DataPlane as _,
        nftables::{NftablesConfig, NftablesPlane},
    },
    plan::Op,
};
use std::time::{Duration, Instant};

/// What holds the services.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Contender {
    Ours,
    /// iptables-restore of the kernel's old ip_tables.
    Iptables,
    /// iptables-restore over nf_tables.
    IptablesNft,
    /// `nft -f`.
    Nft,
}

/// What they are called, and the program that they are.
const RIVALS: [(Contender, &str, &str); 3] = [
    (Contender::Iptables, "iptables (legacy)", "iptables-legacy-restore"),
    (Contender::IptablesNft, "iptables-nft", "iptables-nft-restore"),
    (Contender::Nft, "nft, chain a service", "nft"),
];

impl Contender {
    /// Ours, and the rivals that are installed and that the kernel takes; the others are named on stderr.
    pub(super) fn all() -> anyhow::Result<Vec<Contender>> {
        let mut all = vec![Contender::Ours];
        for (rival, name, program) in RIVALS {
            let able = match installed(program) {
                true => rival.load(&Space::new()?, 1).map(drop),
                false => Err(anyhow::anyhow!("{program} is not installed")),
            };
            match able {
                Ok(()) => all.push(rival),
                Err(error) => eprintln!("SKIPPED: {name}: {error:#}"),
            }
        }
        Ok(all)
    }

    pub(super) fn name(self) -> &'static str {
        RIVALS.iter().find(|(rival, ..)| *rival == self).map_or("mesh-agent", |(_, name, _)| name)
    }

    fn program(self) -> &'static str {
        RIVALS.iter().find(|(rival, ..)| *rival == self).map_or("", |(.., program)| program)
    }

    /// Loads that many services into an empty kernel.
    pub(super) fn load(self, space: &Space, services: u32) -> anyhow::Result<Loaded> {
        let text = match self {
            Contender::Ours => {
                let (mut plane, ops) = (Plane::start(space)?, services::all(services, 0));
                let took = plane.apply(&ops)?;
                return Ok(Loaded { took, plane: Some(plane) });
            }
            Contender::Iptables | Contender::IptablesNft => rivals::iptables(services),
            Contender::Nft => rivals::nft(services),
        };
        Ok(Loaded { took: self.feed(space, false, &text)?, plane: None })
    }

    /// Changes one endpoint: of ours it stops being ready, of rivals it moves, which is no more to write.
    pub(super) fn change(
        self,
        space: &Space,
        loaded: &mut Loaded,
        service: u32,
        generation: u32,
    ) -> anyhow::Result<Duration> {
        let text = match self {
            Contender::Ours => {
                let plane = loaded.plane.as_mut().context("our plane")?;
                return plane.apply(&[services::unready(service, 3)]);
            }
            Contender::Iptables | Contender::IptablesNft => rivals::iptables_change(service, 3, generation),
            Contender::Nft => rivals::nft_change(service, 3, generation),
        };
        self.feed(space, true, &text)
    }

    /// Gives a rival's program its input.
    fn feed(self, space: &Space, keep: bool, text: &str) -> anyhow::Result<Duration> {
        let arguments: &[&str] = match (self, keep) {
            (Contender::Nft, _) => &["-f", "-"],
            (_, true) => &["--noflush"],
            (_, false) => &[],
        };
        let start = Instant::now();
        space.run(self.program(), arguments, text)?;
        Ok(start.elapsed())
    }
}

/// Services in a kernel.
pub(super) struct Loaded {
    /// How long that took.
    pub(super) took: Duration,
    /// Absent for rivals, which are programs that ended.
    pub(super) plane: Option<Plane>,
}

/// Our plane in a namespace.
pub(super) struct Plane {
    pub(super) plane: NftablesPlane,
    runtime: tokio::runtime::Runtime,
}

impl Plane {
    /// A new run of it.
    pub(super) fn start(space: &Space) -> anyhow::Result<Plane> {
        let config = NftablesConfig {
            node: node(),
            vip_cidrs: vec![services::VIPS.parse()?],
            // Answers come back through this node, as they do over an overlay.
            overlay: vec![services::BACKENDS.parse()?],
            bridge: None,
        };
        let plane = space.inside(|| NftablesPlane::start(config))??;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Plane { plane, runtime })
    }

    /// Applies; an operation that fails fails the bench.
    pub(super) fn apply(&mut self, ops: &[Op]) -> anyhow::Result<Duration> {
        let start = Instant::now();
        let report = self.runtime.block_on(self.plane.apply(ops));
        let took = start.elapsed();
        let first = report.failed.first().map(|(_, error)| error.to_string());
        ensure!(report.applied == ops.len(), "{} of {} applied: {first:?}", report.applied, ops.len());
        Ok(took)
    }

    /// Reads the kernel and repairs what is damaged, as at start.
    pub(super) fn observe(&mut self) -> anyhow::Result<(Duration, usize)> {
        let start = Instant::now();
        let frontends = self.runtime.block_on(self.plane.observe())?.len();
        Ok((start.elapsed(), frontends))
    }
}
