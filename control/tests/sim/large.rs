//! A short story of a large mesh: part of it is cut off while both sides work, nodes die, others come back.

use super::{
    INTERVAL, Sim, Weather,
    figures::{Figure, figure, median_and_worst},
    parts::{announce, delete, put, put_plain, service},
};
use mesh_control::{OverlayNetwork, model::Origin};
use rand::{
    RngExt,
    seq::{IndexedRandom, index},
};

/// Services that all know before the troubles; of those declared later there are as many.
const BASE: usize = 40;
/// How long the smaller side is cut off, in milliseconds: long enough to be taken for dead.
const CUT: u64 = 30_000;

/// Tells the story of one seed. Panics at what does not hold.
pub(crate) fn tell(seed: u64, nodes: usize) -> (Sim, Vec<Figure>) {
    let weather = Weather { loss: 0.02, duplicates: 0.02, delay: 10, skew: 3_000 };
    let mut sim = Sim::new(seed, nodes, "10.96.0.0/22", weather);
    let network = "10.128.0.0/11".parse().expect("a network");
    sim.overlay = vec![OverlayNetwork { network, node_prefix: 24 }];
    // Writing a thousand files is not what this is about: whoever dies loses all.
    sim.keeping = false;
    sim.replay = format!(
        "cargo run --release -p mesh-control --example sim -- --scenario large --nodes {nodes} --seed {seed}"
    );
    let mut figures = Vec::new();
    for i in 0..nodes {
        sim.start(i);
        sim.run(sim.now + 5);
    }
    for s in 0..BASE {
        declare(&mut sim, s, s * nodes / BASE);
    }
    let took = sim.time_until_equal(120_000, 100);
    figures.push(figure("started and equal", took as f64 / 1_000.0, "s", None));
    sim.run(sim.now + 2 * INTERVAL);
    sim.check_claims("after the start");
    assert_eq!(sim.check_equal().services.len(), BASE, "{}", sim.failed());
    sim.settle();

    troubles(&mut sim);

    sim.heal();
    let until = sim.now + 3 * INTERVAL;
    let took = sim.time_until_equal(3 * INTERVAL, 100);
    figures.push(figure("heal to equal views", took as f64 / 1_000.0, "s", Some(30.0)));
    sim.run(until);
    compare(&sim, "after the heal");
    sim.check_no_ghosts("after the heal");
    for i in sim.dead() {
        sim.restart(i);
    }
    sim.run(sim.now + 2 * INTERVAL);
    compare(&sim, "after the return");
    let (median, worst) = median_and_worst(sim.time_update(0, 1_000));
    figures.push(figure("one update, median node", median, "s", None));
    figures.push(figure("one update, last node", worst, "s", None));
    (sim, figures)
}

/// A service of the whole mesh with one endpoint; every third is published, some of them at one and the same port.
fn declare(sim: &mut Sim, s: usize, at: usize) {
    let change = match s {
        s if s.is_multiple_of(15) => put(Origin::Cluster, service(s), Some(8_000)),
        s if s.is_multiple_of(3) => put(Origin::Cluster, service(s), None),
        s => put_plain(Origin::Cluster, service(s)),
    };
    sim.submit(at, vec![change, announce(at, service(s), 1)]);
}

/// One node in forty is cut off and one in a hundred dies; each side declares, and one deletes.
fn troubles(sim: &mut Sim) {
    let nodes = sim.len();
    let far = index::sample(&mut sim.rng, nodes, nodes / 40);
    let mut sides = vec![0; nodes];
    far.iter().for_each(|i| sides[i] = 1);
    sim.split(sides);
    for s in (0..BASE).filter(|s| s.is_multiple_of(4)) {
        // Nobody else works on them, so what is said is the last word.
        let deleter = (0..nodes).find(|i| sim.side(*i) == 0).expect("most are here");
        sim.settled.remove(&service(s));
        sim.submit(deleter, vec![delete(Origin::Cluster, service(s))]);
    }
    for i in index::sample(&mut sim.rng, nodes, nodes / 100) {
        if sim.side(i) == 0 && sim.is_alive(i) {
            sim.crash(i);
        }
        let wait = sim.rng.random_range(0..CUT / (nodes as u64 / 100).max(1) / 2);
        sim.run(sim.now + wait);
    }
    for s in BASE..2 * BASE {
        // Both sides claim out of one range.
        let side = u8::from(s.is_multiple_of(2));
        let alive = sim.alive().into_iter().filter(|i| sim.side(*i) == side);
        let alive: Vec<usize> = alive.collect();
        let at = *alive.choose(&mut sim.rng).expect("each side has many");
        declare(sim, s, at);
        sim.run(sim.now + CUT / 2 / BASE as u64);
    }
}

/// What was declared is there, what was deleted is not.
fn compare(sim: &Sim, when: &str) {
    sim.check_claims(when);
    let view = sim.check_equal();
    for s in 0..2 * BASE {
        let wanted = s >= BASE || !s.is_multiple_of(4);
        assert_eq!(view.services.contains_key(&service(s)), wanted, "{}: {when}: s{s}", sim.failed());
    }
    assert_eq!(view.nodes.values().filter(|n| n.state.is_up()).count(), sim.alive().len(), "{when}");
}
