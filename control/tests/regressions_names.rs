//! moby#41576: two nodes with one name or one address took turns in the tables of the others for ever.

mod sim;

use mesh_control::{
    LocalChange,
    model::{Endpoint, Name, NodeState, Origin, ServiceKey, ServiceSpec},
};
use sim::{Sim, Weather, address, name};
use std::sync::Arc;

const LAN: Weather = Weather { loss: 0.0, duplicates: 0.0, delay: 2, skew: 100 };
const LATER: usize = 4;

fn mesh(seed: u64) -> Sim {
    let mut sim = Sim::new(seed, 5, "10.96.0.0/16", LAN);
    (0..4).for_each(|i| sim.start(i));
    sim.run(10_000);
    for i in 0..4 {
        announce(&mut sim, i);
    }
    sim.run(15_000);
    sim
}

fn web() -> ServiceKey {
    ServiceKey::in_default("web").expect("good")
}

/// Node `i` announces an instance named after itself.
fn announce(sim: &mut Sim, i: usize) {
    let ip = std::net::IpAddr::from([10, 0, 0, u8::try_from(i).expect("few")]);
    let endpoint = Endpoint::new(Name::new(&format!("i{i}")).expect("good"), ip.into());
    let put = LocalChange::PutService {
        origin: Origin::Node(sim.node(i).snapshot().local.clone()),
        key: web(),
        spec: Arc::new(ServiceSpec::default()),
    };
    sim.submit(i, vec![put, LocalChange::PutEndpoints { key: web(), endpoints: vec![endpoint] }]);
}

/// The instances that node `at` shows.
fn shown(sim: &Sim, at: usize) -> Vec<String> {
    let web = sim.node(at).snapshot().services.get(&web()).cloned();
    let mut all: Vec<String> =
        web.iter().flat_map(|web| web.endpoints.iter().map(|e| e.endpoint.instance.to_string())).collect();
    all.sort();
    all
}

fn state(sim: &Sim, at: usize, of: &Name) -> Option<NodeState> {
    sim.node(at).snapshot().nodes.get(of).map(|n| n.state)
}

fn silenced(sim: &Sim, i: usize) -> Option<String> {
    sim.node(i).stats().silenced
}

/// What node `at` says is wrong with the node named `of`.
fn trouble(sim: &Sim, at: usize, of: &Name) -> String {
    let peers = sim.node(at).peers().into_iter();
    peers.filter(|p| p.node == *of).filter_map(|p| p.trouble).collect()
}

/// Runs until `good`, at most `limit` milliseconds; how long it took.
fn until(sim: &mut Sim, limit: u64, what: &str, good: impl Fn(&Sim) -> bool) -> u64 {
    let start = sim.now;
    while !good(sim) {
        assert!(sim.now < start + limit, "{}: {what} takes longer than {limit} ms", sim.failed());
        sim.run(sim.now + 20);
    }
    sim.now - start
}

const ALL: [&str; 4] = ["i0", "i1", "i2", "i3"];

/// For a minute nothing changes any more: the mesh is as it was, and the later node says nothing.
fn calm(sim: &mut Sim) {
    for _ in 0..60 {
        sim.run(sim.now + 1_000);
        assert!(silenced(sim, LATER).is_some(), "{}", sim.failed());
        for i in 0..4 {
            assert_eq!(silenced(sim, i), None, "{}: n{i}", sim.failed());
            assert_eq!(shown(sim, i), ALL, "{}: n{i}", sim.failed());
            assert!(
                (0..4).all(|j| state(sim, i, &name(j)).is_some_and(NodeState::is_up)),
                "{}",
                sim.failed()
            );
        }
    }
}

#[test]
fn moby_41576_the_later_of_two_nodes_with_one_name_keeps_silent_until_the_other_is_gone() {
    for seed in 0..6 {
        let mut sim = mesh(seed);
        sim.start_as(LATER, name(1), address(LATER));
        announce(&mut sim, LATER);
        let took = until(&mut sim, 5_000, "silence", |sim| silenced(sim, LATER).is_some());
        sim.run(sim.now + 3_000);
        calm(&mut sim);
        for at in [1, LATER] {
            let what = trouble(&sim, at, &name(1));
            let words = [address(1).to_string(), address(LATER).to_string(), "rename".into()];
            assert!(words.iter().all(|w| what.contains(w)), "{}: {at}: {what}", sim.failed());
        }
        // Nothing is acknowledged that would not be passed on, and what it says of itself waits.
        announce(&mut sim, LATER);
        sim.crash(1);
        let back = until(&mut sim, 60_000, "taking over", |sim| {
            silenced(sim, LATER).is_none()
                && [0, 2, 3, LATER].iter().all(|i| shown(sim, *i) == ["i0", "i2", "i3", "i4"])
        });
        println!("seed {seed}: silent after {took} ms, spoke {back} ms after the other went");
        // The first comes back: now it is the later one.
        sim.start(1);
        announce(&mut sim, 1);
        until(&mut sim, 5_000, "silence of the first", |sim| silenced(sim, 1).is_some());
        sim.run(sim.now + 10_000);
        assert_eq!(
            (silenced(&sim, LATER), shown(&sim, 0)),
            (None, ["i0", "i2", "i3", "i4"].map(String::from).to_vec())
        );
    }
}

#[test]
fn moby_41576_the_later_of_two_nodes_at_one_address_keeps_silent() {
    // Another name, and the whole configuration copied.
    for (seed, other) in [(0, 4), (1, 4), (2, 4), (3, 1), (4, 1), (5, 1)] {
        let mut sim = mesh(seed);
        sim.start_as(LATER, name(other), address(1));
        announce(&mut sim, LATER);
        until(&mut sim, 5_000, "silence", |sim| silenced(sim, LATER).is_some());
        sim.run(sim.now + 20_000);
        calm(&mut sim);
        let (here, there) = (trouble(&sim, 1, &name(other)), trouble(&sim, LATER, &name(1)));
        for what in [here, there] {
            assert!(what.contains(&address(1).to_string()), "{}: {what}", sim.failed());
        }
    }
}

#[test]
fn two_that_start_at_once_or_meet_after_a_partition_agree_who_keeps_silent() {
    for seed in 0..6 {
        let mut sim = Sim::new(seed, 5, "10.96.0.0/16", LAN);
        (0..4).for_each(|i| sim.start(i));
        if seed % 2 == 0 {
            sim.start_as(LATER, name(1), address(LATER));
        } else {
            sim.split(vec![0, 0, 0, 1, 1]);
            sim.start_as(LATER, name(1), address(LATER));
            sim.run(60_000);
            sim.heal();
        }
        for i in 0..5 {
            announce(&mut sim, i);
        }
        sim.run(sim.now + 40_000);
        let silent: Vec<_> = [1, LATER].into_iter().filter(|i| silenced(&sim, *i).is_some()).collect();
        assert_eq!(silent.len(), 1, "{}: {silent:?}", sim.failed());
        let speaks = 1 + LATER - silent[0];
        for i in [0, 2, 3] {
            assert!(shown(&sim, i).contains(&format!("i{speaks}")), "{}", sim.failed());
            assert_eq!(shown(&sim, i).len(), 4, "{}", sim.failed());
        }
    }
}

#[test]
fn restarts_moves_and_renames_are_no_duplicates() {
    for seed in 0..6 {
        let mut sim = mesh(seed);
        let nobody = |sim: &Sim| sim.alive().into_iter().all(|i| silenced(sim, i).is_none());
        let settle = |sim: &mut Sim, i: usize, node: &Name| {
            announce(sim, i);
            for _ in 0..200 {
                sim.run(sim.now + 100);
                assert!(nobody(sim), "{}", sim.failed());
            }
            for at in sim.alive() {
                assert!(state(sim, at, node).is_some_and(NodeState::is_up), "{}: n{at}", sim.failed());
                assert_eq!(shown(sim, at).len(), 4, "{}: n{at}", sim.failed());
                let what = trouble(sim, at, node);
                assert!(what.is_empty() || what.contains("clock"), "{}: n{at}: {what}", sim.failed());
            }
        };
        // The same node again, at once, its clock behind or ahead.
        for jump in [0, -3_600_000, 7_200_000] {
            sim.crash(1);
            sim.jump(1, jump);
            sim.start(1);
            settle(&mut sim, 1, &name(1));
        }
        // The same name at a new address, while the old run is not yet down.
        sim.crash(1);
        sim.start_as(LATER, name(1), address(LATER));
        settle(&mut sim, LATER, &name(1));
        // A new name at the old address.
        let renamed = Name::new("renamed").expect("good");
        sim.crash(LATER);
        sim.start_as(LATER, renamed.clone(), address(LATER));
        settle(&mut sim, LATER, &renamed);
    }
}
