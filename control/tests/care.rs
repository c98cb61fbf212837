//! Nodes that are slow, and clocks that are off: the others are told, and come to no harm.

mod sim;

use mesh_control::{
    LocalChange,
    model::{NodeState, Origin, ServiceKey, ServiceSpec},
};
use sim::{Sim, Weather, name};
use std::sync::Arc;

const LAN: Weather = Weather { loss: 0.0, duplicates: 0.0, delay: 2, skew: 1_000 };
const HOUR: i64 = 3_600_000;

fn mesh(seed: u64, nodes: usize) -> Sim {
    let mut sim = Sim::new(seed, nodes, "10.96.0.0/16", LAN);
    (0..nodes).for_each(|i| sim.start(i));
    sim.run(20_000);
    sim
}

fn service(text: &str) -> ServiceKey {
    ServiceKey::in_default(text).expect("good")
}

fn put(text: &str) -> LocalChange {
    let (origin, spec) = (Origin::Cluster, Arc::new(ServiceSpec::default()));
    LocalChange::PutService { origin, key: service(text), spec }
}

fn delete(text: &str) -> LocalChange {
    LocalChange::DeleteService { origin: Origin::Cluster, key: service(text) }
}

fn has(sim: &Sim, i: usize, text: &str) -> bool {
    sim.node(i).snapshot().services.contains_key(&service(text))
}

fn state(sim: &Sim, at: usize, of: usize) -> NodeState {
    sim.node(at).snapshot().nodes[&name(of)].state
}

#[test]
fn a_node_that_was_stalled_takes_nobody_down_and_is_back_in_seconds() {
    let mut worst = 0;
    for seed in 0..8 {
        let mut sim = mesh(seed, 10);
        sim.stall(9, 30_000);
        let woke = sim.now + 30_000;
        sim.run(woke - 1);
        for i in 0..9 {
            assert_eq!(state(&sim, i, 9), NodeState::Down, "{}: n9 at n{i}", sim.failed());
        }
        let before = sim.traffic;
        while !(0..10).all(|i| state(&sim, i, 9).is_up()) {
            sim.run(sim.now + 50);
            for of in 0..9 {
                // Nobody is declared down by it, or because of it.
                assert!((0..9).all(|i| state(&sim, i, of).is_up()), "{}: n{of}", sim.failed());
                assert!(state(&sim, 9, of).is_up(), "{}: n{of} at the stalled node", sim.failed());
            }
            assert!(sim.now < woke + 10_000, "{}: it is not taken back", sim.failed());
        }
        worst = worst.max(sim.now - woke);
        for _ in 0..200 {
            sim.run(sim.now + 50);
            for at in 0..10 {
                assert!((0..10).all(|of| state(&sim, at, of).is_up()), "{}: at n{at}", sim.failed());
            }
        }
        let sent = sim.traffic[0] - before[0];
        assert!(sent < 10 * 2_000, "{}: a storm of {sent} datagrams", sim.failed());
    }
    println!("stalled for 30 s: up everywhere at most {worst} ms after it woke");
}

#[test]
fn clocks_heard_lag_and_agreement_are_measured() {
    let mut sim = Sim::new(1, 5, "10.96.0.0/16", Weather { skew: 0, ..LAN });
    sim.jump(4, 90_000);
    (0..5).for_each(|i| sim.start(i));
    sim.run(20_000);
    for i in 0..4 {
        sim.submit(i, vec![put(&format!("s{i}"))]);
    }
    sim.submit(4, vec![put("ahead")]);
    sim.run(40_000);
    for i in 0..5 {
        let stats = sim.node(i).stats();
        assert!(stats.in_sync.is_some_and(|ms| ms < 10_000), "{stats:?}");
        let lag = stats.lag.expect("there was news");
        // The writer whose clock is off is allowed for.
        assert!(lag.records >= 4 && lag.median < 500 && lag.worst < 3_000, "n{i}: {lag:?}");
        let peers = sim.node(i).peers();
        assert_eq!(peers.len(), 4);
        for peer in peers {
            assert!(peer.heard.is_some_and(|ms| ms < 15_000), "{peer:?}");
            let off = peer.clock_offset.expect("heard");
            let (here, there) = (90_000 * i64::from(i == 4), 90_000 * i64::from(peer.node == name(4)));
            assert!((off - (there - here)).abs() <= 10, "n{i}: {peer:?}");
            assert_eq!(peer.trouble.is_some(), there > 60_000, "n{i}: {peer:?}");
        }
    }
    sim.run(140_000);
    for i in 0..5 {
        assert!(sim.node(i).peers().iter().all(|peer| peer.rtt == Some(4_000)), "{:?}", sim.node(i).peers());
    }
    assert_eq!(sim.node(0).stats().lag, None, "no news for a minute");
}

/// What is deleted stays deleted, and is forgotten in the end, whoever's clock is off by how much.
#[test]
fn deletions_by_and_at_nodes_whose_clock_is_off_hold_and_end() {
    for (seed, off) in [(1, HOUR), (2, -HOUR), (3, 30 * HOUR), (4, -30 * HOUR), (5, 9_000 * HOUR)] {
        let mut sim = mesh(seed, 4);
        sim.jump(3, off);
        sim.submit(3, vec![put("by-wrong"), put("of-wrong")]);
        sim.submit(0, vec![put("by-right"), put("stays")]);
        sim.run(sim.now + 15_000);
        sim.submit(3, vec![delete("by-right"), delete("by-wrong")]);
        sim.submit(1, vec![delete("of-wrong")]);
        sim.run(sim.now + 15_000);
        let gone = |sim: &Sim| {
            for i in sim.alive() {
                for text in ["by-wrong", "of-wrong", "by-right"] {
                    assert!(!has(sim, i, text), "{}: {off}: {text} at n{i}", sim.failed());
                }
                assert!(has(sim, i, "stays"), "{}: {off}: n{i}", sim.failed());
            }
        };
        gone(&sim);
        // A day and more; the tombstones go, also those from the future.
        let mut until = sim.now + 24 * 3_600_000;
        while sim.now < until {
            // Nothing runs for two hours, then for a little more than the time between two collections.
            sim.now += 2 * 3_600_000;
            sim.run(sim.now + 70_000);
            gone(&sim);
        }
        // The claims of deleted services last a day longer; then everything is forgotten, what came from the future too.
        until = sim.now + 80 * 3_600_000;
        while sim.now < until {
            sim.now += 4 * 3_600_000;
            sim.run(sim.now + 70_000);
        }
        gone(&sim);
        for i in 0..3 {
            assert_eq!(sim.node(i).stats().tombstones, 0, "{}: {off}: n{i}", sim.failed());
        }
    }
}
