//! A thousand peers, and peers that come, move and go.

use crate::world::{Underlay, World, name, permitted};
use mesh_control::model::NodeState;
use std::sync::Arc;

#[test]
fn a_thousand_peers_are_programmed_once_and_changed_one_at_a_time() {
    if !permitted() {
        return;
    }
    let world = World::new(1, Underlay::V4);
    let node = &world.nodes[0];
    let first = world.apply(0, 1000);
    // A forwarding entry, and a neighbour and a route in each family.
    assert!(first.done.len() > 999 * 5, "{}", first.done.len());
    assert_eq!(node.run("bridge", "fdb show dev mesh-vx").lines().count(), 999);
    let again = world.apply(0, 1000);
    assert_eq!(again.done, Vec::<String>::new());

    let mut snapshot = world.snapshot(0, 1000);
    let mut down = world.view(500);
    down.state = NodeState::Down;
    snapshot.set_node(name(500), Some(Arc::new(down)));
    assert_eq!(node.apply(&snapshot).unwrap().done, Vec::<String>::new(), "who is down keeps its route");

    let mut moved = world.view(500);
    moved.info.addresses.set("192.0.3.250".parse().unwrap());
    snapshot.set_node(name(500), Some(Arc::new(moved)));
    let done = node.apply(&snapshot).unwrap().done;
    assert!(done.len() == 1 && done[0].ends_with("to 192.0.3.250"), "{done:?}");

    snapshot.set_node(name(500), None);
    assert_eq!(node.apply(&snapshot).unwrap().done.len(), 5, "who is forgotten loses all of it");
    assert_eq!(node.apply(&snapshot).unwrap().done, Vec::<String>::new());
}
