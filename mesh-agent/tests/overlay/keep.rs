//! The task: it repairs what others break, and a restart of it changes nothing.

use crate::{
    talk::{ping, until},
    world::{Underlay, World, name, permitted, request, same, steady},
};
use mesh_agent::overlay::{OverlayHandle, spawn};
use mesh_control::model::Snapshot;
use std::{net::IpAddr, sync::Arc};
use tokio::sync::watch;

/// Runs a test on a runtime inside node 0's namespace, with node 1 programmed and a container there.
fn with_task<F>(test: F)
where
    F: AsyncFnOnce(&World, OverlayHandle, watch::Sender<Arc<Snapshot>>, IpAddr) + Send,
{
    if !permitted() {
        return;
    }
    let world = World::new(2, Underlay::V4);
    world.apply(1, 2);
    let (_container, attached) = world.container(1);
    let far = attached.lease.addresses[0];
    let work = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (snapshots, follow) = watch::channel(Arc::new(world.snapshot(0, 2)));
            let handle = spawn(world.nodes[0].config.clone(), follow).unwrap();
            test(&world, handle, snapshots, far).await;
        });
    };
    world.nodes[0].netns.run(work).unwrap();
}

async fn ready(handle: &OverlayHandle) {
    let status = handle.status();
    until("the overlay stands", || status.borrow().plan.is_some()).await;
}

#[test]
fn what_others_break_is_repaired_without_a_restart() {
    with_task(async |world, handle, _snapshots, far| {
        ready(&handle).await;
        let node = &world.nodes[0];
        ping(&node.netns, far).unwrap();
        let whole =
            || node.run("ip", "route show proto 77 table all") + &node.run("bridge", "fdb show dev mesh-vx");
        let routes = whole();
        for breach in [
            "link set mesh-vx down",
            "link set mesh0 down",
            "link delete mesh-vx",
            "link delete mesh0",
            "address del 10.128.0.1/24 dev mesh0",
            "rule del priority 77",
            "route del 10.128.1.0/24",
            "neigh del 10.128.1.1 dev mesh-vx",
            "link set mesh-vx mtu 1000",
            "link set eth0 down",
        ] {
            let repairs = handle.status().borrow().repairs;
            node.run("ip", breach);
            if breach.contains("eth0") {
                node.run("ip", "link set eth0 up");
            } else {
                let status = handle.status();
                until(breach, || status.borrow().repairs > repairs).await;
            }
            until(breach, || whole() == routes).await;
            ping(&node.netns, far).unwrap_or_else(|e| panic!("{breach}: {e}"));
        }
        assert!(node.run("ip", "rule show").contains("fwmark 0x4d000000/0xff000000 lookup 77"));
        assert!(handle.pending().await.unwrap().is_empty());
    });
}

#[test]
fn parameters_that_others_change_are_seen_to_at_once() {
    with_task(async |world, handle, _snapshots, far| {
        ready(&handle).await;
        let node = &world.nodes[0];
        let at = |key: &str| format!("/proc/sys/net/ipv4/{key}");
        let write =
            |key: &str, value: &str| node.netns.run(|| std::fs::write(at(key), value)).unwrap().unwrap();
        let read = |key: &str| node.netns.run(|| std::fs::read_to_string(at(key))).unwrap().unwrap();
        // Where the host looks at nobody's sender, nor does the overlay; where it is strict, the overlay is loose.
        for (all, wanted) in [("0", "0"), ("1", "2"), ("2", "2"), ("0", "0")] {
            write("conf/all/rp_filter", all);
            until(all, || read("conf/mesh-vx/rp_filter").trim() == wanted).await;
        }
        write("ip_forward", "0");
        until("it forwards again", || read("ip_forward").trim() == "1").await;
        ping(&node.netns, far).unwrap();
        assert!(handle.pending().await.unwrap().is_empty());
    });
}

#[test]
fn containers_come_back_onto_a_bridge_that_was_deleted() {
    with_task(async |world, handle, _snapshots, _| {
        ready(&handle).await;
        let node = &world.nodes[0];
        let netns = mesh_agent::sys::netns::Netns::new().unwrap();
        let attached = handle.attach(request(&netns)).await.unwrap();
        let address = attached.lease.addresses[0];
        ping(&node.netns, address).unwrap();
        node.run("ip", "link delete mesh0");
        until("the port is back", || node.run("bridge", "link show").contains(&attached.port)).await;
        ping(&node.netns, address).unwrap();
        assert_eq!(handle.attachments().await.unwrap(), [attached]);
        assert!(handle.detach(netns.path(), "eth0".into()).await.unwrap());
        assert!(handle.attachments().await.unwrap().is_empty());
    });
}

#[test]
fn a_restart_writes_nothing_and_a_stop_removes_nothing() {
    with_task(async |world, handle, snapshots, far| {
        ready(&handle).await;
        let node = &world.nodes[0];
        let all = || {
            let links = node.run("ip", "-d link show") + &node.run("ip", "address show");
            steady(
                &(links
                    + &node.run("ip", "route show table all")
                    + &node.run("bridge", "fdb show dev mesh-vx")),
            )
        };
        let before = all();
        drop(handle);
        same(&all(), &before);
        // As an agent starts: it knows neither its own subnet nor the others yet.
        snapshots.send_replace(Arc::new(Snapshot::empty(name(0))));
        let handle = spawn(node.config.clone(), snapshots.subscribe()).unwrap();
        let status = handle.status();
        until("a first pass", || status.borrow().passes > 0).await;
        same(&all(), &before);
        snapshots.send_replace(Arc::new(world.snapshot(0, 2)));
        ready(&handle).await;
        assert_eq!(handle.status().borrow().steps, 0);
        same(&all(), &before);
        ping(&node.netns, far).unwrap();
        // Then a node that lost its subnet to another gives it up.
        let mut lost = world.snapshot(0, 2);
        lost.set_own_subnets(Vec::new());
        snapshots.send_replace(Arc::new(lost));
        until("the gateway is given up", || !all().concat().contains("10.128.0.1/24")).await;
    });
}
