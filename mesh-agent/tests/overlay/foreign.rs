//! What is not ours stays as it is, to the byte.

use crate::world::{BOTH, Node, Underlay, World, permitted, same, steady};
use mesh_agent::{overlay::apply::apply, sys::rtnl::Rtnl};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};

const SYSCTLS: [&str; 6] = [
    "ipv4/ip_forward",
    "ipv4/conf/all/send_redirects",
    "ipv4/conf/all/rp_filter",
    "ipv6/conf/all/forwarding",
    "ipv6/conf/eth0/accept_ra",
    "ipv6/conf/eth0/forwarding",
];

/// All that another program could look at.
fn everything(node: &Node) -> Vec<String> {
    let mut text = String::new();
    for words in [
        "-d link show",
        "address show",
        "route show table all",
        "-6 route show table all",
        "rule show",
        "-6 rule show",
    ] {
        text += &node.run("ip", words);
    }
    text += &node.run("ip", "neigh show nud permanent");
    text += &node.run("bridge", "fdb show");
    for key in SYSCTLS {
        text += &node.run("cat", &format!("/proc/sys/net/{key}"));
    }
    steady(&text)
}

fn foreigner(node: &Node) {
    for words in [
        "link add br-other type bridge",
        "link set br-other up",
        "address add 10.9.0.1/24 dev br-other",
        "link add vx-other type vxlan id 4096 local 192.0.2.1 dstport 4789 nolearning",
        "link set vx-other up",
        "neigh add 10.9.0.9 lladdr 02:00:00:00:00:09 dev br-other nud permanent",
        "route add 10.10.0.0/16 via 10.9.0.2",
        "route add 10.11.0.0/16 dev br-other proto 77",
        "route add 10.12.0.0/16 via 10.9.0.2 table 77",
        "route add 2001:db8:9::/48 dev vx-other metric 5",
        "rule add priority 76 fwmark 0x1/0x1 lookup 77",
        "rule add priority 77 from 10.9.0.0/24 lookup main",
    ] {
        node.run("ip", words);
    }
    node.run("bridge", "fdb add 02:00:00:00:00:0a dev vx-other dst 192.0.2.77");
}

#[test]
fn cleanup_leaves_what_was_there_before() {
    if !permitted() {
        return;
    }
    let world = World::new(2, Underlay::V4);
    let node = &world.nodes[0];
    foreigner(node);
    let before = everything(node);
    world.apply_all();
    let (_container, _) = world.container(0);
    let during = everything(node);
    for line in ["10.10.0.0/16 via 10.9.0.2", "10.12.0.0/16 via 10.9.0.2", "02:00:00:00:00:0a dev vx-other"] {
        assert!(during.iter().any(|l| l.starts_with(line)), "{line} is gone:\n{during:#?}");
    }
    assert!(!node.teardown().is_empty());
    same(&everything(node), &before);
    assert!(node.teardown().is_empty(), "twice is once");
}

#[test]
fn a_link_of_somebody_else_is_named_and_left_alone() {
    if !permitted() {
        return;
    }
    for (link, field) in [("mesh0 type bridge", "overlay.bridge"), ("mesh-vx type dummy", "overlay.device")] {
        let world = World::new(1, Underlay::V4);
        let node = &world.nodes[0];
        let link = link.replace("type dummy", "type veth peer name other");
        node.run("ip", &format!("link add {link}"));
        let before = everything(node);
        let error = node.apply(&world.snapshot(0, 2)).unwrap_err().to_string();
        assert!(error.contains(field) && error.contains("not this program's"), "{error}");
        same(&everything(node), &before);
        node.teardown();
        same(&everything(node), &before);
    }
}

#[test]
fn without_privileges_the_reason_is_told() {
    if !permitted() {
        return;
    }
    let world = World::new(1, Underlay::V4);
    let node = &world.nodes[0];
    let snapshot = world.snapshot(0, 2);
    // The capabilities are the thread's, which ends right after.
    let apply = || {
        let none = CapabilitySets {
            effective: CapabilitySet::empty(),
            permitted: CapabilitySet::empty(),
            inheritable: CapabilitySet::empty(),
        };
        set_capabilities(None, none).unwrap();
        apply(&mut Rtnl::open().unwrap(), &node.config, &snapshot, &BOTH.into()).unwrap_err().to_string()
    };
    let error = node.netns.run(apply).unwrap();
    assert!(error.starts_with("make link mesh0") && error.contains("CAP_NET_ADMIN"), "{error}");
}

#[test]
fn parameters_that_somebody_changed_since_are_not_put_back() {
    if !permitted() {
        return;
    }
    let world = World::new(1, Underlay::V4);
    let node = &world.nodes[0];
    world.apply(0, 1);
    let value = |key: &str| node.run("cat", &format!("/proc/sys/net/{key}")).trim().to_owned();
    assert_eq!((value("ipv4/ip_forward"), value("ipv6/conf/all/forwarding")), ("1".into(), "1".into()));
    // A router takes routers' word only when told to, and the host's default route may come from one.
    assert_eq!(value("ipv6/conf/eth0/accept_ra"), "2");
    node.netns.run(|| std::fs::write("/proc/sys/net/ipv4/conf/all/send_redirects", "1")).unwrap().unwrap();
    node.teardown();
    assert_eq!(value("ipv4/ip_forward"), "0");
    assert_eq!(value("ipv6/conf/all/forwarding"), "0");
    assert_eq!(value("ipv6/conf/eth0/accept_ra"), "1");
    assert_eq!(value("ipv4/conf/all/send_redirects"), "1");
}
