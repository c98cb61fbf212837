//! Paths that carry less than they should are told.

use crate::{
    talk::until,
    world::{Underlay, World, permitted},
};
use mesh_agent::{
    overlay::{OverlayHandle, spawn},
    sys::ethtool,
};
use std::{sync::Arc, thread, time::Duration};
use tokio::{
    runtime::Builder,
    sync::{oneshot, watch},
};

/// Runs a test inside node 0's namespace, with the overlay running there and on node 1.
pub(crate) fn with_both<F>(world: &mut World, test: F)
where
    F: AsyncFnOnce(&World, &OverlayHandle) + Send,
{
    for node in &mut world.nodes {
        node.config.probe_interval = Duration::from_millis(500);
    }
    let world = &*world;
    let (stop, stopped) = oneshot::channel::<()>();
    let start = |me: usize| {
        let (snapshots, follow) = watch::channel(Arc::new(world.snapshot(me, 2)));
        (spawn(world.nodes[me].config.clone(), follow).unwrap(), snapshots)
    };
    let run = |me: usize, work: &mut (dyn FnMut(&tokio::runtime::Runtime) + Send)| {
        let inside = || work(&Builder::new_current_thread().enable_all().build().unwrap());
        world.nodes[me].netns.run(inside).unwrap();
    };
    thread::scope(|scope| {
        let (mut stopped, mut test) = (Some(stopped), Some(test));
        scope.spawn(move || {
            run(1, &mut |runtime| {
                runtime.block_on(async {
                    let _running = start(1);
                    // Also when the test fails: the sender goes with it.
                    let _ = stopped.take().unwrap().await;
                });
            });
        });
        run(0, &mut |runtime| {
            runtime.block_on(async {
                let (handle, _snapshots) = start(0);
                test.take().unwrap()(world, &handle).await;
            });
        });
        drop(stop);
    });
}

#[test]
fn a_path_that_swallows_full_packets_is_told_until_it_carries_them() {
    if !permitted() {
        return;
    }
    for (underlay, mtu) in [(Underlay::V4, 1400), (Underlay::V6, 1420)] {
        let mut world = World::new(2, underlay);
        with_both(&mut world, async |world, handle| {
            let status = handle.status();
            world.narrow(1, mtu);
            let told = format!("packets of 1500 bytes get lost on the way to n1, those of {mtu} arrive");
            until(&told, || status.borrow().paths.iter().any(|path| path.starts_with(&told))).await;
            world.narrow(1, 1500);
            until("the path is whole", || status.borrow().paths.is_empty()).await;
        });
    }
}

#[test]
fn an_overlay_that_does_not_get_through_is_told_and_checksums_are_tried() {
    if !permitted() {
        return;
    }
    let mut world = World::new(2, Underlay::V4);
    world.nodes[1].config.vni += 1;
    with_both(&mut world, async |_, handle| {
        let status = handle.status();
        let told = "n1 is reached on the underlay and not through the overlay";
        until(told, || status.borrow().paths.iter().any(|path| path.starts_with(told))).await;
        // That was not why, so they are left to the hardware again.
        assert!(ethtool::tx_checksum("mesh-vx").unwrap());
        ethtool::set_tx_checksum("mesh-vx", false).unwrap();
        assert!(!ethtool::tx_checksum("mesh-vx").unwrap());
        assert!(ethtool::set_tx_checksum("no-such", true).unwrap_err().to_string().contains("no-such"));
    });
}
