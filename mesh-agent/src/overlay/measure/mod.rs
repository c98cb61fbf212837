//! Measures the paths between nodes: whether full packets arrive on the underlay, and whether anything does through the
//! overlay. Nothing is concluded from silence alone.
//!
//! A device below may claim to compute the checksums of packets inside VXLAN and not do it: then no node is reached
//! through the overlay though all are without. The device's offload is switched off then, kept off if that helps, and
//! told.

mod probe;
mod verdict;
mod wire;

use super::{
    handle::{OverlayStatus, few},
    plan::{OverlayPlan, Peer, gateway},
};
use crate::sys::{ethtool, rtnl::Kind};
use ipnetwork::IpNetwork;
use mesh_control::model::NodeName;
use probe::{Ends, Known, listen, path, respond};
use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};
use tokio::{
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::{MissedTickBehavior, interval},
};
use verdict::{Path, suspects_checksums, trouble};

/// So long after a node came in its path is measured: it has to come up, too.
const SOON: Duration = Duration::from_secs(10);
/// Paths that are measured in one round; each gets its turn.
const ROUND: usize = 32;

/// Starts measuring. What is wrong with paths, for people, is published whenever it changes.
pub(super) fn spawn(
    port: u16,
    every: Duration,
    status: watch::Receiver<Arc<OverlayStatus>>,
) -> (watch::Receiver<Vec<String>>, JoinHandle<()>) {
    let (publish, troubles) = watch::channel(Vec::new());
    let (know, known) = watch::channel(Arc::default());
    let listeners = JoinSet::new();
    let measurer = Measurer {
        port,
        status,
        publish,
        know,
        known,
        listeners,
        bound: Vec::new(),
        next: None,
        troubles: BTreeMap::new(),
        deaf: None,
        checksums: Checksums::Trusted,
    };
    (troubles, tokio::spawn(measurer.run(every)))
}

/// What is thought of the hardware's checksums.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Checksums {
    Trusted,
    /// Switching the offload off did not help.
    Innocent,
    /// It did.
    Wrong,
}

struct Measurer {
    port: u16,
    status: watch::Receiver<Arc<OverlayStatus>>,
    publish: watch::Sender<Vec<String>>,
    know: watch::Sender<Arc<Known>>,
    known: watch::Receiver<Arc<Known>>,
    listeners: JoinSet<()>,
    /// Where they listen.
    bound: Vec<IpAddr>,
    /// After whom it goes on.
    next: Option<NodeName>,
    troubles: BTreeMap<NodeName, String>,
    /// Why questions are not answered.
    deaf: Option<String>,
    checksums: Checksums,
}

impl Measurer {
    async fn run(mut self, every: Duration) {
        let mut tick = interval(every);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => {
                    let plan = self.status.borrow().plan.clone();
                    if let Some(plan) = plan {
                        self.round(&plan).await;
                    }
                }
                changed = self.status.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let plan = self.status.borrow_and_update().plan.clone();
                    if let Some(plan) = plan
                        && self.follow(&plan).await
                    {
                        tick.reset_after(SOON.min(every));
                    }
                }
            }
            self.tell();
        }
    }

    /// Listens where the plan has addresses, to those it knows; whether it knows others than before.
    async fn follow(&mut self, plan: &OverlayPlan) -> bool {
        let is_way = |node: &NodeName, peer: &Peer| peer.node == *node && peer.remote.is_some();
        self.troubles.retain(|node, _| plan.peers.iter().any(|peer| is_way(node, peer)));
        let of_peer = |peer: &Peer| {
            let addresses = peer.subnets.iter().map(|subnet| gateway(*subnet)).chain([peer.underlay]);
            addresses.map(|address| (address, peer.underlay)).collect::<Vec<_>>()
        };
        let known: Arc<Known> = Arc::new(plan.peers.iter().flat_map(of_peer).collect());
        let others = *self.known.borrow() != known;
        self.know.send_replace(known);
        let wanted: Vec<IpAddr> =
            std::iter::once(plan.local).chain(plan.gateways.iter().map(IpNetwork::ip)).collect();
        if self.bound == wanted && self.deaf.is_none() {
            return others;
        }
        self.listeners.shutdown().await;
        self.deaf = None;
        let mut underlay = None;
        for address in &wanted {
            match listen(*address, self.port).await {
                Ok(socket) => {
                    let socket = Arc::new(socket);
                    let underlay = underlay.get_or_insert_with(|| Arc::clone(&socket));
                    self.listeners.spawn(respond(socket, Arc::clone(underlay), self.known.clone()));
                }
                Err(error) => {
                    let port = self.port;
                    self.deaf = Some(format!(
                        "cannot listen for probes on {address} port {port}: {error}; the paths to this node go unmeasured"
                    ));
                    break;
                }
            }
        }
        self.bound = wanted;
        others
    }

    async fn round(&mut self, plan: &OverlayPlan) {
        self.follow(plan).await;
        let local = plan.local;
        let full = plan.full;
        let turn = self.turn(&plan.peers);
        let mut paths = self.measure(plan, local, full, &turn).await;
        if suspects_checksums(paths.values()) {
            if self.checksums == Checksums::Trusted {
                paths = self.without_offload(plan, local, full, &turn, paths).await;
            }
        } else if paths.values().any(|path| path.overlay && path.underlay.is_some())
            && self.checksums == Checksums::Innocent
        {
            self.checksums = Checksums::Trusted;
        }
        let vxlan_port = if let Kind::Vxlan(vxlan) = &plan.vxlan.kind { vxlan.port } else { 0 };
        let port = |node: &NodeName| {
            let tunnels = turn.iter().find(|peer| peer.node == *node).map(|peer| &peer.tunnels);
            tunnels.and_then(|tunnels| tunnels.last()).map_or(vxlan_port, |tunnel| tunnel.port)
        };
        for (node, path) in paths {
            match trouble(&node, path, full, port(&node)) {
                Some(text) => self.troubles.insert(node, text),
                None => self.troubles.remove(&node),
            };
        }
    }

    /// The next peers whose turn it is, at most [`ROUND`].
    fn turn(&mut self, peers: &[Peer]) -> Vec<Peer> {
        let start = self.next.as_ref().map_or(0, |last| peers.partition_point(|peer| peer.node <= *last));
        let (before, after) = peers.split_at(start);
        // Without a way to a node nothing is to be measured: the plan says why.
        let ways = after.iter().chain(before).filter(|peer| peer.remote.is_some());
        let turn: Vec<Peer> = ways.take(ROUND).cloned().collect();
        self.next = turn.last().map(|peer| peer.node.clone());
        turn
    }

    async fn measure(
        &self,
        plan: &OverlayPlan,
        local: IpAddr,
        full: u32,
        peers: &[Peer],
    ) -> BTreeMap<NodeName, Path> {
        let mut asking = JoinSet::new();
        for peer in peers {
            let overlay = plan.gateways.iter().find_map(|own| {
                let other = peer.subnets.iter().find(|subnet| subnet.is_ipv4() == own.is_ipv4())?;
                Some((own.ip(), gateway(*other)))
            });
            let ends = Ends { underlay: (local, peer.underlay), overlay, port: self.port, full };
            let node = peer.node.clone();
            asking.spawn(async move { (node, path(&ends).await) });
        }
        let mut paths = BTreeMap::new();
        while let Some(asked) = asking.join_next().await {
            // An address that went meanwhile: next time.
            if let Ok((node, Ok(path))) = asked {
                paths.insert(node, path);
            }
        }
        paths
    }

    /// Measures once more without the device's checksum offload, and leaves it off if that is better.
    async fn without_offload(
        &mut self,
        plan: &OverlayPlan,
        local: IpAddr,
        full: u32,
        peers: &[Peer],
        before: BTreeMap<NodeName, Path>,
    ) -> BTreeMap<NodeName, Path> {
        let device = &plan.vxlan.name;
        self.checksums = Checksums::Innocent;
        if !ethtool::tx_checksum(device).unwrap_or(false) || ethtool::set_tx_checksum(device, false).is_err()
        {
            return before;
        }
        let after = self.measure(plan, local, full, peers).await;
        if !suspects_checksums(after.values()) {
            tracing::warn!(device, "the hardware's checksums are wrong inside VXLAN: its offload is off now");
            self.checksums = Checksums::Wrong;
            return after;
        }
        if let Err(error) = ethtool::set_tx_checksum(device, true) {
            tracing::warn!(%error, "the checksum offload could not be switched on again");
        }
        before
    }

    fn tell(&self) {
        let wrong = (self.checksums == Checksums::Wrong).then(|| {
            "the hardware below computes wrong checksums inside VXLAN: the offload is off, which costs speed".to_owned()
        });
        let all = few(self.deaf.iter().cloned().chain(wrong).chain(self.troubles.values().cloned()));
        self.publish.send_if_modified(|published| {
            let differs = *published != all;
            if differs {
                *published = all;
            }
            differs
        });
    }
}
