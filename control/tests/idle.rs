//! What a mesh costs while nothing happens.

mod sim;

use sim::{Sim, Weather};

const LAN: Weather = Weather { loss: 0.0, duplicates: 0.0, delay: 2, skew: 1_000 };

/// Bytes a node and second of a settled mesh: datagrams, frames; with the headers of IPv4, UDP and TCP (a connection
/// counted as ten segments of 40 bytes).
fn idle(nodes: usize) -> (f64, f64, f64) {
    let mut sim = Sim::new(1, nodes, "10.96.0.0/16", LAN);
    for i in 0..nodes {
        sim.start(i);
        sim.run(sim.now + 10);
    }
    sim.run(sim.now + 60_000);
    let (before, seconds) = (sim.traffic, 120);
    sim.run(sim.now + seconds * 1_000);
    let of = |i: usize| (sim.traffic[i] - before[i]) as f64 / (nodes as f64 * seconds as f64);
    let wire = of(1) + of(0) * 28.0 + of(3) + of(2) * 400.0;
    println!(
        "{nodes} nodes: {:.0} B/s in {:.2} datagrams, {:.0} B/s of frames in {:.3} connections; {wire:.0} on the wire",
        of(1),
        of(0),
        of(3),
        of(2)
    );
    (of(1), of(3), wire)
}

#[test]
fn an_idle_node_says_little_in_a_small_mesh_and_in_a_large_one() {
    let sizes: &[usize] =
        if std::env::var_os("SIM_LARGE").is_some() { &[10, 30, 100, 300] } else { &[10, 30] };
    for nodes in sizes {
        let (_, _, wire) = idle(*nodes);
        assert!(wire < 300.0, "{nodes} nodes");
    }
}
