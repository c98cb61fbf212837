//! The pure parts. What the kernel makes of them: `tests/overlay/`.

use super::{
    config::OverlayConfig,
    leases::{Lease, allocate, is_link_name, misfits, usable},
    plan::{RETURN_MAC, gateway, plan},
    step::{Change, Observed, Step, Underlay, removal, steps},
    sysctls,
    thing::Thing,
    vtep,
};
use crate::sys::rtnl::{Kind, Link, Vxlan};
use ipnetwork::IpNetwork;
use mesh_control::model::{Addresses, Family, Name, NodeInfo, NodeState, NodeView, Snapshot};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

const BOTH: [Family; 2] = [Family::V4, Family::V6];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn net(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

fn config() -> OverlayConfig {
    OverlayConfig {
        networks: vec![net("10.128.0.0/14"), net("fd00:4d::/48")],
        vip_cidrs: vec![net("10.96.0.0/16"), net("fd00:96::/112")],
        underlay: ip("192.0.2.1").into(),
        vni: OverlayConfig::VNI,
        port: OverlayConfig::PORT,
        bridge: "mesh0".into(),
        device: "mesh-vx".into(),
        audit_interval: OverlayConfig::AUDIT,
        probe_port: OverlayConfig::PROBE_PORT,
        probe_interval: OverlayConfig::PROBE,
        encryption: None,
        ipvs: false,
    }
}

fn node(snapshot: &mut Snapshot, name: &str, addresses: &[&str], subnets: &[&str]) {
    let mut own = Addresses::default();
    addresses.iter().for_each(|a| own.set(ip(a)));
    let name = Name::new(name).unwrap();
    let view = NodeView {
        name: name.clone(),
        info: NodeInfo { addresses: own, ..NodeInfo::default() },
        gossip: None,
        state: NodeState::Alive,
        subnets: subnets.iter().map(|s| net(s)).collect(),
    };
    snapshot.set_node(name, Some(Arc::new(view)));
}

/// Two nodes with both families.
fn snapshot() -> Snapshot {
    let mut s = Snapshot::empty(Name::new("a").unwrap());
    node(&mut s, "a", &["192.0.2.1"], &["10.128.1.0/24", "fd00:4d:0:1::/64"]);
    node(&mut s, "b", &["192.0.2.2", "2001:db8::2"], &["10.128.2.0/24", "fd00:4d:0:2::/64"]);
    s.set_own_subnets(vec![net("10.128.1.0/24"), net("fd00:4d:0:1::/64")]);
    s
}

fn texts(things: &BTreeSet<Thing>) -> Vec<String> {
    things.iter().map(ToString::to_string).collect()
}

#[test]
fn a_peer_is_an_entry_a_neighbour_and_a_route() {
    let plan = plan(&snapshot(), &config(), ip("192.0.2.1"), 1500);
    assert_eq!((plan.bridge.mtu, plan.vxlan.mtu), (1450, 1450));
    assert!(plan.problems.is_empty());
    let mac = vtep::vtep(&Name::new("b").unwrap());
    assert_eq!(
        texts(&plan.things(1, 2)),
        [
            "address 10.128.1.1/24",
            "address fd00:4d:0:1::1/64",
            "address 10.128.1.0/32",
            &format!("neighbour 10.128.2.1 at {mac}"),
            &format!("neighbour 169.254.77.77 at {RETURN_MAC}"),
            &format!("neighbour fd00:4d:0:2::1 at {mac}"),
            &format!("neighbour fe80::4d:4d at {RETURN_MAC}"),
            &format!("forwarding entry {mac} to 192.0.2.2"),
            "route 0.0.0.0/0 via 169.254.77.77 in table 77",
            "route ::/0 via fe80::4d:4d in table 77",
            "route 10.96.0.0/16",
            "route 10.128.2.0/24 via 10.128.2.1",
            "route fd00:4d:0:2::/64 via fd00:4d:0:2::1",
            "route fd00:96::/112",
            "rule 77 fwmark 0x4d000000/0xff000000 lookup 77",
            "rule 77 fwmark 0x4d000000/0xff000000 lookup 77",
        ]
    );
}

#[test]
fn the_underlays_family_is_this_nodes() {
    let mut s = snapshot();
    node(&mut s, "c", &["192.0.2.3"], &["10.128.3.0/24"]);
    let six = plan(&s, &config(), ip("2001:db8::1"), 1500);
    assert_eq!(six.bridge.mtu, 1430);
    assert_eq!(six.peers.len(), 1);
    assert_eq!(six.peers[0].underlay, ip("2001:db8::2"));
    assert_eq!(six.problems, ["c has no IPv6 address in node.address, which this node sends from"]);
    assert!(plan(&s, &config(), ip("192.0.2.1"), 1300).problems[0].contains("make it 1330 or more"));
}

#[test]
fn without_a_subnet_of_a_family_nothing_of_it_is_there() {
    let mut s = snapshot();
    s.set_own_subnets(vec![net("10.128.1.0/24")]);
    let things = plan(&s, &config(), ip("192.0.2.1"), 1500).things(1, 2);
    assert!(things.iter().all(|thing| thing.family() != Some(Family::V6)), "{:#?}", texts(&things));
    s.set_own_subnets(Vec::new());
    let things = plan(&s, &config(), ip("192.0.2.1"), 1500).things(1, 2);
    assert!(things.iter().all(|thing| matches!(thing, Thing::Fdb(_))));
}

#[test]
fn loopback_vips_get_no_route() {
    let config = OverlayConfig { vip_cidrs: vec![net("127.96.0.0/16")], ..config() };
    assert!(plan(&snapshot(), &config, ip("192.0.2.1"), 1500).vips.is_empty());
    let local = |address: &str| OverlayConfig { underlay: ip(address).into(), ..config.clone() }.local();
    assert_eq!((local("127.0.0.5"), local("192.0.2.1")), (None, Some(ip("192.0.2.1"))));
}

#[test]
fn of_two_names_with_one_address_the_first_stays() {
    // Found by trying names.
    let (first, second) = ("node-2044062", "node-2159912");
    let mac = vtep::vtep(&Name::new(first).unwrap());
    assert_eq!(mac, vtep::vtep(&Name::new(second).unwrap()));
    let mut s = snapshot();
    node(&mut s, first, &["192.0.2.3"], &["10.128.3.0/24"]);
    node(&mut s, second, &["192.0.2.4"], &["10.128.4.0/24"]);
    let plan = plan(&s, &config(), ip("192.0.2.1"), 1500);
    let names: Vec<&str> = plan.peers.iter().map(|peer| peer.node.as_str()).collect();
    let stays = first.min(second);
    assert_eq!(names, ["b", stays]);
    let gone = first.max(second);
    assert_eq!(plan.problems, [format!("{gone} and {stays} derive the same address {mac}: rename {gone}")]);
}

fn link(index: u32, name: &str, kind: Kind, alias: Option<&str>) -> Link {
    let alias = alias.map(str::to_owned);
    Link { index, name: name.into(), kind, mac: None, mtu: 1450, up: true, master: None, alias }
}

/// A kernel that is as the plan says.
fn standing(snapshot: &Snapshot) -> Observed {
    let plan = plan(snapshot, &config(), ip("192.0.2.1"), 1500);
    let of = |new: &crate::sys::rtnl::NewLink, index, alias: &str| Link {
        mac: Some(new.mac),
        ..link(index, &new.name, new.kind.clone(), Some(alias))
    };
    let wanted =
        sysctls::of_links(&plan, &BTreeMap::new()).into_iter().chain(sysctls::of_host(&plan, "eth0"));
    Observed {
        bridge: Some(of(&plan.bridge, 1, "mesh-agent ipv4/ip_forward=0")),
        vxlan: Some(of(&plan.vxlan, 2, "mesh-agent")),
        things: plan.things(1, 2),
        sysctls: wanted.collect(),
    }
}

fn changes(observed: &Observed, snapshot: &Snapshot, settled: &[Family]) -> Result<Vec<Step>, String> {
    let plan = plan(snapshot, &config(), ip("192.0.2.1"), 1500);
    let underlay = Underlay { name: "eth0".into(), mtu: 1500 };
    steps(observed, &plan, &underlay, &settled.iter().copied().collect())
}

#[test]
fn what_stands_needs_no_step_and_what_differs_one() {
    let s = snapshot();
    let whole = standing(&s);
    assert_eq!(changes(&whole, &s, &BOTH), Ok(vec![]));

    let mut down = whole.clone();
    down.vxlan.as_mut().unwrap().up = false;
    let up = Step::ChangeLink { index: 2, name: "mesh-vx".into(), change: Change::Up };
    assert_eq!(changes(&down, &s, &BOTH), Ok(vec![up]));

    let mut old = whole.clone();
    let vxlan = Vxlan { vni: 9, port: 4789, local: ip("192.0.2.1"), learning: false };
    old.vxlan.as_mut().unwrap().kind = Kind::Vxlan(vxlan);
    let made: Vec<String> = changes(&old, &s, &BOTH).unwrap().iter().map(ToString::to_string).collect();
    assert!(made[0] == "remove link mesh-vx" && made[1].starts_with("make link mesh-vx"), "{made:?}");

    let mut moved = s.clone();
    node(&mut moved, "b", &["192.0.2.9"], &["10.128.2.0/24", "fd00:4d:0:2::/64"]);
    let step = changes(&whole, &moved, &BOTH).unwrap();
    assert!(
        matches!(step.as_slice(), [Step::Replace(Thing::Fdb(f))] if f.remote == ip("192.0.2.9")),
        "{step:?}"
    );
}

#[test]
fn a_family_that_is_not_settled_is_left_alone() {
    let (mut s, whole) = (snapshot(), standing(&snapshot()));
    s.set_own_subnets(vec![net("10.128.1.0/24")]);
    assert_eq!(changes(&whole, &s, &[Family::V4]), Ok(vec![]));
    let gone = changes(&whole, &s, &BOTH).unwrap();
    assert!(gone.len() == 7 && gone.iter().all(|step| matches!(step, Step::Remove(_))), "{gone:#?}");
    // Rules before routes before what they need.
    assert!(matches!(gone[0], Step::Remove(Thing::Rule(_))));
    assert!(matches!(gone[6], Step::Remove(Thing::Address(_))));
}

#[test]
fn only_marked_links_are_ours_or_those_with_our_address() {
    let s = snapshot();
    for (alias, ours) in
        [(None, false), (Some("mesh-agent-2"), false), (Some("lab"), false), (Some("mesh-agent x=1"), true)]
    {
        let mut other = standing(&s);
        other.bridge = Some(link(7, "mesh0", Kind::Bridge, alias));
        assert_eq!(changes(&other, &s, &BOTH).is_ok(), ours, "{alias:?}");
        let removed = removal(&other, &[], &BTreeMap::new());
        let bridge = Step::RemoveLink { index: 7, name: "mesh0".into() };
        assert_eq!(removed.contains(&bridge), ours, "{alias:?}");
    }
    let mut unmarked = standing(&s);
    unmarked.vxlan.as_mut().unwrap().alias = None;
    let alias =
        Step::ChangeLink { index: 2, name: "mesh-vx".into(), change: Change::Alias("mesh-agent".into()) };
    assert_eq!(changes(&unmarked, &s, &BOTH), Ok(vec![alias]), "the agent died before it could mark it");
}

#[test]
fn what_a_parameter_was_is_remembered_once() {
    let s = snapshot();
    let mut changed = standing(&s);
    changed.sysctls.insert("ipv4/ip_forward".into(), "0".into());
    changed.sysctls.insert("ipv6/conf/eth0/accept_ra".into(), "1".into());
    changed.sysctls.remove("ipv6/conf/all/forwarding");
    let steps: Vec<String> = changes(&changed, &s, &BOTH).unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(
        steps,
        [
            "give link mesh0 the alias `mesh-agent ipv4/ip_forward=0 ipv6/conf/eth0/accept_ra=1`",
            "write net/ipv4/ip_forward = 1",
            "write net/ipv6/conf/eth0/accept_ra = 2",
        ]
    );
    changed.sysctls.insert("ipv6/conf/eth0/accept_ra".into(), "0".into());
    assert_eq!(changes(&changed, &s, &BOTH).unwrap().len(), 1, "what is off stays off");
    let alias = sysctls::remember(&[("ipv4/conf/a=b/x".to_owned(), "1".to_owned())].into());
    assert_eq!(sysctls::remembered(Some(&alias))["ipv4/conf/a=b/x"], "1");
    assert!(sysctls::remembered(None).is_empty());
}

#[test]
fn senders_are_looked_at_only_where_the_host_does() {
    let s = snapshot();
    for (all, written) in [(None, None), (Some("0"), Some("0")), (Some("1"), None), (Some("2"), None)] {
        let mut stands = standing(&s);
        if let Some(all) = all {
            stands.sysctls.insert("ipv4/conf/all/rp_filter".into(), all.into());
        }
        let steps = written
            .map(|value| Step::Sysctl(("ipv4/conf/mesh-vx/rp_filter".to_owned(), value.to_owned())))
            .into_iter()
            .collect();
        assert_eq!(changes(&stands, &s, &BOTH), Ok(steps), "{all:?}");
    }
}

#[test]
fn addresses_are_given_in_turn_and_none_twice() {
    let subnet = net("10.128.1.0/28");
    assert_eq!(gateway(subnet), ip("10.128.1.1"));
    let (mut taken, mut last) = (BTreeSet::new(), None);
    while let Some(address) = allocate(subnet, &taken, last) {
        assert!(usable(subnet, address) && taken.insert(address));
        last = Some(address);
    }
    assert_eq!(taken.len(), 13);
    taken.remove(&ip("10.128.1.5"));
    assert_eq!(allocate(subnet, &taken, last), Some(ip("10.128.1.5")));
    taken.remove(&ip("10.128.1.3"));
    assert_eq!(allocate(subnet, &taken, Some(ip("10.128.1.4"))), Some(ip("10.128.1.5")));
    let six = net("fd00:4d:0:1::/64");
    assert_eq!(allocate(six, &BTreeSet::new(), None), Some(ip("fd00:4d:0:1::2")));
    assert_eq!(allocate(six, &BTreeSet::new(), Some(ip("fd00:4d:0:1::ff"))), Some(ip("fd00:4d:0:1::100")));
    assert_eq!(allocate(six, &BTreeSet::new(), Some(ip("fd00:9::1"))), Some(ip("fd00:4d:0:1::2")));
}

fn lease(port: u32, addresses: &[&str]) -> (Link, Lease) {
    let addresses = addresses.iter().map(|a| ip(a)).collect();
    let lease = Lease {
        netns: "/run/netns/a b".into(),
        identity: (4, u64::from(port)),
        name: "eth0".into(),
        addresses,
    };
    (link(port, &lease.port(), Kind::Veth, Some(&lease.alias())), lease)
}

#[test]
fn leases_are_read_as_written_and_nothing_else_is_one() {
    let (link, lease) = lease(7, &["10.128.1.2", "fd00::2"]);
    assert_eq!(Lease::read(link.alias.as_deref().unwrap()), Some(lease));
    assert!(link.name.len() == 14 && is_link_name(&link.name));
    for other in [
        "",
        "mesh-agent",
        "mesh-agent ip=1 if=a ns=1:2 at=/",
        "mesh-agent ip=10.0.0.1 if=a ns=12 at=/",
        "ip=10.0.0.1",
    ] {
        assert_eq!(Lease::read(other), None, "{other}");
    }
}

#[test]
fn the_older_of_two_keeps_an_address() {
    let subnets = [net("10.128.1.1/24")];
    let ports = [
        lease(9, &["10.128.1.2"]),
        lease(5, &["10.128.1.2"]),
        lease(7, &["10.128.1.3"]),
        lease(8, &["10.128.9.2"]),
    ];
    let indexes = |found: Vec<&(Link, Lease)>| found.iter().map(|(link, _)| link.index).collect::<Vec<_>>();
    assert_eq!(indexes(misfits(&ports, &subnets)), [8, 9]);
    assert_eq!(indexes(misfits(&ports, &[])), [9], "without a subnet there is nothing better");
}
