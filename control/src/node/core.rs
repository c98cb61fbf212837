//! The node's state, its timers and the way of a record through it.

use super::{
    exchange::Exchanges,
    io::{Input, Output},
};
use crate::{
    api::ControlStats,
    gossip::{self, Spread},
    hlc::{Clock, Now},
    key::Key,
    keyring::{KeyError, Keyring},
    member::Identity,
    membership::Membership,
    model::{NodeInfo, NodeName, PortRange, ServiceKey, Snapshot},
    packet::{Opener, Sealer, SenderId},
    record::{Record, RecordId, Writer},
    store::{Merge, Store},
    view::{Liveness, View},
};
use ipnetwork::IpNetwork;
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::SocketAddr,
    sync::Arc,
};

/// Time between two looks at slow matters, in milliseconds.
const HOUSEKEEPING: u64 = 250;
/// Tombstones are collected this often.
const COLLECT: u64 = 60_000;
/// How long two nodes may have one name before it is an error: a restart at another address looks like that.
const NAMESAKES: u64 = 15_000;

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
    /// Where published ports without a number are claimed.
    pub dynamic_ports: PortRange,
    /// Seed of every random choice.
    pub seed: u64,
    /// A random number of this run, unlike every other run's: it keeps nonces apart.
    pub sender: [u8; 16],
}

/// Tags of datagram bodies; wire constants.
pub(super) const MEMBERSHIP: u8 = 0;
pub(super) const RECORDS: u8 = 1;
pub(super) const GOODBYE: u8 = 2;

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
    pub(super) out: Vec<Output>,
    pub(super) refused: BTreeMap<&'static str, u64>,
    sealer: Sealer,
    opener: Opener,
    suspects: BTreeSet<NodeName>,
    namesakes: BTreeMap<NodeName, (u64, bool)>,
    gossip_at: Option<u64>,
    housekeeping_at: u64,
    collect_at: u64,
    last_round: u64,
    udp_sent: (u64, u64),
    udp_received: (u64, u64),
}

impl Node {
    /// A node that knows nobody yet and holds nothing; `keys` as in [`crate::ControlConfig`].
    ///
    /// # Errors
    /// [`KeyError`] naming the key.
    pub fn new(config: NodeConfig, keys: &[String], now: Now) -> Result<Node, KeyError> {
        Node::with_records(config, Arc::new(Keyring::new(keys)?), Vec::new(), now)
    }

    /// A node that holds `records`, what an earlier run left.
    pub(crate) fn with_records(
        config: NodeConfig,
        ring: Arc<Keyring>,
        records: Vec<Record>,
        now: Now,
    ) -> Result<Node, KeyError> {
        let me = Identity { name: config.name.clone(), addr: config.addr, epoch: config.boot };
        let sender: SenderId = config.sender;
        let mut rng = StdRng::seed_from_u64(config.seed);
        let mut node = Node {
            writer: Arc::new(Writer { node: config.name.clone(), boot: config.boot }),
            clock: Clock::default(),
            store: Store::default(),
            spread: Spread::default(),
            membership: Membership::new(me, rng.random()),
            view: View::new(config.name.clone(), config.vip_cidrs.clone()),
            exchanges: Exchanges::new(&config.seeds, now.mono),
            rng,
            started: now.mono,
            synced: false,
            gone: false,
            desired: HashMap::new(),
            unmet: BTreeMap::new(),
            out: Vec::new(),
            refused: BTreeMap::new(),
            sealer: Sealer::new(&ring, sender).ok_or(KeyError::None)?,
            opener: Opener::new(ring, config.name.as_str()),
            suspects: BTreeSet::new(),
            namesakes: BTreeMap::new(),
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
        let info = node.config.info.clone();
        node.say_node(&info, now);
        node.settle(now);
        Ok(node)
    }

    /// Takes one input; the outputs are to be done in order.
    pub fn handle(&mut self, input: Input, now: Now) -> Vec<Output> {
        if self.gone {
            return Vec::new();
        }
        match input {
            Input::Tick => {}
            Input::Datagram(mut packet) => self.datagram(&mut packet, now),
            Input::Opened(id) => self.opened(id, now),
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
        }
    }

    /// Says good-bye to the mesh and falls silent; the outputs are the last ones.
    pub fn leave(&mut self, now: Now) -> Vec<Output> {
        if self.gone {
            return Vec::new();
        }
        let id = Key::Node(self.config.name.clone()).id();
        if let Some(record) = self.store.get(&id) {
            // The tombstone keeps what the node said, for the tables of the others.
            let value = Arc::clone(&record.value);
            self.write(id, true, value, now);
        }
        let bodies = self.spread.round(&self.store, gossip::FANOUT, self.membership.peers().alive().len());
        let goodbye = postcard::to_stdvec(self.membership.me()).unwrap_or_default();
        for peer in self.some_peers(64) {
            for body in &bodies {
                self.send(&peer, RECORDS, body);
            }
            self.send(&peer, GOODBYE, &goodbye);
        }
        self.membership.leave(now.mono);
        for (to, message) in self.membership.take_effects().sends {
            self.send(&to, MEMBERSHIP, &message);
        }
        self.gone = true;
        std::mem::take(&mut self.out)
    }

    pub(super) fn refuse(&mut self, reason: &'static str) {
        *self.refused.entry(reason).or_default() += 1;
    }

    fn datagram(&mut self, packet: &mut [u8], now: Now) {
        self.udp_received.0 += 1;
        self.udp_received.1 += packet.len() as u64;
        let body = match self.opener.open(packet) {
            Ok(body) => body.to_vec(),
            Err(reason) => return self.refuse(reason.as_str()),
        };
        match body.split_first() {
            Some((&MEMBERSHIP, message)) => self.membership.receive(message, now.mono),
            Some((&RECORDS, records)) => match Record::decode_all(records) {
                Ok(records) => records.into_iter().for_each(|record| {
                    self.absorb(record, now, true);
                }),
                Err(_) => self.refuse("bad record"),
            },
            Some((&GOODBYE, body)) => match postcard::from_bytes(body) {
                Ok(id) => self.membership.left(id, now.mono),
                Err(_) => self.refuse("malformed"),
            },
            // A later release's message.
            _ => self.refuse("unknown message"),
        }
    }

    /// Merges a peer's record; whether it was news. `spread` passes it on by datagram.
    pub(super) fn absorb(&mut self, record: Record, now: Now, spread: bool) -> bool {
        self.clock.observe(record.version, now.wall);
        let id = record.id.clone();
        match self.store.merge(record, now.wall) {
            Merge::Applied(old) => {
                let new = self.store.get(&id);
                self.view.changed(old.as_ref(), new);
                if spread {
                    self.spread.push(id.clone());
                }
                self.reassert(&id, now);
                true
            }
            Merge::Stale => false,
            Merge::Expired => {
                self.refuse("expired tombstone");
                false
            }
            Merge::Full => {
                self.refuse("store full");
                false
            }
        }
    }

    /// A record of this node's own came back from an earlier run: if this run's sources said otherwise, they stand.
    fn reassert(&mut self, id: &RecordId, now: Now) {
        let Some(record) = self.store.get(id) else { return };
        let writer = Arc::clone(&record.writer);
        if writer == self.writer
            || Key::of(id).and_then(|k| k.owner().cloned()).as_ref() != Some(&self.config.name)
        {
            return;
        }
        if writer.boot > self.writer.boot {
            if self.membership.peers().is_up(&self.config.name) {
                // Another node has this name and started later: fighting over records would never end.
                return;
            }
            // The clock was ahead when the earlier run began.
            let boot = writer.boot.saturating_add(1);
            self.writer = Arc::new(Writer { node: self.config.name.clone(), boot });
        }
        let Some(desired) = self.desired.get(id).cloned() else { return };
        let differs = desired.as_ref() != (!record.deleted).then_some(&record.value);
        if differs {
            self.write(id.clone(), desired.is_none(), desired.unwrap_or_default(), now);
        }
    }

    /// Writes a record, newer than the one it replaces, and spreads it promptly.
    pub(super) fn write(&mut self, id: RecordId, deleted: bool, value: Arc<[u8]>, now: Now) {
        let after = self.store.get(&id).map(|r| r.version).unwrap_or_default();
        let version = self.clock.tick(now.wall, after);
        let record = Record::new(id.clone(), version, Arc::clone(&self.writer), deleted, value);
        match self.store.merge(record, now.wall) {
            Merge::Applied(old) => {
                let new = self.store.get(&id);
                self.view.changed(old.as_ref(), new);
                self.spread.push(id);
                let prompt = (self.last_round + 2 * gossip::PROMPT).max(now.mono + gossip::PROMPT);
                self.gossip_at = Some(self.gossip_at.map_or(prompt, |at| at.min(prompt)));
            }
            Merge::Full => self.refuse("store full"),
            Merge::Stale | Merge::Expired => self.refuse("write lost"),
        }
    }

    /// Runs what is due.
    fn tick(&mut self, now: Now) {
        self.membership.tick(now.mono);
        if self.gossip_at.is_some_and(|at| at <= now.mono) {
            self.gossip_at = None;
            self.round(now);
        }
        if self.housekeeping_at <= now.mono {
            self.housekeeping_at = now.mono + HOUSEKEEPING;
            self.exchange_tick(now);
            self.claim_tick(now);
            self.look_at_names(now);
        }
        if self.collect_at <= now.mono {
            self.collect_at = now.mono + COLLECT;
            self.collect_orphans(now);
            for record in self.store.collect(now.wall) {
                self.desired.remove(&record.id);
                self.view.changed(Some(&record), None);
            }
        }
    }

    fn round(&mut self, now: Now) {
        self.last_round = now.mono;
        let nodes = self.membership.peers().alive().len() + 1;
        let peers = self.some_peers(gossip::FANOUT);
        if peers.is_empty() {
            // Whoever comes up gets everything by anti-entropy.
            self.spread = Spread::default();
            return;
        }
        for body in self.spread.round(&self.store, peers.len(), nodes) {
            for peer in &peers {
                self.send(peer, RECORDS, &body);
            }
        }
    }

    /// Up to `count` distinct members that are up, at random.
    pub(super) fn some_peers(&mut self, count: usize) -> Vec<Identity> {
        let alive = self.membership.peers().alive();
        alive.sample(&mut self.rng, count).cloned().collect()
    }

    fn send(&mut self, to: &Identity, tag: u8, body: &[u8]) {
        let mut plain = Vec::with_capacity(1 + body.len());
        plain.push(tag);
        plain.extend_from_slice(body);
        let Some(packet) = self.sealer.seal(to.name.as_str(), &plain) else {
            return self.refuse("cannot seal");
        };
        self.udp_sent.0 += 1;
        self.udp_sent.1 += packet.len() as u64;
        self.out.push(Output::Datagram(to.addr, packet));
    }

    /// Draws the consequences of an input: messages, liveness, the view, claims.
    pub(super) fn settle(&mut self, now: Now) {
        let effects = self.membership.take_effects();
        for (to, message) in effects.sends {
            self.send(&to, MEMBERSHIP, &message);
        }
        for node in effects.changed {
            self.view.node_changed(node);
        }
        for id in effects.up {
            self.meet(id, now);
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

    fn look_at_names(&mut self, now: Now) {
        let suspects = self.membership.suspects();
        for node in suspects.symmetric_difference(&self.suspects) {
            self.view.node_changed(node.clone());
        }
        self.suspects = suspects;
        let me = self.membership.me().clone();
        let peers = self.membership.peers();
        let doubled: Vec<(NodeName, String)> = peers
            .names()
            .filter_map(|name| {
                let mut runs = peers.namesakes(name);
                if *name == me.name {
                    runs.push(&me);
                }
                let addresses: Vec<String> = runs.iter().map(|id| id.addr.to_string()).collect();
                (runs.len() > 1).then(|| (name.clone(), addresses.join(" and ")))
            })
            .collect();
        self.namesakes.retain(|name, _| doubled.iter().any(|(n, _)| n == name));
        for (name, addresses) in doubled {
            let (since, told) = self.namesakes.entry(name.clone()).or_insert((now.mono, false));
            if !*told && now.mono - *since >= NAMESAKES {
                *told = true;
                tracing::error!(node = %name, %addresses, "two nodes have one name: rename one and restart it");
            }
        }
    }
}
