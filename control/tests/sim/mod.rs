//! A seeded network of whole nodes on a virtual clock: loss, duplication, reordering, cuts, crashes, stalls.
//!
//! ```text
//! stories (what happens) ──▶ Sim: nodes, disks, clocks ◀──▶ network (what arrives, and when)
//!                                 └──▶ checks (what must hold in every view, after every step)
//! ```
#![allow(dead_code, reason = "each test binary uses its part")]

mod checks;
pub(crate) mod figures;
pub(crate) mod large;
mod network;
pub(crate) mod parts;
pub(crate) mod scale;
pub(crate) mod story;
mod wheel;

use checks::Watch;
use mesh_control::{
    LocalChange, Now, OverlayNetwork,
    model::{Name, NodeInfo, ServiceKey, Snapshot},
    node::{Input, Node, NodeConfig, Output},
};
use network::{Event, Network};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use std::{
    collections::{BTreeMap, VecDeque},
    net::{IpAddr, SocketAddr},
};

pub(crate) use network::Weather;

/// Unix milliseconds at which every simulation begins.
const EPOCH: u64 = 1_790_000_000_000;
/// Anti-entropy interval of the nodes, in milliseconds.
pub(crate) const INTERVAL: u64 = 10_000;
/// The shell writes the state file this often, in milliseconds.
pub(crate) const KEEPING: u64 = 2_000;
/// Inputs that wait for a stalled node; further datagrams are lost, as a full socket buffer loses them.
const BACKLOG: usize = 512;

/// What sealing adds to a frame: length and tag.
const SEAL: u64 = 20;
/// First byte of a frame that holds records.
const RECORDS: u8 = 5;

struct Slot {
    node: Option<Node>,
    /// Counts the starts, so that nothing reaches a later run.
    run: u64,
    tick_at: u64,
    /// How far its wall clock is off, in milliseconds.
    skew: i64,
    /// The state file: its bytes and the state hash that they have.
    disk: Option<(u64, Vec<u8>)>,
    /// Handles nothing until then.
    stalled_until: u64,
    backlog: VecDeque<Input>,
    watch: Watch,
}

impl Slot {
    /// Whether it runs, and knows a key of `other`, which offers one after the other.
    fn opens(&self, other: &Slot) -> bool {
        let (Some(node), Some(other)) = (&self.node, &other.node) else { return false };
        node.knows_key(other.sealing_key())
            || other.keys().iter().any(|key| !key.removed && node.knows_key(key.id))
    }
}

/// The simulation.
pub(crate) struct Sim {
    /// Milliseconds since the beginning. May be moved on by hand.
    pub(crate) now: u64,
    pub(crate) rng: StdRng,
    /// What the network does to datagrams from now on.
    pub(crate) weather: Weather,
    /// Hash of everything that happened.
    pub(crate) trace: u64,
    /// VIPs that must not move any more.
    pub(crate) settled: BTreeMap<ServiceKey, IpAddr>,
    /// The configured key of nodes that start from now on.
    pub(crate) key: String,
    /// What nodes that start from now on claim subnets out of.
    pub(crate) overlay: Vec<OverlayNetwork>,
    /// Looks at every new view.
    pub(crate) inspect: fn(&Snapshot),
    /// Sent by all nodes: datagrams, their bytes, connections, bytes of their frames.
    pub(crate) traffic: [u64; 4],
    /// Of the bytes of frames, those of frames with records.
    pub(crate) record_bytes: u64,
    /// Whether nodes write state files.
    pub(crate) keeping: bool,
    /// How to run this again, for messages.
    pub(crate) replay: String,
    seed: u64,
    cidr: &'static str,
    slots: Vec<Slot>,
    network: Network,
}

pub(crate) fn address(i: usize) -> SocketAddr {
    let [high, low] = u16::try_from(i).expect("few nodes").to_be_bytes();
    SocketAddr::from(([10, 0, high, low], 7946))
}

/// The inverse of [`address`].
fn index(address: SocketAddr) -> usize {
    match address.ip() {
        IpAddr::V4(ip) => {
            let [_, _, high, low] = ip.octets();
            u16::from_be_bytes([high, low]).into()
        }
        IpAddr::V6(ip) => panic!("{ip} is no node's"),
    }
}

pub(crate) fn name(i: usize) -> Name {
    Name::new(&format!("n{i:03}")).expect("a good name")
}

impl Sim {
    pub(crate) fn new(seed: u64, nodes: usize, cidr: &'static str, weather: Weather) -> Sim {
        let mut rng = StdRng::seed_from_u64(seed);
        let slot = |_| Slot {
            node: None,
            run: 0,
            tick_at: u64::MAX,
            skew: rng.random_range(-weather.skew..=weather.skew),
            disk: None,
            stalled_until: 0,
            backlog: VecDeque::new(),
            watch: Watch::default(),
        };
        let slots = (0..nodes).map(slot).collect();
        Sim {
            now: 0,
            rng,
            weather,
            trace: 0xcbf2_9ce4_8422_2325,
            settled: BTreeMap::new(),
            // Any key will do, as long as it is the same in every run.
            key: "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=".into(),
            overlay: Vec::new(),
            inspect: |_| (),
            traffic: [0; 4],
            record_bytes: 0,
            keeping: true,
            replay: format!("seed {seed} of this test"),
            seed,
            cidr,
            slots,
            network: Network::new(nodes),
        }
    }

    fn clock(&self, i: usize) -> Now {
        Now { mono: self.now, wall: (EPOCH + self.now).saturating_add_signed(self.slots[i].skew) }
    }

    /// Starts node `i` with nothing kept. The first three nodes are everybody's seeds.
    pub(crate) fn start(&mut self, i: usize) {
        self.start_as(i, name(i), address(i));
    }

    /// Starts node `i`, reached at `address(i)`, with nothing kept, with this name, and telling others to dial
    /// `advertised`.
    pub(crate) fn start_as(&mut self, i: usize, name: Name, advertised: SocketAddr) {
        self.slots[i].disk = None;
        self.run_as(i, name, advertised);
    }

    /// Starts node `i` with the state file that it left, if there is one.
    pub(crate) fn restart(&mut self, i: usize) {
        self.run_as(i, name(i), address(i));
    }

    fn run_as(&mut self, i: usize, name: Name, addr: SocketAddr) {
        assert!(self.slots[i].node.is_none(), "n{i} runs already");
        let now = self.clock(i);
        let run = self.slots[i].run + 1;
        let mut sender = [0; 16];
        sender[..8].copy_from_slice(&(i as u64).to_be_bytes());
        sender[8..].copy_from_slice(&run.to_be_bytes());
        let config = NodeConfig {
            name,
            addr,
            info: NodeInfo { version: "sim".into(), ..NodeInfo::default() },
            boot: now.wall,
            seeds: (0..3.min(self.slots.len())).map(|s| address(s).to_string()).collect(),
            vip_cidrs: vec![self.cidr.parse().expect("a network")],
            overlay: self.overlay.clone(),
            dynamic_ports: "30000-30063".parse().expect("a range"),
            seed: self.rng.random(),
            sender,
        };
        let keys = std::slice::from_ref(&self.key);
        let slot = &mut self.slots[i];
        let node = match &slot.disk {
            Some((_, bytes)) => Node::restored(config, keys, bytes, now).expect("a good file"),
            None => Node::new(config, keys, now).expect("good keys"),
        };
        slot.node = Some(node);
        slot.run = run;
        slot.tick_at = u64::MAX;
        slot.stalled_until = 0;
        slot.watch = Watch::default();
        self.after(i, Vec::new());
        if self.keeping {
            self.network.at(self.now + KEEPING, Event::Keep(i, run));
        }
    }

    /// Kills node `i`, without a word. Its disk keeps what was written.
    pub(crate) fn crash(&mut self, i: usize) {
        let slot = &mut self.slots[i];
        slot.node = None;
        slot.tick_at = u64::MAX;
        slot.backlog.clear();
        self.network.hang_up_all(i, &self.slots);
    }

    /// Stops node `i` properly: it says good-bye and writes its state.
    pub(crate) fn leave(&mut self, i: usize) {
        self.act(i, Node::leave);
        self.keep(i);
        self.crash(i);
    }

    /// Node `i` handles nothing for `millis`; what arrives waits, as much of it as buffers hold.
    pub(crate) fn stall(&mut self, i: usize, millis: u64) {
        let until = self.now + millis;
        self.slots[i].stalled_until = until;
        self.network.at(until, Event::Wake(i, self.slots[i].run));
    }

    /// Splits the nodes; equal numbers hear each other.
    pub(crate) fn split(&mut self, sides: Vec<u8>) {
        self.network.sides = sides;
        self.network.cut_streams(&self.slots);
    }

    /// Lets nothing through from `from` to `to`; the way back stays open.
    pub(crate) fn cut_one_way(&mut self, from: usize, to: usize) {
        self.network.one_way.insert((from, to));
        self.network.cut_streams(&self.slots);
    }

    /// Lets everything through again.
    pub(crate) fn heal(&mut self) {
        self.network.sides.fill(0);
        self.network.one_way.clear();
    }

    /// Sets the wall clock of node `i` forward, or back.
    pub(crate) fn jump(&mut self, i: usize, millis: i64) {
        self.slots[i].skew += millis;
    }

    /// Sets how far the wall clock of node `i` is off.
    pub(crate) fn set_skew(&mut self, i: usize, millis: i64) {
        self.slots[i].skew = millis;
    }

    pub(crate) fn side(&self, i: usize) -> u8 {
        self.network.sides[i]
    }

    /// Takes from node `i`, which does not run, what it wrote.
    pub(crate) fn lose_disk(&mut self, i: usize) {
        self.slots[i].disk = None;
    }

    pub(crate) fn is_stalled(&self, i: usize) -> bool {
        self.slots[i].stalled_until > self.now
    }

    /// Counts the starts of node `i`.
    pub(crate) fn run_of(&self, i: usize) -> u64 {
        self.slots[i].run
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(crate) fn is_alive(&self, i: usize) -> bool {
        self.slots[i].node.is_some()
    }

    pub(crate) fn alive(&self) -> Vec<usize> {
        (0..self.slots.len()).filter(|i| self.is_alive(*i)).collect()
    }

    pub(crate) fn dead(&self) -> Vec<usize> {
        (0..self.slots.len()).filter(|i| !self.is_alive(*i)).collect()
    }

    pub(crate) fn node(&self, i: usize) -> &Node {
        self.slots[i].node.as_ref().expect("it runs")
    }

    pub(crate) fn view(&self, i: usize) -> &Snapshot {
        self.node(i).snapshot()
    }

    pub(crate) fn time(&self, i: usize) -> Now {
        self.clock(i)
    }

    pub(crate) fn submit(&mut self, i: usize, changes: Vec<LocalChange>) {
        self.act(i, |node, now| node.submit(changes, now).expect("good changes"));
    }

    /// Does anything with node `i`, if it runs, and carries what comes out.
    pub(crate) fn act(&mut self, i: usize, action: impl FnOnce(&mut Node, Now) -> Vec<Output>) {
        let now = self.clock(i);
        let Some(node) = &mut self.slots[i].node else { return };
        let outputs = action(node, now);
        self.after(i, outputs);
    }

    /// Runs until `until`.
    pub(crate) fn run(&mut self, until: u64) {
        if self.network.now < self.now {
            // Somebody moved the time on, as when all machines sleep: what was due meanwhile happens now.
            let late = self.network.wheel.take_all(std::mem::replace(&mut self.network.now, self.now));
            late.into_iter().for_each(|event| self.happen(event));
        }
        loop {
            while let Some(mut events) = self.network.wheel.take(self.now) {
                events.drain(..).for_each(|event| self.happen(event));
                self.network.wheel.give_back(events);
            }
            if self.now >= until {
                return;
            }
            self.now += 1;
            self.network.now = self.now;
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::To(i, run, input) if self.slots[i].run == run => {
                let slot = &mut self.slots[i];
                if slot.stalled_until > self.now {
                    let droppable = matches!(input, Input::Datagram(..));
                    if !droppable || slot.backlog.len() < BACKLOG {
                        slot.backlog.push_back(input);
                    }
                    return;
                }
                self.step(i, input);
            }
            Event::Tick(i) if self.slots[i].tick_at <= self.now => {
                self.slots[i].tick_at = u64::MAX;
                if self.slots[i].stalled_until <= self.now {
                    self.step(i, Input::Tick);
                }
            }
            Event::Wake(i, run) if self.slots[i].run == run && self.slots[i].stalled_until <= self.now => {
                while let Some(input) = self.slots[i].backlog.pop_front() {
                    self.step(i, input);
                }
                self.step(i, Input::Tick);
            }
            Event::Keep(i, run) if self.slots[i].run == run && self.is_alive(i) => {
                if self.slots[i].stalled_until <= self.now {
                    self.keep(i);
                }
                self.network.at(self.now + KEEPING, Event::Keep(i, run));
            }
            _ => {}
        }
    }

    /// Writes the state file of node `i`, if anything changed.
    fn keep(&mut self, i: usize) {
        let now = self.clock(i);
        let slot = &mut self.slots[i];
        let Some(node) = &slot.node else { return };
        let hash = node.state_hash();
        if slot.disk.as_ref().is_none_or(|(kept, _)| *kept != hash) {
            slot.disk = Some((hash, node.kept(now)));
        }
    }

    fn step(&mut self, i: usize, input: Input) {
        self.act(i, |node, now| node.handle(input, now));
    }

    fn after(&mut self, i: usize, outputs: Vec<Output>) {
        for output in outputs {
            self.note(i, &output);
            self.network.carry(i, output, &self.weather, &mut self.rng, &self.slots);
        }
        let slot = &mut self.slots[i];
        let Some(node) = &slot.node else { return };
        let deadline = node.deadline().max(self.now);
        if deadline < slot.tick_at {
            slot.tick_at = deadline;
            self.network.at(deadline, Event::Tick(i));
        }
        match slot.watch.look(node.snapshot(), &self.settled) {
            Ok(false) => {}
            Ok(true) => (self.inspect)(node.snapshot()),
            Err(problem) => panic!("{}: at n{i}: {problem}", self.failed()),
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
            1 => {
                self.traffic[0] += 1;
                self.traffic[1] += length as u64;
            }
            2 => self.traffic[2] += 1,
            3 => self.traffic[3] += length as u64 + SEAL,
            _ => {}
        }
        if matches!(output, Output::Frame(_, bytes) if bytes.first() == Some(&RECORDS)) {
            self.record_bytes += length as u64;
        }
        for part in [self.now, i as u64, kind, length as u64] {
            self.trace = (self.trace ^ part).wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// Where it failed, and how to see it again.
    pub(crate) fn failed(&self) -> String {
        format!("at {} ms of seed {}; to see it again: {}", self.now, self.seed, self.replay)
    }

    /// Runs until `good` on all nodes that live, at most `limit` milliseconds; how long it took.
    pub(crate) fn until(&mut self, limit: u64, what: &str, good: impl Fn(&Sim, usize) -> bool) -> u64 {
        let start = self.now;
        let mut waiting = self.alive();
        loop {
            // One that was seen to be good is looked at again in the end: most stay good.
            while waiting.last().is_some_and(|i| good(self, *i)) {
                waiting.pop();
            }
            if waiting.is_empty() {
                waiting = self.alive().into_iter().filter(|i| !good(self, *i)).collect();
                if waiting.is_empty() {
                    return self.now - start;
                }
            }
            assert!(self.now < start + limit, "{}: {what} takes longer than {limit} ms", self.failed());
            self.run(self.now + 5);
        }
    }
}
