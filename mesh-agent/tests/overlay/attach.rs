//! Namespaces on the bridge.

use crate::world::{Underlay, World, output, permitted, request, rtnl, subnets};
use mesh_agent::{
    overlay::{
        AttachError, AttachRequest,
        attach::{Containers, Ground, attachments, detach, ports},
        leases::Lease,
    },
    sys::{netns::Netns, rtnl::LinkChange},
};
use std::{net::IpAddr, path::Path};

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn attaching_twice_is_once_and_addresses_are_given_back() {
    if !permitted() {
        return;
    }
    let world = World::new(1, Underlay::V4);
    world.apply_all();
    let node = &world.nodes[0];
    let plan = world.plan(0);
    let (one, first) = world.container(0);
    assert_eq!(first.lease.addresses, [address("10.128.0.2"), address("fd00:4d::2")]);
    assert_eq!(first.gateways, [address("10.128.0.1"), address("fd00:4d::1")]);
    assert_eq!(world.attach(0, &request(&one)).unwrap(), first);
    let (two, second) = world.container(0);
    assert_eq!(second.lease.addresses[0], address("10.128.0.3"));
    let both = node.rtnl(|rtnl| attachments(rtnl, &plan).unwrap());
    assert_eq!(both.len(), 2);

    assert!(node.rtnl(|rtnl| detach(rtnl, &one.path(), "eth0").unwrap()));
    assert!(!node.rtnl(|rtnl| detach(rtnl, &one.path(), "eth0").unwrap()), "gone already, which is no error");
    assert_eq!(output(&one, "ip", "-o link show").lines().count(), 1, "only lo is left");
    // The end of the namespace is the end of the lease.
    drop(two);
    let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while !node.rtnl(|rtnl| attachments(rtnl, &plan).unwrap().is_empty()) {
        assert!(std::time::Instant::now() < end, "the port outlives its namespace");
        std::thread::park_timeout(std::time::Duration::from_millis(5));
    }
    assert!(!node.rtnl(|rtnl| detach(rtnl, Path::new("/nowhere"), "eth0").unwrap()));
}

#[test]
fn wishes_are_met_or_refused_with_the_fix() {
    if !permitted() {
        return;
    }
    let world = World::new(1, Underlay::V4);
    world.apply_all();
    let netns = Netns::new().unwrap();
    let wish = |address: &str| AttachRequest { address: Some(address.parse().unwrap()), ..request(&netns) };
    for (wrong, word) in
        [("10.128.0.1", "choose one"), ("10.128.0.255", "choose one"), ("10.128.9.9", "10.128.0.0/24")]
    {
        let error = world.attach(0, &wish(wrong)).unwrap_err().to_string();
        assert!(error.starts_with("address: ") && error.contains(word), "{error}");
    }
    let attached = world.attach(0, &wish("10.128.0.77")).unwrap();
    assert_eq!(attached.lease.addresses, [address("10.128.0.77"), address("fd00:4d::2")]);
    let other = Netns::new().unwrap();
    let same = AttachRequest { address: Some(address("10.128.0.77")), ..request(&other) };
    assert!(matches!(world.attach(0, &same), Err(AttachError::Taken(_))));
    let twice = AttachRequest { address: Some(address("10.128.0.78")), ..request(&netns) };
    assert!(matches!(world.attach(0, &twice), Err(AttachError::Taken(_))));
    output(&other, "ip", "link add eth0 type veth peer name x");
    let error = world.attach(0, &request(&other)).unwrap_err().to_string();
    assert!(error.starts_with("name: ") && error.contains("eth0"), "{error}");
    let nowhere = AttachRequest { netns: "/nowhere".into(), ..request(&other) };
    assert!(world.attach(0, &nowhere).unwrap_err().to_string().starts_with("netns: /nowhere"), "{nowhere:?}");
    let file = AttachRequest { netns: "/etc/hostname".into(), ..request(&other) };
    assert!(world.attach(0, &file).is_err());
    for bad in ["", "a b", "sixteen-letters-", "a/b", ".."] {
        let bad = AttachRequest { name: bad.into(), ..request(&other) };
        assert!(world.attach(0, &bad).unwrap_err().to_string().starts_with("name: "), "{bad:?}");
    }
    let ports = world.nodes[0].rtnl(|rtnl| ports(rtnl).unwrap());
    assert_eq!(ports.len(), 1, "what is refused leaves nothing");
}

#[test]
fn a_container_with_a_way_out_keeps_it() {
    if !permitted() {
        return;
    }
    let world = World::new(1, Underlay::V4);
    world.apply_all();
    let netns = Netns::new().unwrap();
    for words in [
        "link add out type veth peer name x",
        "link set out up",
        "link set x up",
        "address add 172.16.0.2/24 dev out",
        "route add default via 172.16.0.1",
    ] {
        output(&netns, "ip", words);
    }
    world.attach(0, &request(&netns)).unwrap();
    let routes = output(&netns, "ip", "route show");
    assert!(routes.contains("default via 172.16.0.1 dev out"), "{routes}");
    assert!(routes.contains("10.128.0.0/14 via 10.128.0.1 dev eth0"), "{routes}");
}

#[test]
fn duplicates_and_addresses_of_a_lost_subnet_are_repaired() {
    if !permitted() {
        return;
    }
    let world = World::new(1, Underlay::V4);
    world.apply_all();
    let node = &world.nodes[0];
    let (_one, first) = world.container(0);
    let (two, second) = world.container(0);
    let forged = Lease { addresses: first.lease.addresses.clone(), ..second.lease.clone() };
    node.rtnl(|rtnl| {
        let port = rtnl.link(&second.port).unwrap().unwrap().index;
        rtnl.change_link(port, LinkChange::Alias(&forged.alias())).unwrap();
    });
    let repair = |snapshot| {
        let plan = node.apply(snapshot).unwrap().plan;
        let ground = Ground { plan: &plan, networks: &node.config.networks, snapshot };
        node.rtnl(|rtnl| Containers::default().repair(rtnl, ground).unwrap())
    };
    let held =
        || node.rtnl(|rtnl| ports(rtnl).unwrap()).into_iter().map(|(_, lease)| lease).collect::<Vec<_>>();
    let snapshot = world.snapshot(0, 1);
    let (done, failed) = repair(&snapshot);
    assert_eq!((done.len(), failed.len()), (1, 0), "{done:?} {failed:?}");
    let leases = held();
    assert!(leases.contains(&first.lease), "the older one keeps its address");
    let renewed = leases.iter().find(|lease| **lease != first.lease).unwrap();
    assert!(renewed.addresses[0] != first.lease.addresses[0]);
    let shown = output(&two, "ip", "address show dev eth0");
    assert!(shown.contains(&format!("{}/32", renewed.addresses[0])), "{shown}");
    assert!(repair(&snapshot).0.is_empty());

    let mut moved = world.snapshot(0, 1);
    moved.set_own_subnets(subnets(5));
    let (done, failed) = repair(&moved);
    assert_eq!((done.len(), failed.len()), (2, 0), "{done:?} {failed:?}");
    assert!(held().iter().all(|lease| subnets(5)[0].contains(lease.addresses[0])), "{:?}", held());
    let routes = output(&two, "ip", "route show");
    assert!(routes.contains("default via 10.128.5.1"), "{routes}");
    let shown = output(&two, "ip", "-o address show dev eth0 scope global");
    assert_eq!(shown.lines().count(), 2, "{shown}");
    rtnl(&two, |rtnl| assert!(rtnl.link("eth0").unwrap().unwrap().up));
}
