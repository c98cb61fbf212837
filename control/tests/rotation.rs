//! Keys change while the mesh runs: nothing is lost, and who has only a removed key is outside.

mod sim;

use mesh_control::{
    ClusterKey, KeyChange, LocalChange,
    model::{KeyId, Origin, ServiceKey, ServiceSpec},
};
use rand::RngExt;
use sim::{Sim, Weather, name};
use std::sync::Arc;

const ROUGH: Weather = Weather { loss: 0.2, duplicates: 0.05, delay: 15, skew: 2_000 };
/// The key that comes; like the old one it is the same in every run.
const NEW: &str = "ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8=";
const NODES: usize = 5;
/// For every step of the rotation to reach all, in simulated milliseconds.
const BOUND: u64 = 60_000;

/// A change at a random node that runs, and a moment.
fn churn(sim: &mut Sim) {
    let alive = sim.alive();
    let i = alive[sim.rng.random_range(0..alive.len())];
    let key = ServiceKey::in_default(&format!("s{}", sim.rng.random_range(0..8))).expect("good");
    let origin = Origin::Node(name(i));
    let change = if sim.rng.random_bool(0.7) {
        let weight = sim.rng.random_range(1..100u32).to_string();
        let labels = [("turn".to_owned(), weight)].into_iter().collect();
        LocalChange::PutService {
            origin,
            key,
            spec: Arc::new(ServiceSpec { labels, ..ServiceSpec::default() }),
        }
    } else {
        LocalChange::DeleteService { origin, key }
    };
    sim.submit(i, vec![change]);
    let wait = sim.rng.random_range(50..300);
    sim.run(sim.now + wait);
}

/// Goes on changing things until `done`.
fn churn_until(sim: &mut Sim, what: &str, done: impl Fn(&Sim) -> bool) {
    let end = sim.now + BOUND;
    while !done(sim) {
        assert!(sim.now < end, "{}: never {what}: {:?}", sim.failed(), sim.node(0).keys());
        churn(sim);
    }
}

/// The nodes that hold key `id` and those that seal with it, as node 0 sees it.
fn held_and_used(sim: &Sim, id: KeyId) -> (usize, usize) {
    let keys = sim.node(0).keys();
    keys.iter().find(|k| k.id == id).map_or((0, 0), |k| (k.held_by.len(), k.seals_for.len()))
}

fn change(sim: &mut Sim, i: usize, change: KeyChange) {
    sim.submit(i, vec![LocalChange::Key(change)]);
}

fn refused(sim: &Sim, i: usize, reason: &str) -> u64 {
    let stats = sim.node(i).stats();
    stats.refused.iter().find(|(r, _)| *r == reason).map_or(0, |(_, n)| *n)
}

#[test]
fn a_rotation_under_load_loss_and_partition_loses_nothing_and_locks_the_old_key_out() {
    for seed in 0..12 {
        let mut sim = Sim::new(seed, NODES + 1, "10.96.0.0/24", ROUGH);
        let old: ClusterKey = sim.key.parse().expect("a good key");
        let new = NEW.parse::<ClusterKey>().expect("a good key");
        (0..NODES).for_each(|i| sim.start(i));
        sim.run(15_000);

        // Two nodes are away while the new key is added, long enough to be down.
        sim.split(vec![0, 0, 0, 1, 1, 0]);
        churn_until(&mut sim, "a partition is seen", |sim| sim.node(0).stats().members_up == 2);
        change(&mut sim, 1, KeyChange::Add(new.clone()));
        churn_until(&mut sim, "three hold it", |sim| held_and_used(sim, new.id()).0 == 3);
        sim.heal();
        churn_until(&mut sim, "all hold it", |sim| held_and_used(sim, new.id()) == (NODES, 0));

        change(&mut sim, 0, KeyChange::Use { id: new.id(), force: false });
        churn_until(&mut sim, "all seal with it", |sim| held_and_used(sim, new.id()) == (NODES, NODES));
        change(&mut sim, 0, KeyChange::Remove { id: old.id(), force: false });
        churn_until(&mut sim, "the old key is gone", |sim| {
            (0..NODES).all(|i| !sim.node(i).knows_key(old.id()))
        });
        sim.run(sim.now + 40_000);
        let view = sim.check_equal();
        let failed = sim.failed();
        assert_eq!(view.nodes.values().filter(|n| n.state.is_up()).count(), NODES, "{failed}");
        for i in 0..NODES {
            assert_eq!(sim.node(i).sealing_key(), new.id(), "{failed}");
            for reason in ["unknown key", "forged"] {
                assert_eq!(refused(&sim, i, reason), 0, "{failed}: n{i}: {reason}");
            }
        }

        // A stranger that has only the old key stays one; the same node with the new key is in at once.
        sim.start(NODES);
        sim.run(sim.now + 20_000);
        assert_eq!(sim.node(NODES).stats().members_up, 0, "{failed}");
        assert!(
            !sim.node(NODES).joined() && !sim.node(0).snapshot().nodes.contains_key(&name(NODES)),
            "{failed}"
        );
        sim.crash(NODES);
        sim.key = new.expose();
        sim.start(NODES);
        sim.run(sim.now + 20_000);
        assert_eq!(sim.node(NODES).stats().members_up, NODES, "{failed}");
        assert_eq!(sim.node(NODES).keys().len(), 1, "{failed}");
        sim.check_equal();
    }
}

#[test]
fn who_was_away_for_add_and_use_comes_back_by_the_old_key() {
    let mut sim = Sim::new(3, NODES, "10.96.0.0/24", ROUGH);
    let new = NEW.parse::<ClusterKey>().expect("a good key");
    (0..NODES).for_each(|i| sim.start(i));
    sim.run(15_000);
    sim.crash(4);
    churn_until(&mut sim, "the crash is seen", |sim| sim.node(0).stats().members_up == 3);
    change(&mut sim, 0, KeyChange::Add(new.clone()));
    churn_until(&mut sim, "four hold it", |sim| held_and_used(sim, new.id()).0 == 4);
    change(&mut sim, 0, KeyChange::Use { id: new.id(), force: false });
    churn_until(&mut sim, "four use it", |sim| held_and_used(sim, new.id()).1 == 4);
    // It starts anew with a configuration that knows the old key only.
    sim.start(4);
    churn_until(&mut sim, "all use it", |sim| held_and_used(sim, new.id()).1 == NODES);
    sim.run(sim.now + 40_000);
    sim.check_equal();
}
