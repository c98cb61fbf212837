//! A random story: a mesh settles, suffers every kind of trouble while people work on it, heals, and is compared with
//! what was acknowledged.

use super::{
    INTERVAL, KEEPING, Sim, Weather,
    figures::{Figure, figure, median_and_worst},
    name,
    parts::{announce, delete, service, spec},
};
use mesh_control::{
    ClusterKey, KeyChange, LocalChange, OverlayNetwork,
    model::{KeyId, Origin, ServiceKey},
    node::Node,
};
use rand::{RngExt, seq::IndexedRandom};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

const HOUR: i64 = 3_600_000;
/// Services that all nodes know before the troubles.
const BASE: usize = 12;

/// Which troubles a story is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// All of them.
    Mixed,
    /// Full partitions and one-way cuts.
    Split,
    /// Loss of 20 %, duplicates, long delays, stalls.
    Storm,
    /// Crashes with and without disk, leaves, restarts, deletes and recreations.
    Churn,
    /// Wall clocks that are an hour off, and jump.
    Clocks,
}

/// All kinds, by the names that people type.
pub(crate) const KINDS: [(&str, Kind); 5] = [
    ("mixed", Kind::Mixed),
    ("split", Kind::Split),
    ("storm", Kind::Storm),
    ("churn", Kind::Churn),
    ("clocks", Kind::Clocks),
];

/// One kind of trouble, or of work.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Split,
    OneWay,
    Mend,
    CrashKeepingDisk,
    CrashLosingDisk,
    Leave,
    Restart,
    Stall,
    Jump,
    Declare,
    Edit,
    Delete,
    Recreate,
    Announce,
    AddKey,
    UseKey,
    RemoveKey,
}

impl Kind {
    fn steps(self) -> Vec<Step> {
        use Step::{
            AddKey, Announce, CrashKeepingDisk, CrashLosingDisk, Declare, Delete, Edit, Jump, Leave, Mend,
            OneWay, Recreate, RemoveKey, Restart, Split, Stall, UseKey,
        };
        let mut steps = vec![Declare, Edit, Edit, Delete, Recreate, Announce, Announce];
        let splits = [Split, OneWay, Mend];
        let churn = [CrashKeepingDisk, CrashLosingDisk, Leave, Restart, Restart];
        match self {
            Kind::Mixed => {
                steps.extend(splits);
                steps.extend(churn);
                steps.extend([Stall, Jump, AddKey, UseKey, RemoveKey]);
            }
            Kind::Split => steps.extend(splits),
            Kind::Storm => steps.extend([Stall, Stall]),
            Kind::Churn => steps.extend(churn),
            Kind::Clocks => steps.extend([Jump, Jump, CrashKeepingDisk, Restart]),
        }
        steps
    }

    fn weather(self, seed: u64) -> Weather {
        let pick = |n: u64| usize::try_from(seed / 2 % n).expect("small");
        let loss = if self == Kind::Storm { 0.2 } else { [0.0, 0.05, 0.1, 0.2][pick(4)] };
        let delay = if self == Kind::Storm { 200 } else { 20 };
        let skew = match self {
            Kind::Mixed => [3_000, HOUR][pick(8) / 4],
            Kind::Clocks => HOUR,
            _ => 3_000,
        };
        Weather { loss, duplicates: 0.05, delay, skew }
    }
}

/// What was acknowledged of one key.
struct Fact {
    origin: Origin,
    /// Shown as the spec's TTL; absent for deleted.
    revision: Option<u32>,
    /// Who said so, in which of its runs, when.
    by: usize,
    run: u64,
    at: u64,
    /// Only the disk of its author has it, and that does not run.
    asleep: bool,
}

/// How a node goes, and so what comes back with it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// All that it held was written.
    Leave,
    /// What it held [`KEEPING`] ago was written.
    Crash,
    /// Nothing is left.
    CrashWithDisk,
}

struct Story {
    sim: Sim,
    kind: Kind,
    facts: BTreeMap<ServiceKey, Fact>,
    /// What nodes announced last: (weight, when).
    announced: BTreeMap<(usize, ServiceKey), (u16, u64)>,
    /// Nodes that lost their disk in the troubles: what they do not show they may never have known.
    forgetful: BTreeSet<usize>,
    revision: u32,
    next: usize,
    figures: Vec<Figure>,
}

/// A story's end, and what was measured in it.
pub(crate) struct Told {
    pub(crate) sim: Sim,
    pub(crate) figures: Vec<Figure>,
}

/// Sizes of the meshes of consecutive seeds.
pub(crate) fn size(seed: u64) -> usize {
    [3, 5, 3, 8, 4, 12, 3, 20, 6, 50][usize::try_from(seed % 10).expect("small")]
}

/// Tells the story of one seed. Panics at what does not hold.
pub(crate) fn tell(seed: u64, nodes: usize, kind: Kind) -> Told {
    let mut sim = Sim::new(seed, nodes, "10.96.0.0/25", kind.weather(seed));
    let network = "10.244.0.0/17".parse().expect("a network");
    sim.overlay = vec![OverlayNetwork { network, node_prefix: 24 }];
    let (scenario, _) = KINDS[kind as usize];
    sim.replay = format!(
        "cargo run --release -p mesh-control --example sim -- --scenario {scenario} --nodes {nodes} --seed {seed}"
    );
    let mut story = Story {
        sim,
        kind,
        facts: BTreeMap::new(),
        announced: BTreeMap::new(),
        forgetful: BTreeSet::new(),
        revision: 0,
        next: 0,
        figures: Vec::new(),
    };
    story.begin();
    story.troubles();
    story.end();
    Told { sim: story.sim, figures: story.figures }
}

impl Story {
    /// All start and declare; then everything is settled.
    fn begin(&mut self) {
        let nodes = self.sim.len();
        for i in 0..nodes {
            self.sim.start(i);
            let wait = self.sim.rng.random_range(0..=300.min(30_000 / nodes as u64));
            self.sim.run(self.sim.now + wait);
        }
        while self.next < BASE {
            let i = self.sim.rng.random_range(0..nodes);
            self.declare(i);
            self.pause(500);
        }
        self.sim.run(self.sim.now + 2 * INTERVAL);
        let idle = self.sim.idle_bytes(INTERVAL / 1_000);
        self.figures.push(figure("at rest, bytes sent", idle, "B/node/s", None));
        self.sim.check_claims("after the start");
        assert_eq!(self.sim.check_equal().services.len(), BASE, "{}", self.sim.failed());
        self.sim.settle();
    }

    fn pause(&mut self, most: u64) {
        let wait = self.sim.rng.random_range(0..most);
        self.sim.run(self.sim.now + wait);
    }

    fn troubles(&mut self) {
        let steps = self.kind.steps();
        for _ in 0..self.sim.rng.random_range(20..50) {
            let step = *steps.choose(&mut self.sim.rng).expect("some");
            self.step(step);
            let most = *[100, 1_000, 6_000].choose(&mut self.sim.rng).expect("some");
            self.pause(most);
        }
        // Whoever is dead by now is seen to be dead by all that can see it, also across a partition.
        self.sim.run(self.sim.now + if self.sim.len() > 64 { 45_000 } else { 15_000 });
        if !matches!(self.kind, Kind::Storm) {
            self.sim.check_no_ghosts("after the troubles");
        }
    }

    fn end(&mut self) {
        self.sim.heal();
        let until = self.sim.now + 3 * INTERVAL;
        let took = self.sim.time_until_equal(3 * INTERVAL, 100) as f64 / 1_000.0;
        self.figures.push(figure("heal to equal views", took, "s", Some(30.0)));
        self.sim.run(until);
        self.compare("after the heal");
        self.sim.check_no_ghosts("after the heal");
        self.sim.settle();
        for i in self.sim.dead() {
            self.restart(i);
        }
        self.sim.run(self.sim.now + INTERVAL);
        self.compare("after the return");
        let hidden: usize = self.sim.check_equal().services.values().map(|s| s.hidden_endpoints).sum();
        assert_eq!(hidden, 0, "{}: all are back", self.sim.failed());
        let (median, worst) = median_and_worst(self.sim.time_update(0, 1_000));
        self.figures.push(figure("one update, median node", median, "s", None));
        self.figures.push(figure("one update, last node", worst, "s", None));
    }

    /// Compares all views with what was acknowledged.
    fn compare(&self, when: &str) {
        let sim = &self.sim;
        sim.check_claims(when);
        let view = sim.check_equal();
        for i in sim.alive() {
            let (own, first) = (sim.node(i).sealing_key(), sim.node(sim.alive()[0]).sealing_key());
            assert_eq!(own, first, "{}: {when}: n{i} seals with another key", sim.failed());
        }
        for (key, fact) in self.facts.iter().filter(|(_, fact)| !fact.asleep) {
            let shown = view.services.get(key).and_then(|s| s.spec.ttl);
            assert_eq!(
                shown,
                fact.revision,
                "{}: {when}: {key}, as n{} said at {} ms",
                sim.failed(),
                fact.by,
                fact.at
            );
        }
        let known = |i: usize, key: &ServiceKey| view.services.get(key).is_some_and(|_| sim.is_alive(i));
        for ((i, key), (weight, at)) in self.announced.iter().filter(|((i, key), _)| known(*i, key)) {
            assert_eq!(
                shown(sim, sim.alive()[0], *i, key),
                Some(*weight),
                "{}: {when}: the endpoint of n{i} in {key}, announced at {at} ms",
                sim.failed()
            );
        }
    }

    fn step(&mut self, step: Step) {
        let alive = self.sim.alive();
        let any = *alive.choose(&mut self.sim.rng).expect("some live");
        // At least two live: what only the dead know is another story.
        let victim = (alive.len() > 2 && !self.sim.is_stalled(any)).then_some(any);
        match step {
            Step::Split => {
                let sides = (0..self.sim.len()).map(|_| self.sim.rng.random_range(0..2)).collect();
                self.sim.split(sides);
            }
            Step::OneWay => {
                for _ in 0..self.sim.len() {
                    let (a, b) = (any, *alive.choose(&mut self.sim.rng).expect("some"));
                    if a != b {
                        self.sim.cut_one_way(a, b);
                    }
                }
            }
            Step::Mend => self.sim.heal(),
            Step::CrashKeepingDisk => self.lose(victim, End::Crash),
            Step::CrashLosingDisk => self.lose(victim, End::CrashWithDisk),
            Step::Leave => self.lose(victim, End::Leave),
            Step::Restart => {
                if let Some(i) = self.sim.dead().choose(&mut self.sim.rng) {
                    self.restart(*i);
                }
            }
            Step::Stall => {
                let millis = self.sim.rng.random_range(100..8_000);
                self.sim.stall(any, millis);
            }
            Step::Jump => {
                let skew = *[-HOUR, HOUR, 0, -60_000, 60_000].choose(&mut self.sim.rng).expect("some");
                self.sim.set_skew(any, skew);
            }
            Step::AddKey | Step::UseKey | Step::RemoveKey if self.may_work(any) => self.rotate(step, any),
            Step::Declare if self.may_work(any) => self.declare(any),
            Step::Edit | Step::Delete | Step::Recreate if self.may_work(any) => self.work(step, any),
            Step::Announce if self.may_work(any) => {
                let keys: Vec<ServiceKey> = self.facts.keys().cloned().collect();
                let key = keys.choose(&mut self.sim.rng).expect("some").clone();
                self.announce(any, key);
            }
            _ => {}
        }
    }

    /// One step of a rotation, as node `i` lets it happen: it refuses what would lock out a node that it knows of.
    fn rotate(&mut self, step: Step, i: usize) {
        let (sealing, keys) = (self.sim.node(i).sealing_key(), self.sim.node(i).keys());
        let other = keys.iter().find(|k| k.id != sealing && !k.removed).map(|k| k.id);
        let change = match (step, other) {
            (Step::AddKey, None) => {
                // 32 bytes in base64, the same ones in every run.
                let text: String = (0..42).map(|_| self.sim.rng.random_range('a'..='z')).collect();
                Some(KeyChange::Add(format!("{text}A=").parse::<ClusterKey>().expect("a good key")))
            }
            // Two sides that each use a key of their own would not hear each other again.
            (Step::UseKey, Some(id))
                if self.sim.alive().into_iter().all(|j| self.sim.node(j).knows_key(id)) =>
            {
                Some(KeyChange::Use { id, force: false })
            }
            // Who is away and seals with it, though it may hold the other, would not be heard when it comes back.
            (Step::RemoveKey, Some(id)) if self.sim.dead().is_empty() && self.all_left(id) => {
                Some(KeyChange::Remove { id, force: false })
            }
            _ => None,
        };
        if let Some(change) = change {
            let submit = |node: &mut Node, now| node.submit(vec![LocalChange::Key(change)], now);
            self.sim.act(i, |node, now| submit(node, now).unwrap_or_default());
        }
    }

    /// Whether no node seals with key `id`.
    fn all_left(&self, id: KeyId) -> bool {
        self.sim.alive().into_iter().all(|j| self.sim.node(j).sealing_key() != id)
    }

    /// People work at nodes that run, and that know what was there before the troubles.
    fn may_work(&self, i: usize) -> bool {
        !self.sim.is_stalled(i) && !self.forgetful.contains(&i)
    }

    fn declare(&mut self, i: usize) {
        let s = self.next;
        self.next += 1;
        let origin = if s.is_multiple_of(2) { Origin::Node(name(i)) } else { Origin::Cluster };
        self.put(i, service(s), origin);
        self.announce(i, service(s));
    }

    fn announce(&mut self, i: usize, key: ServiceKey) {
        self.revision += 1;
        let weight = u16::try_from(self.revision).expect("few");
        self.sim.submit(i, vec![announce(i, key.clone(), weight)]);
        self.announced.insert((i, key), (weight, self.sim.now));
    }

    fn put(&mut self, i: usize, key: ServiceKey, origin: Origin) {
        self.revision += 1;
        // A few fight over the same two published ports.
        let number: usize = key.name.as_str()[1..].parse().expect("a number");
        let fixed = number.is_multiple_of(5).then_some(8000 + u16::from(number.is_multiple_of(2)));
        let mut spec = spec(fixed);
        spec.ttl = Some(self.revision);
        let change =
            LocalChange::PutService { origin: origin.clone(), key: key.clone(), spec: Arc::new(spec) };
        self.sim.submit(i, vec![change]);
        self.say(i, key, origin, Some(self.revision));
    }

    fn say(&mut self, by: usize, key: ServiceKey, origin: Origin, revision: Option<u32>) {
        let fact = Fact { origin, revision, by, run: self.sim.run_of(by), at: self.sim.now, asleep: false };
        self.facts.insert(key, fact);
    }

    /// Edits, deletes or declares again, at a node that knows the last word on that key: of two that work on one key
    /// without knowing of each other, the clocks decide who wins, and nothing could be said here.
    fn work(&mut self, step: Step, i: usize) {
        let fits = |key: &ServiceKey, fact: &Fact| {
            let allowed = fact.origin == Origin::Cluster || fact.origin == Origin::Node(name(i));
            let base = (0..BASE).any(|s| service(s) == *key);
            allowed
                && match step {
                    Step::Recreate => {
                        fact.revision.is_none() && fact.by == i && fact.run == self.sim.run_of(i)
                    }
                    // Of the later ones some may not know: absence would not say that they know of the deletion.
                    Step::Delete => base && fact.revision.is_some() && knows(&self.sim, i, key, fact),
                    _ => fact.revision.is_some() && knows(&self.sim, i, key, fact),
                }
        };
        let keys: Vec<ServiceKey> =
            self.facts.iter().filter(|(key, fact)| fits(key, fact)).map(|(key, _)| key.clone()).collect();
        let Some(key) = keys.choose(&mut self.sim.rng).cloned() else { return };
        let origin = self.facts[&key].origin.clone();
        if step == Step::Delete {
            // Its address may go to another from now on.
            self.sim.settled.remove(&key);
            self.sim.submit(i, vec![delete(origin.clone(), key.clone())]);
            self.say(i, key, origin, None);
        } else {
            self.put(i, key, origin);
        }
    }

    /// Node `i` goes. What only it knew is forgotten here, unless its disk has it.
    fn lose(&mut self, victim: Option<usize>, end: End) {
        let Some(i) = victim else { return };
        let (sim, forgetful) = (&self.sim, &self.forgetful);
        let kept = |by: usize, at: u64| {
            end == End::Leave || (end == End::Crash && by == i && at + KEEPING < sim.now)
        };
        let others: Vec<usize> =
            sim.alive().into_iter().filter(|j| *j != i && !forgetful.contains(j)).collect();
        self.facts.retain(|key, fact| {
            if !fact.asleep && !others.iter().any(|j| knows(sim, *j, key, fact)) {
                fact.asleep = true;
                return knows(sim, i, key, fact) && fact.by == i && kept(fact.by, fact.at);
            }
            true
        });
        self.announced.retain(|(n, key), (weight, at)| {
            kept(*n, *at) || others.iter().any(|j| shown(sim, *j, *n, key) == Some(*weight))
        });
        if end == End::Leave {
            self.sim.leave(i);
        } else {
            self.sim.crash(i);
        }
        if end == End::CrashWithDisk {
            self.sim.lose_disk(i);
            self.forgetful.insert(i);
        }
    }

    /// Node `i` starts again; its configuration has the key in use by now, as docs/control-plane.md asks for.
    fn restart(&mut self, i: usize) {
        let here = self.sim.alive().into_iter().find(|j| self.sim.side(*j) == self.sim.side(i));
        let in_use = here.unwrap_or(self.sim.alive()[0]);
        self.sim.key = self.sim.node(in_use).expose_sealing_key().expose();
        self.sim.restart(i);
        self.facts.values_mut().filter(|fact| fact.by == i).for_each(|fact| fact.asleep = false);
    }
}

/// Whether node `i` holds what was said last of a key. That it holds nothing counts for what all once knew.
fn knows(sim: &Sim, i: usize, key: &ServiceKey, fact: &Fact) -> bool {
    sim.view(i).services.get(key).and_then(|s| s.spec.ttl) == fact.revision
}

/// The weight that node `at` shows for the endpoint of node `of`.
fn shown(sim: &Sim, at: usize, of: usize, key: &ServiceKey) -> Option<u16> {
    let service = sim.view(at).services.get(key)?;
    service.endpoints.iter().find(|e| e.node == name(of)).map(|e| e.endpoint.weight)
}
