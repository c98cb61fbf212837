use crate::world::{Underlay, World, permitted};

#[test]
fn probe() {
    if !permitted() {
        return;
    }
    for underlay in [Underlay::V4, Underlay::V6] {
        let world = World::new(2, underlay);
        for i in 0..2 {
            let applied = world.apply(i, 2);
            println!("{:#?}", applied.done);
            assert!(applied.failed.is_empty(), "{:#?}", applied.failed);
            let again = world.apply(i, 2);
            assert!(again.done.is_empty() && again.failed.is_empty(), "{again:#?}");
        }
        let (done, failed) = world.nodes[0].teardown();
        println!("{done:#?} {failed:#?}");
    }
}
