//! What the task does to the kernel, one call at a time; it blocks for as long as the kernel takes.

use super::{
    apply::{Applied, apply, pending},
    attach::{AttachError, AttachRequest, Attachment, Containers, Ground, attachments, detach},
    config::OverlayConfig,
    host::{OverlayError, underlay},
    plan::{OverlayPlan, plan},
    step::Underlay,
    tunnel,
};
use crate::sys::rtnl::Rtnl;
use ipnetwork::IpNetwork;
use mesh_control::model::{Family, Snapshot};
use std::{collections::BTreeSet, path::Path};

/// The overlay's hands.
#[derive(Debug)]
pub(super) struct Worker {
    config: OverlayConfig,
    rtnl: Rtnl,
    containers: Containers,
    #[cfg(feature = "nftables")]
    returns: super::returns::Returns,
    /// The families of which it is known what this node should have: its own subnet was confirmed once in this run, or
    /// there are none. Of the others nothing is touched, so that a restart leaves all as it was.
    settled: BTreeSet<Family>,
    stands: Option<(OverlayPlan, Underlay)>,
}

/// What came of one pass.
#[derive(Debug)]
pub(super) struct Pass {
    pub(super) applied: Applied,
    /// Whether the plan is another than that of the pass before, or a key is being changed.
    pub(super) new: bool,
}

impl Worker {
    pub(super) fn new(config: OverlayConfig) -> std::io::Result<Worker> {
        let settled = [Family::V4, Family::V6].into_iter().filter(|f| !config.has(*f)).collect();
        Ok(Worker {
            rtnl: Rtnl::open()?,
            containers: Containers::default(),
            #[cfg(feature = "nftables")]
            returns: super::returns::Returns::open(config.networks.clone(), config.ipvs)?,
            config,
            settled,
            stands: None,
        })
    }

    /// Whether anything of what stands would be another with `snapshot`.
    pub(super) fn concerns(&mut self, snapshot: &Snapshot) -> bool {
        self.settle(snapshot);
        let (Some((stands, through)), Some(local)) = (&self.stands, self.config.local()) else { return true };
        plan(snapshot, &self.config, local, through.mtu) != *stands
    }

    fn settle(&mut self, snapshot: &Snapshot) {
        self.settled.extend(snapshot.own_subnets.iter().map(|subnet| Family::of(&subnet.ip())));
    }

    /// Whether this node has, or had, a subnet in this run.
    fn is_settled(&self) -> bool {
        self.settled.iter().any(|family| self.config.has(*family))
    }

    /// Looks at the kernel and repairs what differs; `None` while this node's subnets are not known.
    pub(super) fn pass(&mut self, snapshot: &Snapshot) -> Result<Option<Pass>, OverlayError> {
        self.settle(snapshot);
        if !self.is_settled() {
            return Ok(None);
        }
        let mut applied = apply(&mut self.rtnl, &self.config, snapshot, &self.settled)?;
        let networks = self.networks();
        let ground = Ground { plan: &applied.plan, networks: &networks, snapshot };
        let (done, failed) = self.containers.repair(&mut self.rtnl, ground)?;
        applied.done.extend(done);
        applied.failed.extend(failed);
        #[cfg(feature = "nftables")]
        match self.returns.ensure(&applied.plan) {
            Ok(false) => {}
            Ok(true) => applied.done.push("the way back of flows from other nodes".into()),
            Err(error) => applied.failed.push(format!(
                "the way back of flows that come in at other nodes: {error}: clients of ports published there are \
                 not served by endpoints of this node (needs nf_tables)"
            )),
        }
        #[cfg(feature = "nftables")]
        if !self.returns.leads() {
            applied.failed.push(
                "this kernel has no netdev egress hook (Linux 5.16): flows from here to other nodes get this node's \
                 address, and clients of ports published on nodes that have it are not served by endpoints of this node"
                    .into(),
            );
        }
        let stands = (applied.plan.clone(), applied.underlay.clone());
        let new = applied.tunnels.turning || self.stands.as_ref() != Some(&stands);
        self.stands = Some(stands);
        Ok(Some(Pass { applied, new }))
    }

    /// What a pass would do, for people.
    pub(super) fn pending(&mut self, snapshot: &Snapshot) -> Result<Vec<String>, OverlayError> {
        self.settle(snapshot);
        if !self.is_settled() {
            return Ok(Vec::new());
        }
        let local = self.config.local().ok_or(OverlayError::NoUnderlay)?;
        let through = underlay(&mut self.rtnl, &self.config)?;
        let plan = plan(snapshot, &self.config, local, through.mtu);
        let sealing = tunnel::apply::pending(&mut self.rtnl, &self.config, &plan, snapshot)?;
        let steps = pending(&mut self.rtnl, &self.config, &plan, &through, &self.settled)?;
        Ok(sealing.into_iter().chain(steps.iter().map(ToString::to_string)).collect())
    }

    /// Where a container with a default route of its own goes through the gateway all the same.
    fn networks(&self) -> Vec<IpNetwork> {
        self.config.networks.iter().chain(&self.config.vip_cidrs).copied().collect()
    }

    fn plan(&self) -> Result<&OverlayPlan, AttachError> {
        let none =
            || AttachError::Unavailable("the overlay does not stand yet: try again in a moment".into());
        self.stands.as_ref().map(|(plan, _)| plan).ok_or_else(none)
    }

    /// Begins to change this node's key.
    pub(super) fn rotate(&mut self) -> Result<(), OverlayError> {
        tunnel::apply::rotate(&mut self.rtnl, &self.config)
    }

    pub(super) fn attach(
        &mut self,
        snapshot: &Snapshot,
        request: &AttachRequest,
    ) -> Result<Attachment, AttachError> {
        let plan = self.plan()?.clone();
        let networks = self.networks();
        let ground = Ground { plan: &plan, networks: &networks, snapshot };
        self.containers.attach(&mut self.rtnl, ground, request)
    }

    pub(super) fn detach(&mut self, netns: &Path, name: &str) -> Result<bool, AttachError> {
        Ok(detach(&mut self.rtnl, netns, name)?)
    }

    pub(super) fn attachments(&mut self) -> Result<Vec<Attachment>, AttachError> {
        let plan = self.plan()?.clone();
        Ok(attachments(&mut self.rtnl, &plan)?)
    }
}
