//! Stranger troubles than loss and clean partitions: one-way links, clocks that jump, many nodes at one name.

mod sim;

use mesh_control::{LocalChange, model::Origin};
use rand::RngExt;
use sim::{
    Sim, Weather, name,
    parts::{announce, delete, put, service},
};
use std::collections::BTreeMap;

const ROUGH: Weather = Weather { loss: 0.1, duplicates: 0.05, delay: 20, skew: 5_000 };
const HOUR: i64 = 3_600_000;

fn mesh(seed: u64, nodes: usize) -> Sim {
    let mut sim = Sim::new(seed, nodes, "10.96.0.0/25", ROUGH);
    (0..nodes).for_each(|i| sim.start(i));
    sim.run(15_000);
    sim
}

/// Every service has its address and its port or a conflict, all nodes agree, and no two share a dynamic port.
fn check(sim: &Sim) {
    let mut ports = BTreeMap::new();
    for (key, view) in &sim.check_equal().services {
        assert!(view.vips.v4.is_some(), "{}: {key} has no VIP", sim.failed());
        for published in &view.published {
            let port = published.port.unwrap_or_else(|| panic!("{}: {key} has no port", sim.failed()));
            if published.conflict.is_none() {
                assert_eq!(ports.insert(port.first(), key), None, "{}: port {port}", sim.failed());
            }
        }
    }
}

/// What a node says reaches all even while it hears nothing from some, and nobody ends up with a duplicate.
#[test]
fn one_way_links_delay_and_divide_nothing_for_good() {
    for seed in 0..8 {
        let mut sim = mesh(seed, 6);
        for _ in 0..6 {
            let (from, to) = (sim.rng.random_range(0..6), sim.rng.random_range(0..6));
            if from != to {
                sim.cut_one_way(from, to);
            }
        }
        for s in 0..12 {
            let i = sim.rng.random_range(0..6);
            sim.submit(i, vec![put(Origin::Cluster, service(s), (s % 4 == 0).then_some(8080))]);
            sim.run(sim.now + 700);
        }
        sim.run(sim.now + 30_000);
        sim.heal();
        sim.run(sim.now + 30_000);
        check(&sim);
        assert_eq!(sim.check_equal().services.len(), 12, "{}", sim.failed());
    }
}

/// Wall clocks step an hour either way, again and again; what is settled stays, edits and deletions still hold.
#[test]
fn clocks_that_jump_move_nothing_and_lose_nothing() {
    for seed in 0..8 {
        let mut sim = mesh(seed, 5);
        for s in 0..6 {
            sim.submit(
                s % 5,
                vec![put(
                    Origin::Cluster,
                    service(s),
                    [Some(8080), Some(8081), Some(8082)].get(s).copied().flatten(),
                )],
            );
        }
        sim.run(sim.now + 10_000);
        check(&sim);
        let known = sim.check_equal().services.clone();
        sim.settled = known.iter().filter_map(|(k, v)| Some((k.clone(), v.vips.v4?.into()))).collect();
        for round in 0..10 {
            let (i, editor) = (sim.rng.random_range(0..5), sim.rng.random_range(0..5));
            let jump = [HOUR, -HOUR, 2 * HOUR, -60_000][sim.rng.random_range(0..4)];
            sim.jump(i, jump);
            if round % 2 == 0 {
                // A run that began with the wrong clock knows no better one.
                sim.crash(i);
                sim.start(i);
                sim.run(sim.now + 8_000);
            }
            // The node that jumped wants the ports that others hold.
            let rival = service(100 + round);
            sim.submit(
                i,
                vec![put(
                    Origin::Cluster,
                    rival.clone(),
                    Some(8080 + u16::try_from(round % 3).expect("good")),
                )],
            );
            sim.submit(
                editor,
                vec![delete(Origin::Cluster, service(50)), put(Origin::Cluster, service(51), None)],
            );
            sim.run(sim.now + 5_000);
            sim.submit(
                i,
                vec![delete(Origin::Cluster, service(51)), put(Origin::Cluster, service(50), None)],
            );
            sim.run(sim.now + 5_000);
            let view = sim.check_equal();
            assert!(view.services.contains_key(&service(50)), "{}: an edit is lost", sim.failed());
            assert!(!view.services.contains_key(&service(51)), "{}: a deletion is lost", sim.failed());
            for s in 0..3 {
                let holder = &view.services[&service(s)].published[0];
                assert_eq!(holder.conflict, None, "{}: s{s} lost its port", sim.failed());
            }
            assert!(view.services[&rival].published[0].conflict.is_some(), "{}", sim.failed());
        }
    }
}

/// All nodes declare, delete and declare again the same few names at the same moments, as themselves and for all.
#[test]
fn many_nodes_at_one_name_agree_in_the_end() {
    for seed in 0..10 {
        let nodes = 5;
        let mut sim = mesh(seed, nodes);
        for round in 0..30 {
            for i in 0..nodes {
                let s = service(sim.rng.random_range(0..3));
                let origin = if sim.rng.random_bool(0.5) { Origin::Node(name(i)) } else { Origin::Cluster };
                let fixed = [None, Some(8080), Some(8081)][sim.rng.random_range(0..3)];
                let endpoints = if sim.rng.random_bool(0.7) {
                    announce(i, s.clone(), 1)
                } else {
                    LocalChange::PutEndpoints { key: s.clone(), endpoints: vec![] }
                };
                let change = if sim.rng.random_bool(0.6) {
                    put(origin, s.clone(), fixed)
                } else {
                    delete(origin, s.clone())
                };
                sim.submit(i, vec![change, endpoints]);
            }
            let wait = [0, 1, 30, 400, 2_000][sim.rng.random_range(0..5)];
            sim.run(sim.now + wait);
            if round == 10 {
                sim.split(vec![0, 0, 1, 1, 1]);
            } else if round == 20 {
                sim.heal();
            }
        }
        sim.run(sim.now + 40_000);
        check(&sim);
    }
}
