//! What a large mesh costs and how fast it is.

use super::{
    Sim, Weather,
    figures::{Figure, figure, median_and_worst},
    name,
    parts::{announce, put_plain, service},
};
use mesh_control::model::Origin;

/// A local network.
const LAN: Weather = Weather { loss: 0.0, duplicates: 0.0, delay: 2, skew: 1_000 };
/// How long the mesh is split, in milliseconds.
const SPLIT: u64 = 120_000;
/// Larger meshes are measured at rest and by updates only: with many endpoints a node takes 10 MB in here.
const WHOLE: usize = 1_000;
/// Endpoints that each node announces in the bulk part.
const ENDPOINTS: usize = 10;

/// Starts `nodes` nodes, ten milliseconds apart, and lets them rest.
pub(crate) fn mesh(seed: u64, nodes: usize) -> Sim {
    let mut sim = Sim::new(seed, nodes, "10.96.0.0/16", LAN);
    sim.keeping = false;
    for i in 0..nodes {
        sim.start(i);
        sim.run(sim.now + 10);
    }
    let took = sim.time_until_equal(300_000, 100);
    sim.run(sim.now + 30_000u64.saturating_sub(took));
    sim
}

/// Measures a mesh of full nodes: at rest, an update, many endpoints, a split. `told` hears of each part.
pub(crate) fn measure(seed: u64, nodes: usize, mut told: impl FnMut(&Sim, &str)) -> (Sim, Vec<Figure>) {
    let mut figures = Vec::new();
    let mut sim = mesh(seed, nodes);
    sim.replay = format!(
        "cargo run --release -p mesh-control --example sim -- --scenario scale --nodes {nodes} --seed {seed}"
    );
    told(&sim, "started");
    figures.push(figure("at rest, bytes sent", sim.idle_bytes(60), "B/node/s", None));
    told(&sim, "at rest");

    let times = (0..5).flat_map(|n| {
        let times = sim.time_update(n * nodes / 5, n);
        sim.run(sim.now + 5_000);
        times
    });
    let (median, worst) = median_and_worst(times.collect());
    figures.push(figure("one update, median node", median, "s", None));
    figures.push(figure("one update, last node", worst, "s", Some(1.0)));
    told(&sim, "updates");
    if nodes > WHOLE {
        return (sim, figures);
    }

    figures.extend(halves(&mut sim));
    told(&sim, "split");
    figures.extend(bulk(&mut sim));
    told(&sim, "bulk");
    (sim, figures)
}

/// Splits the mesh in halves, lets both work, and heals it.
fn halves(sim: &mut Sim) -> Vec<Figure> {
    let nodes = sim.len();
    sim.split((0..nodes).map(|i| u8::from(i % 2 == 1)).collect());
    for s in 0..40 {
        sim.submit(s % nodes, vec![put_plain(Origin::Cluster, service(1_000_000 + s))]);
        sim.run(sim.now + SPLIT / 40);
    }
    let down = sim.view(0).nodes.values().filter(|n| !n.state.is_up()).count();
    sim.heal();
    let before = sim.traffic;
    let took = sim.time_until_equal(300_000, 100);
    let bytes = (sim.traffic[1] - before[1] + sim.traffic[3] - before[3]) as f64 / nodes as f64;
    sim.check_claims("after the split");
    vec![
        figure("split of 120 s, nodes seen down by node 0", down as f64, "nodes", None),
        figure("heal to equal views and unique VIPs", took as f64 / 1_000.0, "s", Some(15.0)),
        figure("heal, bytes sent", bytes / 1_000.0, "kB/node", None),
    ]
}

/// All nodes announce ten endpoints at once, of as many services as there are nodes.
fn bulk(sim: &mut Sim) -> Vec<Figure> {
    let nodes = sim.len();
    let idle = sim.idle_bytes(10);
    let bytes_of_state = |sim: &Sim| sim.node(0).kept(sim.time(0)).len() as f64;
    let size_before = bytes_of_state(sim);
    let (before, records) = (sim.traffic, sim.record_bytes);
    for i in 0..nodes {
        let mut changes = vec![put_plain(Origin::Node(name(i)), service(2_000_000 + i))];
        changes.extend((0..ENDPOINTS).map(|k| announce(i, service(2_000_000 + (i + k) % nodes), 1)));
        sim.submit(i, changes);
    }
    let all = ENDPOINTS * nodes;
    let times = sim.times(120_000, 50, "all endpoints", |sim, i| {
        let services = sim.view(i).services.values();
        services.map(|s| s.endpoints.len()).sum::<usize>() == all
    });
    let (median, worst) = median_and_worst(times);
    let state = bytes_of_state(sim) - size_before;
    let of_nodes = |bytes: u64| bytes as f64 / nodes as f64;
    let datagrams = of_nodes(sim.traffic[1] - before[1]) - idle * worst;
    let frames = of_nodes(sim.traffic[3] - before[3]);
    let records = of_nodes(sim.record_bytes - records);
    vec![
        figure("endpoints announced at once", all as f64, "endpoints", None),
        figure("all endpoints, median node", median, "s", None),
        figure("all endpoints, last node", worst, "s", Some(8.0)),
        figure("their records", state / 1_000.0, "kB", None),
        figure("records received, of their size", (records + datagrams) / state, "×", Some(1.5)),
        figure("of that by datagram", datagrams / state, "×", None),
        figure("with listings and hashes", (frames + datagrams) / state, "×", None),
    ]
}
