//! How fast and how calmly a mesh reacts, on the simulated network.

mod sim;

use mesh_control::{
    LocalChange,
    model::{Endpoint, Name, NodeState, Origin, ServiceKey, ServiceSpec},
};
use sim::{Sim, Weather, name};
use std::sync::Arc;

const LAN: Weather = Weather { loss: 0.0, duplicates: 0.0, delay: 2, skew: 1_000 };

fn mesh(seed: u64, nodes: usize, weather: Weather) -> Sim {
    let mut sim = Sim::new(seed, nodes, "10.96.0.0/16", weather);
    (0..nodes).for_each(|i| sim.start(i));
    sim.run(15_000);
    sim
}

fn web() -> ServiceKey {
    ServiceKey::in_default("web").expect("good")
}

fn endpoints(count: u8) -> LocalChange {
    let one = |i| {
        Endpoint::new(
            Name::new(&format!("i{i}")).expect("good"),
            std::net::IpAddr::from([10, 0, 0, i]).into(),
        )
    };
    LocalChange::PutEndpoints { key: web(), endpoints: (0..count).map(one).collect() }
}

fn declare() -> LocalChange {
    LocalChange::PutService { origin: Origin::Cluster, key: web(), spec: Arc::new(ServiceSpec::default()) }
}

fn state(sim: &Sim, at: usize, of: usize) -> NodeState {
    sim.node(at).snapshot().nodes[&name(of)].state
}

#[test]
fn a_killed_node_is_down_everywhere_within_six_seconds_at_three_nodes() {
    let mut worst = 0;
    for seed in 0..40 {
        let mut sim = mesh(seed, 3, LAN);
        sim.submit(2, vec![declare(), endpoints(2)]);
        sim.run(16_000 + seed * 37);
        sim.crash(2);
        worst = worst.max(sim.until(6_000, "detection", |sim, i| state(sim, i, 2) == NodeState::Down));
        for i in [0, 1] {
            let web = &sim.node(i).snapshot().services[&web()];
            assert_eq!((web.endpoints.len(), web.hidden_endpoints), (0, 2), "{}", sim.failed());
        }
        // Its restart brings them back with the same VIP, soon.
        let vip = sim.node(0).snapshot().services[&web()].vips;
        sim.start(2);
        sim.until(2_000, "return", |sim, i| {
            let web = sim.node(i).snapshot().services.get(&web());
            web.is_some_and(|web| web.endpoints.len() == 2 && web.vips == vip)
        });
    }
    println!("killed at 3 nodes: down everywhere after at most {worst} ms of 40 seeds");
}

#[test]
fn lost_datagrams_alone_take_nobody_down() {
    for seed in 0..4 {
        let mut sim = mesh(seed, 8, Weather { loss: 0.3, duplicates: 0.1, delay: 50, skew: 1_000 });
        while sim.now < 120_000 {
            sim.run(sim.now + 200);
            for i in sim.alive() {
                for of in sim.alive() {
                    assert!(state(&sim, i, of).is_up(), "{}: n{of} at n{i}", sim.failed());
                }
            }
        }
    }
}

#[test]
fn a_change_reaches_a_small_mesh_at_once_and_a_large_one_soon() {
    let (mut small, mut large) = (0, 0);
    for seed in 0..10 {
        for (nodes, limit, worst) in [(3, 100, &mut small), (50, 2_000, &mut large)] {
            let mut sim = mesh(seed, nodes, LAN);
            sim.submit(1, vec![declare()]);
            let known = |sim: &Sim, i: usize| {
                sim.node(i).snapshot().services.get(&web()).is_some_and(|web| web.vips.v4.is_some())
            };
            *worst = (*worst).max(sim.until(limit, "spreading", known));
            if nodes == 50 && seed == 1 {
                break;
            }
        }
    }
    println!("one change is everywhere after at most {small} ms at 3 nodes, {large} ms at 50");
}

#[test]
fn what_fits_no_datagram_spreads_over_tcp() {
    let mut sim = mesh(1, 12, LAN);
    sim.submit(0, vec![declare(), endpoints(200)]);
    let known = |sim: &Sim, i: usize| {
        sim.node(i).snapshot().services.get(&web()).is_some_and(|web| web.endpoints.len() == 200)
    };
    sim.until(5_000, "a record of 200 endpoints", known);
}

#[test]
fn a_partition_of_two_minutes_heals_in_seconds() {
    for seed in 0..12 {
        let mut sim = mesh(seed, 10, LAN);
        sim.split((0..10).map(|i| u8::from(i >= 5)).collect());
        sim.run(sim.now + 120_000);
        assert_eq!(state(&sim, 0, 9), NodeState::Down);
        sim.heal();
        let took = sim.until(10_000, "the heal", |sim, i| (0..10).all(|of| state(sim, i, of).is_up()));
        println!("seed {seed}: all see all {took} ms after the heal");
    }
}
