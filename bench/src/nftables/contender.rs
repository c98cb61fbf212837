//! Who is measured.

use super::{
    rivals,
    services::{self, node},
};
use crate::{
    ebpf::Cgroup,
    space::{Space, installed},
};
use anyhow::{Context as _, ensure};
use mesh_agent::{
    dataplane::{
        AnyDataPlane, DataPlane as _, NetfilterConfig,
        ebpf::{EbpfConfig, EbpfPlane, Hook, Sizes, Xdp},
        ipvs::IpvsPlane,
        nftables::NftablesPlane,
        userspace::{UserspaceConfig, UserspacePlane},
    },
    plan::Op,
    sys::netns::Netns,
};
use mesh_control::model::Addresses;
use std::{
    os::fd::{AsRawFd as _, OwnedFd},
    time::{Duration, Instant},
};

/// What holds the services.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Contender {
    /// The plane of ours with that name in a configuration.
    Ours(&'static str),
    /// iptables-restore of the kernel's old ip_tables.
    Iptables,
    /// iptables-restore over nf_tables.
    IptablesNft,
    /// `nft -f`.
    Nft,
    /// `ipvsadm -R`, which is told of services and endpoints alone.
    Ipvsadm,
}

/// What they are called, and the program that they are.
const RIVALS: [(Contender, &str, &str); 4] = [
    (Contender::Iptables, "iptables (legacy)", "iptables-legacy-restore"),
    (Contender::IptablesNft, "iptables-nft", "iptables-nft-restore"),
    (Contender::Nft, "nft, chain a service", "nft"),
    (Contender::Ipvsadm, "ipvsadm -R", "ipvsadm"),
];

impl Contender {
    /// Those of them that are installed and that the kernel takes; the others are named on stderr.
    pub(crate) fn able(all: &[Contender]) -> anyhow::Result<Vec<Contender>> {
        let mut able = Vec::new();
        for contender in all {
            let program = contender.program();
            let loads = match program.is_none_or(installed) {
                true => contender.load(&Space::new()?, 1).map(drop),
                false => Err(anyhow::anyhow!("{} is not installed", program.unwrap_or_default())),
            };
            match loads {
                Ok(()) => able.push(*contender),
                Err(error) => eprintln!("SKIPPED: {}: {error:#}", contender.name()),
            }
        }
        Ok(able)
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Contender::Ours(plane) => plane,
            rival => RIVALS.iter().find(|(of, ..)| *of == rival).map_or("", |(_, name, _)| name),
        }
    }

    fn program(self) -> Option<&'static str> {
        RIVALS.iter().find(|(rival, ..)| *rival == self).map(|(.., program)| *program)
    }

    /// Loads that many services into an empty kernel.
    pub(crate) fn load(self, space: &Space, services: u32) -> anyhow::Result<Loaded> {
        let text = match self {
            Contender::Ours(name) => {
                let (mut plane, ops) = (Plane::start(name, space)?, services::all(services, 0));
                let took = plane.apply(&ops)?;
                return Ok(Loaded { took, plane: Some(plane) });
            }
            Contender::Iptables | Contender::IptablesNft => rivals::iptables(services),
            Contender::Nft => rivals::nft(services),
            Contender::Ipvsadm => rivals::ipvsadm(services),
        };
        Ok(Loaded { took: self.feed(space, false, &text)?, plane: None })
    }

    /// Changes one endpoint: of ours it stops being ready, of rivals it moves, which is no more to write, or of IPVS gets
    /// a weight of 0.
    pub(super) fn change(
        self,
        space: &Space,
        loaded: &mut Loaded,
        service: u32,
        generation: u32,
    ) -> anyhow::Result<Duration> {
        let text = match self {
            Contender::Ours(_) => {
                let plane = loaded.plane.as_mut().context("our plane")?;
                return plane.apply(&[services::unready(service, 3)]);
            }
            Contender::Iptables | Contender::IptablesNft => rivals::iptables_change(service, 3, generation),
            Contender::Nft => rivals::nft_change(service, 3, generation),
            Contender::Ipvsadm => rivals::ipvsadm_change(service, 3),
        };
        self.feed(space, true, &text)
    }

    /// Gives a rival's program its input.
    fn feed(self, space: &Space, keep: bool, text: &str) -> anyhow::Result<Duration> {
        let arguments: &[&str] = match (self, keep) {
            (Contender::Nft, _) => &["-f", "-"],
            (Contender::Ipvsadm, _) => &["-R"],
            (_, true) => &["--noflush"],
            (_, false) => &[],
        };
        let start = Instant::now();
        space.run(self.program().context("a rival")?, arguments, text)?;
        Ok(start.elapsed())
    }
}

/// Services in a kernel.
pub(crate) struct Loaded {
    /// How long that took.
    pub(super) took: Duration,
    /// Absent for rivals, which are programs that ended.
    pub(super) plane: Option<Plane>,
}

/// A plane of ours in a namespace.
pub(crate) struct Plane {
    plane: AnyDataPlane,
    runtime: tokio::runtime::Runtime,
    /// Where it works: the proxy opens its sockets as it applies.
    netns: Netns,
    /// Of eBPF: pins that go with this process, and a cgroup that nobody is in.
    _apart: Option<(OwnedFd, Cgroup)>,
}

impl Plane {
    /// A new run of it.
    pub(super) fn start(name: &str, space: &Space) -> anyhow::Result<Plane> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let config = NetfilterConfig {
            node: node(),
            vip_cidrs: vec![services::VIPS.parse()?],
            // Answers come back through this node, as they do over an overlay.
            overlay: vec![services::BACKENDS.parse()?],
            bridge: None,
        };
        let mut apart = None;
        let plane: AnyDataPlane = match name {
            "nftables" => space.inside(|| NftablesPlane::start(config))??.into(),
            "ipvs" => space.inside(|| IpvsPlane::start(config, None))??.into(),
            "ebpf" => {
                let (pins, cgroup) = (mesh_ebpf::place::private_bpffs()?, Cgroup::new("plane")?);
                let config = EbpfConfig {
                    node: config.node,
                    addresses: Addresses::default(),
                    vip_cidrs: config.vip_cidrs,
                    overlay: config.overlay,
                    bridge: None,
                    tunnel: None,
                    direct: false,
                    hook: Hook::Auto,
                    xdp: Xdp::Off,
                    snapshots: None,
                    bpffs: Some(format!("/proc/{}/fd/{}", std::process::id(), pins.as_raw_fd()).into()),
                    cgroup: Some(cgroup.path().to_owned()),
                    sizes: Sizes::default(),
                    new_flows: 0,
                };
                apart = Some((pins, cgroup));
                let handle = runtime.handle();
                space
                    .inside(|| {
                        let _entered = handle.enter();
                        EbpfPlane::start(config)
                    })??
                    .into()
            }
            "userspace" => {
                // It listens at VIPs, which have to be addresses of the host.
                space.ip(&format!("route add local {} dev lo\n", services::VIPS))?;
                let config = UserspaceConfig { workers: 1, ..UserspaceConfig::default() };
                space.inside(|| UserspacePlane::start(config))??.into()
            }
            _ => anyhow::bail!("no data plane {name}"),
        };
        Ok(Plane { plane, runtime, netns: Netns::open(space.path().as_ref())?, _apart: apart })
    }

    /// Applies; an operation that fails fails the bench.
    pub(super) fn apply(&mut self, ops: &[Op]) -> anyhow::Result<Duration> {
        let (report, took) = self.netns.run(|| {
            let start = Instant::now();
            let report = self.runtime.block_on(self.plane.apply(ops));
            (report, start.elapsed())
        })?;
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
