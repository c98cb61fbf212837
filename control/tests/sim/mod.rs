//! A seeded network of nodes on a virtual clock: loss, duplication, reordering, partitions, crashes.
#![allow(dead_code, reason = "each test binary uses its part")]

use mesh_control::{
    LocalChange, Now, OverlayNetwork,
    model::{Name, NodeInfo, ServiceKey, Snapshot},
    node::{ExchangeId, Input, Node, NodeConfig, Output, Target},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap},
    net::{IpAddr, SocketAddr},
};

/// Unix milliseconds at which every simulation begins.
const EPOCH: u64 = 1_790_000_000_000;
/// Latency of TCP, in milliseconds; frames of one connection keep their order.
const TCP: u64 = 2;

/// What the network does to datagrams.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Weather {
    /// Share of datagrams lost.
    pub(crate) loss: f64,
    /// Share delivered twice.
    pub(crate) duplicates: f64,
    /// Longest delay in milliseconds; differing delays reorder.
    pub(crate) delay: u64,
    /// How far wall clocks are off at most, either way, in milliseconds.
    pub(crate) skew: i64,
}

enum Event {
    To(usize, u64, Input),
    Tick(usize),
}

struct Slot {
    node: Option<Node>,
    /// Counts the starts, so that nothing reaches a later run.
    run: u64,
    tick_at: u64,
    /// How far its wall clock is off, in milliseconds.
    skew: i64,
    seen: u64,
}

/// The simulation.
pub(crate) struct Sim {
    /// Milliseconds since the beginning.
    pub(crate) now: u64,
    pub(crate) rng: StdRng,
    pub(crate) weather: Weather,
    /// Hash of everything that happened.
    pub(crate) trace: u64,
    /// VIPs that must not move any more.
    pub(crate) settled: BTreeMap<ServiceKey, IpAddr>,
    /// What nodes that start from now on claim subnets out of.
    pub(crate) overlay: Vec<OverlayNetwork>,
    /// Looks at every new view.
    pub(crate) inspect: fn(&Snapshot),
    /// Sent by all nodes: datagrams, their bytes, connections, bytes of their frames.
    pub(crate) traffic: [u64; 4],
    seed: u64,
    /// The configured key of nodes that start from now on.
    pub(crate) key: String,
    cidr: &'static str,
    slots: Vec<Slot>,
    /// Which side of a partition each node is on.
    sides: Vec<u8>,
    /// (from, to) that is cut in this direction only.
    one_way: BTreeSet<(usize, usize)>,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    events: HashMap<u64, Event>,
    sequence: u64,
    /// Nodes that do not run until then.
    stalled: BTreeMap<usize, u64>,
    streams: HashMap<(usize, ExchangeId), (usize, ExchangeId)>,
    accepted: u64,
}

pub(crate) fn address(i: usize) -> SocketAddr {
    let i = u16::try_from(i).expect("few nodes");
    let [high, low] = i.to_be_bytes();
    SocketAddr::from(([10, 0, high, low], 7946))
}

pub(crate) fn name(i: usize) -> Name {
    Name::new(&format!("n{i:03}")).expect("a good name")
}

impl Sim {
    pub(crate) fn new(seed: u64, nodes: usize, cidr: &'static str, weather: Weather) -> Sim {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut slot = |_| Slot {
            node: None,
            run: 0,
            tick_at: u64::MAX,
            skew: rng.random_range(-weather.skew..=weather.skew),
            seen: 0,
        };
        let slots = (0..nodes).map(&mut slot).collect();
        Sim {
            now: 0,
            rng,
            weather,
            trace: 0xcbf2_9ce4_8422_2325,
            settled: BTreeMap::new(),
            overlay: Vec::new(),
            inspect: |_| (),
            traffic: [0; 4],
            seed,
            // Any key will do, as long as it is the same in every run.
            key: "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=".into(),
            cidr,
            slots,
            sides: vec![0; nodes],
            one_way: BTreeSet::new(),
            queue: BinaryHeap::new(),
            events: HashMap::new(),
            sequence: 0,
            stalled: BTreeMap::new(),
            streams: HashMap::new(),
            accepted: ExchangeId::ACCEPTED,
        }
    }

    fn clock(&self, i: usize) -> Now {
        Now { mono: self.now, wall: (EPOCH + self.now).saturating_add_signed(self.slots[i].skew) }
    }

    /// Starts node `i` with nothing kept. The first three nodes are everybody's seeds.
    pub(crate) fn start(&mut self, i: usize) {
        self.start_as(i, name(i), address(i));
    }

    /// Starts node `i`, reached at `address(i)`, with this name, and telling others to dial `advertised`.
    pub(crate) fn start_as(&mut self, i: usize, name: Name, advertised: SocketAddr) {
        let now = self.clock(i);
        let run = self.slots[i].run + 1;
        let mut sender = [0; 16];
        sender[..8].copy_from_slice(&(i as u64).to_be_bytes());
        sender[8..].copy_from_slice(&run.to_be_bytes());
        let config = NodeConfig {
            name,
            addr: advertised,
            info: NodeInfo { version: "sim".into(), ..NodeInfo::default() },
            boot: now.wall,
            seeds: (0..3.min(self.slots.len())).map(|s| s.to_string()).collect(),
            vip_cidrs: vec![self.cidr.parse().expect("a network")],
            overlay: self.overlay.clone(),
            dynamic_ports: "30000-30063".parse().expect("a range"),
            seed: self.rng.random(),
            sender,
        };
        let node = Node::new(config, std::slice::from_ref(&self.key), now).expect("a good key");
        self.slots[i] = Slot { node: Some(node), run, tick_at: u64::MAX, seen: 0, skew: self.slots[i].skew };
        self.after(i, Vec::new());
    }

    /// Kills node `i`, without a word.
    pub(crate) fn crash(&mut self, i: usize) {
        self.slots[i].node = None;
        self.slots[i].tick_at = u64::MAX;
        let ends: Vec<_> = self.streams.keys().filter(|(node, _)| *node == i).copied().collect();
        for end in ends {
            self.hang_up(end);
        }
    }

    /// Node `i` does not run for so long; what is sent to it waits.
    pub(crate) fn stall(&mut self, i: usize, millis: u64) {
        self.stalled.insert(i, self.now + millis);
    }

    /// Splits the nodes; equal numbers hear each other.
    pub(crate) fn split(&mut self, sides: Vec<u8>) {
        self.sides = sides;
        self.cut_streams();
    }

    /// Lets nothing through from `from` to `to`; the way back stays open.
    pub(crate) fn cut_one_way(&mut self, from: usize, to: usize) {
        self.one_way.insert((from, to));
        self.cut_streams();
    }

    /// Sets the wall clock of node `i` forward, or back.
    pub(crate) fn jump(&mut self, i: usize, millis: i64) {
        self.slots[i].skew += millis;
    }

    fn cut_streams(&mut self) {
        let cut: Vec<_> = self
            .streams
            .iter()
            .filter(|(a, b)| self.cut(a.0, b.0) || self.cut(b.0, a.0))
            .map(|(a, _)| *a)
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect();
        for end in cut {
            self.hang_up(end);
        }
    }

    pub(crate) fn heal(&mut self) {
        self.sides.fill(0);
        self.one_way.clear();
    }

    pub(crate) fn side(&self, i: usize) -> u8 {
        self.sides[i]
    }

    fn cut(&self, a: usize, b: usize) -> bool {
        self.sides[a] != self.sides[b] || self.one_way.contains(&(a, b))
    }

    /// Ends a connection; both sides learn of it.
    fn hang_up(&mut self, end: (usize, ExchangeId)) {
        let Some(other) = self.streams.remove(&end) else { return };
        self.streams.remove(&other);
        for (i, id) in [end, other] {
            self.later(TCP, i, Input::Closed(id));
        }
    }

    pub(crate) fn alive(&self) -> Vec<usize> {
        (0..self.slots.len()).filter(|i| self.slots[*i].node.is_some()).collect()
    }

    pub(crate) fn node(&self, i: usize) -> &Node {
        self.slots[i].node.as_ref().expect("it runs")
    }

    pub(crate) fn submit(&mut self, i: usize, changes: Vec<LocalChange>) {
        let now = self.clock(i);
        let Some(node) = &mut self.slots[i].node else { return };
        let outputs = node.submit(changes, now).expect("good changes");
        self.after(i, outputs);
    }

    fn push(&mut self, at: u64, event: Event) {
        self.sequence += 1;
        self.events.insert(self.sequence, event);
        self.queue.push(Reverse((at, self.sequence)));
    }

    fn later(&mut self, delay: u64, i: usize, input: Input) {
        self.push(self.now + delay, Event::To(i, self.slots[i].run, input));
    }

    /// Runs until `until`.
    pub(crate) fn run(&mut self, until: u64) {
        while let Some(Reverse((at, sequence))) = self.queue.peek().copied()
            && at <= until
        {
            self.queue.pop();
            self.now = at.max(self.now);
            let event = self.events.remove(&sequence);
            let Some(Event::To(i, ..) | Event::Tick(i)) = event else { continue };
            if let Some(end) = self.stalled.get(&i).copied()
                && at < end
            {
                if let (Some(Event::Tick(_)), slot) = (&event, &mut self.slots[i]) {
                    slot.tick_at = end;
                }
                event.into_iter().for_each(|event| self.push(end, event));
                continue;
            }
            match event {
                Some(Event::To(i, run, input)) if self.slots[i].run == run => self.step(i, input),
                Some(Event::Tick(i)) if self.slots[i].tick_at == at => {
                    self.slots[i].tick_at = u64::MAX;
                    self.step(i, Input::Tick);
                }
                _ => {}
            }
        }
        self.now = until;
    }

    fn step(&mut self, i: usize, input: Input) {
        let now = self.clock(i);
        let Some(node) = &mut self.slots[i].node else { return };
        let outputs = node.handle(input, now);
        self.after(i, outputs);
    }

    fn after(&mut self, i: usize, outputs: Vec<Output>) {
        for output in outputs {
            self.note(i, &output);
            self.carry(i, output);
        }
        let deadline = self.node(i).deadline().max(self.now);
        if deadline < self.slots[i].tick_at {
            self.slots[i].tick_at = deadline;
            self.push(deadline, Event::Tick(i));
        }
        let revision = self.node(i).snapshot().revision;
        if revision != self.slots[i].seen {
            self.slots[i].seen = revision;
            self.check_view(i);
        }
    }

    fn note(&mut self, i: usize, output: &Output) {
        let (kind, length) = match output {
            Output::Datagram(_, bytes) => (1, bytes.len()),
            Output::Open(..) => (2, 0),
            Output::Frame(_, bytes) => (3, bytes.len()),
            Output::Close(_) => (4, 0),
        };
        match kind {
            1 => (self.traffic[0], self.traffic[1]) = (self.traffic[0] + 1, self.traffic[1] + length as u64),
            2 => self.traffic[2] += 1,
            3 => self.traffic[3] += length as u64 + 20,
            _ => {}
        }
        for part in [self.now, i as u64, kind, length as u64] {
            self.trace = (self.trace ^ part).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn carry(&mut self, i: usize, output: Output) {
        match output {
            Output::Datagram(to, bytes) => {
                let Some(to) = (0..self.slots.len()).find(|j| address(*j) == to) else { return };
                let copies = 1 + u32::from(self.rng.random_bool(self.weather.duplicates));
                for _ in 0..copies {
                    if !self.cut(i, to) && !self.rng.random_bool(self.weather.loss) {
                        let delay = self.rng.random_range(0..=self.weather.delay);
                        self.later(delay, to, Input::Datagram(address(i), bytes.clone()));
                    }
                }
            }
            Output::Open(id, target) => {
                let to = match target {
                    Target::Seed(seed) => seed.parse().expect("seeds are numbers here"),
                    Target::Address(to) => (0..self.slots.len()).find(|j| address(*j) == to).expect("known"),
                };
                let key = self.node(i).sealing_key();
                if self.cut(i, to) || self.cut(to, i) {
                    // Nobody says no: the connection hangs.
                    self.later(3_000, i, Input::Closed(id));
                } else if self.slots[to].node.as_ref().is_none_or(|node| !node.knows_key(key)) {
                    // Nobody is there, or it hangs up on a key that it does not know.
                    self.later(TCP, i, Input::Closed(id));
                } else {
                    self.accepted += 1;
                    let theirs = ExchangeId(self.accepted);
                    self.streams.insert((i, id), (to, theirs));
                    self.streams.insert((to, theirs), (i, id));
                    self.later(TCP, to, Input::Accepted(theirs));
                    self.later(2 * TCP, i, Input::Opened(id, 1_000 * 2 * u32::try_from(TCP).expect("short")));
                }
            }
            Output::Frame(id, bytes) => {
                if let Some((to, theirs)) = self.streams.get(&(i, id)).copied() {
                    self.later(TCP, to, Input::Frame(theirs, bytes));
                }
            }
            Output::Close(id) => {
                if let Some((to, theirs)) = self.streams.remove(&(i, id)) {
                    self.streams.remove(&(to, theirs));
                    self.later(TCP, to, Input::Closed(theirs));
                }
            }
        }
    }

    /// What must hold in every view at all times.
    fn check_view(&self, i: usize) {
        let snapshot = self.node(i).snapshot();
        (self.inspect)(snapshot);
        let mut held: HashMap<IpAddr, &ServiceKey> = HashMap::new();
        let mut ports = BTreeMap::new();
        for (key, service) in &snapshot.services {
            for vip in service.vips.iter() {
                let other = held.insert(vip, key);
                assert!(other.is_none(), "{}: {vip} of {key} and {other:?} at n{i}", self.failed());
                if let Some(settled) = self.settled.get(key) {
                    assert_eq!(vip, *settled, "{}: the VIP of {key} moved at n{i}", self.failed());
                }
            }
            let programmed = service.published.iter().filter(|p| p.conflict.is_none());
            for (published, port) in programmed.filter_map(|p| p.port.map(|port| (p, port))) {
                let other = ports.insert((published.protocol, port.first()), key);
                assert!(other.is_none(), "{}: port {port} of {key} and {other:?}", self.failed());
            }
        }
    }

    /// How to see it again.
    pub(crate) fn failed(&self) -> String {
        format!(
            "at {} ms of seed {} (`simulation` replays one seed with SIM_SEED; the others run few)",
            self.now, self.seed
        )
    }

    /// Checks that all nodes that run hold the same state and see the same services; returns one view.
    pub(crate) fn check_equal(&self) -> &Snapshot {
        let alive = self.alive();
        let first = self.node(alive[0]);
        for i in &alive {
            let node = self.node(*i);
            let states: Vec<_> = node.snapshot().nodes.values().map(|n| (n.name.clone(), n.state)).collect();
            assert_eq!(
                node.state_hash(),
                first.state_hash(),
                "{}: n{i} and n{} differ; {:?} sees {states:?}",
                self.failed(),
                alive[0],
                node.stats()
            );
            assert_eq!(node.snapshot().services, first.snapshot().services, "{}: n{i}", self.failed());
        }
        first.snapshot()
    }
}
