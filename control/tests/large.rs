//! Meshes of a thousand nodes, each a whole one. To see one again, or others:
//! `cargo run --release -p mesh-control --example sim -- --scenario large --nodes 1000 --seed 1`.

mod sim;

fn thousand(seed: u64) {
    let (sim, figures) = sim::large::tell(seed, 1_000);
    println!("seed {seed}, trace {:016x}", sim.trace);
    for figure in figures {
        println!("  {figure:?}");
    }
}

#[test]
fn a_thousand_nodes_1() {
    thousand(1);
}

#[test]
fn a_thousand_nodes_2() {
    thousand(2);
}

#[test]
fn a_thousand_nodes_3() {
    thousand(3);
}
