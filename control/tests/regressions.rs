//! What users of other meshes met, by the number under which they reported it.

mod sim;

use mesh_control::model::Origin;
use sim::{
    Sim, Weather, name,
    parts::{announce, put_plain, service},
};

const LAN: Weather = Weather { loss: 0.02, duplicates: 0.02, delay: 5, skew: 1_000 };

/// A mesh of `nodes` in which each one has an endpoint of s0.
fn mesh(seed: u64, nodes: usize) -> Sim {
    let mut sim = Sim::new(seed, nodes, "10.96.0.0/16", LAN);
    (0..nodes).for_each(|i| sim.start(i));
    sim.run(15_000);
    sim.submit(0, vec![put_plain(Origin::Cluster, service(0))]);
    (0..nodes).for_each(|i| sim.submit(i, vec![announce(i, service(0), 1)]));
    sim.until(10_000, "the start", |sim, i| shown(sim, i).len() == nodes);
    sim
}

/// The nodes whose endpoint of s0 node `at` shows.
fn shown(sim: &Sim, at: usize) -> Vec<String> {
    let service = sim.view(at).services.get(&service(0));
    service.into_iter().flat_map(|s| s.endpoints.iter()).map(|e| e.node.to_string()).collect()
}

fn alone(i: usize, nodes: usize) -> Vec<u8> {
    (0..nodes).map(|j| u8::from(j == i)).collect()
}

/// moby#53141: after a node was away for 10 to 30 s its names stayed gone until somebody touched the service.
#[test]
fn moby_53141_a_node_that_was_away_is_answered_again_without_a_touch() {
    for (seed, away) in [(1, 10_000), (2, 20_000), (3, 30_000)] {
        let mut sim = mesh(seed, 5);
        let vip = sim.view(0).services[&service(0)].vips;
        sim.split(alone(3, 5));
        sim.run(sim.now + away);
        assert!(!shown(&sim, 0).contains(&name(3).to_string()), "{}: not hidden", sim.failed());
        sim.heal();
        let took = sim.until(15_000, "the return", |sim, i| shown(sim, i).len() == 5);
        assert_eq!(sim.view(4).services[&service(0)].vips, vip, "{}", sim.failed());
        println!("away for {away} ms: answered again {took} ms after the link is back");
    }
}

/// moby#33790: an instance on a dead node stayed in the pool. Also when the node dies out of sight of some, or while a
/// node that should notice is stalled.
#[test]
fn moby_33790_a_dead_nodes_instance_leaves_every_pool_and_stays_out() {
    for seed in 0..6 {
        let mut sim = mesh(seed, 6);
        match seed % 3 {
            0 => sim.crash(5),
            1 => {
                // The others of its side see it die, the other side does not.
                sim.split(vec![0, 0, 0, 1, 1, 1]);
                sim.run(sim.now + 500);
                sim.crash(5);
                sim.run(sim.now + 20_000);
                sim.heal();
            }
            _ => {
                sim.stall(0, 15_000);
                sim.crash(5);
            }
        }
        let gone = |sim: &Sim, i: usize| !shown(sim, i).contains(&name(5).to_string());
        sim.until(40_000, "the dead instance goes", gone);
        sim.until(40_000, "the living stay", |sim, i| shown(sim, i).len() == 5);
        // Old news must not bring it back.
        for _ in 0..120 {
            sim.run(sim.now + 500);
            assert!(sim.alive().into_iter().all(|i| gone(&sim, i)), "{}: it is back", sim.failed());
        }
    }
}

/// memberlist forgets the other side of a long split and never rejoins by itself. Both sides restart a node meanwhile,
/// and the seeds of all are on one side.
#[test]
fn memberlist_no_rejoin_a_split_of_hours_heals_by_itself() {
    const HOUR: u64 = 3_600_000;
    for (seed, hours) in [(1, 2), (2, 20)] {
        let mut sim = mesh(seed, 5);
        sim.split(vec![0, 0, 0, 1, 1]);
        sim.run(sim.now + HOUR);
        for i in [1, 4] {
            sim.crash(i);
            sim.run(sim.now + 10_000);
            sim.restart(i);
        }
        sim.run(sim.now + (hours - 1) * HOUR);
        sim.heal();
        let took = sim.until(20_000, "the heal", |sim, i| {
            sim.view(i).nodes.values().filter(|n| n.state.is_up()).count() == 5 && shown(sim, i).len() >= 3
        });
        println!("a split of {hours} h heals in {took} ms");
        sim.run(sim.now + 30_000);
        sim.check_equal();
    }
}
