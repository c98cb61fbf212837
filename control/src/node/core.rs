//! The node's state, its timers and the way of a record through it.

use super::{
    exchanges::Exchanges,
    io::{Input, Output},
    measured::Measured,
    names::Names,
    own_subnets::OwnSubnets,
};
use crate::key::RecordId;
use crate::{
    api::ControlStats,
    gossip::{self, Bucket, Spread},
    hlc::{Clock, Hlc, Now},
    keyring::KeyError,
    keys::Keys,
    member::Identity,
    membership::Membership,
    model::{NodeInfo, NodeName, PortRange, ServiceKey, Snapshot},
    packet::{Opener, Sealer, SenderId},
    record::{Record, Writer},
    sources::Said,
    store::Store,
    subnets::OverlayNetwork,
    view::{Liveness, View},
};
use ipnetwork::IpNetwork;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::SocketAddr,
    sync::Arc,
};

/// Time between two looks at slow matters, in milliseconds.
const HOUSEKEEPING: u64 = 250;
/// Tombstones are collected this often.
const COLLECT: u64 = 60_000;
/// From so much lateness on, in milliseconds, this node was stalled: its timers prove nothing about others.
const STALL: u64 = 200;

/// How to make a node.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Its name.
    pub name: NodeName,
    /// Where the others reach it.
    pub addr: SocketAddr,
    /// What it says of itself.
    pub info: NodeInfo,
    /// Unix milliseconds of this start.
    pub boot: u64,
    /// `host:port` of nodes to join.
    pub seeds: Vec<String>,
    /// Where VIPs are claimed, at most one network per family.
    pub vip_cidrs: Vec<IpNetwork>,
    /// Where this node claims a subnet, at most one network per family; empty for no overlay.
    pub overlay: Vec<OverlayNetwork>,
    /// Where published ports without a number are claimed.
    pub dynamic_ports: PortRange,
    /// Seed of every random choice.
    pub seed: u64,
    /// A random number of this run, unlike every other run's: it keeps nonces apart.
    pub sender: [u8; 16],
}

/// One node.
pub struct Node {
    pub(super) config: NodeConfig,
    pub(super) writer: Arc<Writer>,
    pub(super) clock: Clock,
    pub(super) store: Store,
    pub(super) spread: Spread,
    pub(super) membership: Membership,
    pub(super) view: View,
    pub(super) exchanges: Exchanges,
    pub(super) rng: StdRng,
    pub(super) started: u64,
    /// Synced with a peer at least once.
    pub(super) synced: bool,
    pub(super) gone: bool,
    /// What this run's sources want of this node's own records: the value, or absent for deleted.
    pub(super) desired: HashMap<RecordId, Option<Arc<[u8]>>>,
    /// Services that lack a claim: when to look again, and how often it was tried.
    pub(super) unmet: BTreeMap<ServiceKey, (u64, usize)>,
    pub(super) own_subnets: OwnSubnets,
    /// The next part of the store to look for orphaned claims in.
    pub(super) orphan_bucket: usize,
    pub(super) out: Vec<Output>,
    pub(super) refused: BTreeMap<&'static str, u64>,
    pub(super) sealer: Sealer,
    pub(super) opener: Opener,
    pub(super) keys: Keys,
    suspects: BTreeSet<NodeName>,
    pub(super) measured: Measured,
    pub(super) names: Names,
    pub(super) said: Said,
    pub(super) bucket: Bucket,
    /// The latest time that was handed in, on the monotonic clock.
    pub(super) seen: u64,
    pub(super) gossip_at: Option<u64>,
    housekeeping_at: u64,
    collect_at: u64,
    pub(super) last_round: u64,
    pub(super) udp_sent: (u64, u64),
    pub(super) udp_received: (u64, u64),
}

impl Node {
    /// A node that knows nobody yet and holds nothing; `keys` as in [`crate::ControlConfig`].
    ///
    /// # Errors
    /// [`KeyError`] naming the key.
    pub fn new(config: NodeConfig, keys: &[String], now: Now) -> Result<Node, KeyError> {
        Node::with_records(config, Keys::new(keys)?, Vec::new(), now)
    }

    /// A node that holds `records`, what an earlier run left.
    pub(crate) fn with_records(
        config: NodeConfig,
        keys: Keys,
        records: Vec<Record>,
        now: Now,
    ) -> Result<Node, KeyError> {
        let me = Identity { name: config.name.clone(), addr: config.addr, epoch: config.boot };
        let sender: SenderId = config.sender;
        let ring = keys.ring();
        let mut rng = StdRng::seed_from_u64(config.seed);
        let mut node = Node {
            writer: Arc::new(Writer { node: config.name.clone(), boot: config.boot }),
            clock: Clock::default(),
            store: Store::default(),
            spread: Spread::default(),
            membership: Membership::new(me, rng.random()),
            view: View::new(
                config.name.clone(),
                config.vip_cidrs.clone(),
                config.overlay.clone(),
                Hlc::from_millis(config.boot),
            ),
            exchanges: Exchanges::new(&config.seeds, now.mono),
            rng,
            started: now.mono,
            synced: false,
            gone: false,
            desired: HashMap::new(),
            unmet: BTreeMap::new(),
            own_subnets: OwnSubnets::default(),
            orphan_bucket: 0,
            out: Vec::new(),
            refused: BTreeMap::new(),
            sealer: Sealer::new(&ring, sender).ok_or(KeyError::None)?,
            opener: Opener::new(ring, config.name.as_str()),
            keys,
            suspects: BTreeSet::new(),
            measured: Measured::default(),
            names: Names::new(&sender),
            said: Said::default(),
            bucket: Bucket::default(),
            seen: now.mono,
            gossip_at: None,
            housekeeping_at: now.mono,
            collect_at: now.mono + COLLECT,
            last_round: 0,
            udp_sent: (0, 0),
            udp_received: (0, 0),
            config,
        };
        for record in records {
            node.absorb(record, now, false);
        }
        // Says also what this node is: its keys are new to it.
        node.settle(now);
        Ok(node)
    }

    /// Takes one input; the outputs are to be done in order.
    pub fn handle(&mut self, input: Input, now: Now) -> Vec<Output> {
        if self.gone {
            return Vec::new();
        }
        self.stalled(now);
        match input {
            Input::Tick => {}
            Input::Datagram(..) if self.names.silenced().is_some() => {}
            Input::Datagram(from, mut packet) => self.datagram(from, &mut packet, now),
            Input::Opened(id, rtt) => self.opened(id, rtt, now),
            Input::Accepted(id) => self.accepted(id, now),
            Input::Frame(id, bytes) => self.frame(id, &bytes, now),
            Input::Closed(id) => self.closed(id, now),
        }
        self.tick(now);
        self.settle(now);
        std::mem::take(&mut self.out)
    }

    /// When [`Input::Tick`] is due at the latest, on the monotonic clock.
    #[must_use]
    pub fn deadline(&self) -> u64 {
        let soonest = [Some(self.housekeeping_at), self.gossip_at, self.membership.deadline()];
        soonest.into_iter().flatten().min().unwrap_or(self.housekeeping_at)
    }

    /// The merged state.
    #[must_use]
    pub fn snapshot(&self) -> &Snapshot {
        self.view.snapshot()
    }

    /// Equal on two nodes exactly when they hold the same records.
    #[must_use]
    pub fn state_hash(&self) -> u64 {
        self.store.root()
    }

    /// Whether it synced with a peer, or there is none to sync with.
    #[must_use]
    pub fn joined(&self) -> bool {
        self.synced || self.exchanges.seeds_are_all(&self.config.name)
    }

    /// The services of which this node has endpoint records, or which it declares itself, also from earlier runs.
    #[must_use]
    pub fn own_services(&self) -> Vec<ServiceKey> {
        self.view.services_of(&self.config.name)
    }

    /// Every record, for the shell to keep.
    pub(crate) fn records(&self) -> impl Iterator<Item = &Record> {
        self.store.iter()
    }

    /// Counts.
    #[must_use]
    pub fn stats(&self) -> ControlStats {
        let peers = self.membership.peers();
        let (records, tombstones) = self.store.counts();
        let up = peers.names().filter(|name| peers.is_up(name)).count();
        let mut refused = self.refused.clone();
        for (reason, count) in [("membership", self.membership.errors()), ("clock", self.clock.clamped())] {
            if count > 0 {
                refused.insert(reason, count);
            }
        }
        ControlStats {
            members_up: up,
            members_down: peers.names().count() - up,
            records,
            tombstones,
            udp_sent: self.udp_sent,
            udp_received: self.udp_received,
            refused: refused.into_iter().collect(),
            syncs: self.exchanges.counts(),
            lag: self.lag(),
            in_sync: self.measured.in_sync.map(|at| self.seen.saturating_sub(at)),
            silenced: self.names.silenced().cloned(),
        }
    }

    pub(super) fn refuse(&mut self, reason: &'static str) {
        *self.refused.entry(reason).or_default() += 1;
    }

    /// Time that this node did not run through proves nothing: its timers wait as long again.
    fn stalled(&mut self, now: Now) {
        let late = now.mono.saturating_sub(self.deadline().max(self.seen));
        if late >= STALL {
            self.membership.stalled(late);
            for exchange in self.exchanges.running.values_mut() {
                exchange.deadline = exchange.deadline.saturating_add(late);
            }
        }
        self.seen = now.mono;
    }

    /// Runs what is due.
    fn tick(&mut self, now: Now) {
        if self.names.silenced().is_some() {
            if self.housekeeping_at <= now.mono {
                self.housekeeping_at = now.mono + HOUSEKEEPING;
                self.end_late_exchanges(now);
                self.look_at_names(now);
            }
            return;
        }
        self.membership.tick(now.mono);
        if self.gossip_at.is_some_and(|at| at <= now.mono) {
            self.gossip_at = None;
            self.round(now);
        }
        if self.housekeeping_at <= now.mono {
            self.housekeeping_at = now.mono + HOUSEKEEPING;
            self.end_late_exchanges(now);
            self.exchange_tick(now);
            self.claim_tick(now);
            self.subnet_tick(now);
            self.look_at_suspects();
            self.look_at_names(now);
        }
        if self.collect_at <= now.mono {
            self.collect_at = now.mono + COLLECT;
            self.collect_orphans(now);
            self.forget_strangers();
            self.look_at_clock();
            for record in self.store.collect(now.wall) {
                self.desired.remove(&record.id);
                self.view.changed(Some(&record), None);
                self.keys.note(&record.id, None);
            }
        }
    }

    /// Draws the consequences of an input: messages, liveness, the view, claims.
    pub(super) fn settle(&mut self, now: Now) {
        self.renew_keys(now);
        let effects = self.membership.take_effects();
        for (to, message) in effects.sends {
            self.send_membership(&to, &message, now);
        }
        if effects.rival.is_some() {
            let place = self.membership.me().addr;
            self.ask(place, now);
        }
        for node in effects.changed {
            if node == self.config.name && !self.membership.peers().is_up(&node) {
                self.reclaim(now);
            }
            self.view.node_changed(node);
        }
        for id in effects.up {
            self.meet(id);
        }
        self.start_exchanges(now);
        self.refresh(now);
        if self.gossip_at.is_none() && !self.spread.is_empty() {
            self.gossip_at =
                Some(self.last_round.max(now.mono.saturating_sub(gossip::PERIOD)) + gossip::PERIOD);
        }
    }

    /// Brings the view up to date and notes which services lack a claim.
    pub(super) fn refresh(&mut self, now: Now) {
        let me = self.membership.me().clone();
        let liveness = Liveness { me: &me, peers: self.membership.peers(), suspects: &self.suspects };
        for service in self.view.refresh(&self.store, &liveness) {
            self.look_at_claims(&service, now);
        }
    }

    fn look_at_suspects(&mut self) {
        let suspects = self.membership.suspects();
        if *suspects == self.suspects {
            return;
        }
        for node in suspects.symmetric_difference(&self.suspects) {
            self.view.node_changed(node.clone());
        }
        self.suspects.clone_from(suspects);
    }
}
