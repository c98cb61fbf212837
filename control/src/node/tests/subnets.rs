//! A node's own subnet: sync, claim, wait, use.

use super::*;
use crate::{
    claim::{Claim, ClaimKey, Held},
    key::Key,
    model::Family,
    subnets::OverlayNetwork,
};
use ipnetwork::IpNetwork;

const DAY: u64 = 24 * 3_600_000;

fn overlaid(text: &str, network: &str, seeds: &[&str], now: Now) -> Node {
    let overlay = vec![OverlayNetwork { network: network.parse().unwrap(), node_prefix: 24 }];
    let seeds = seeds.iter().map(|s| (*s).to_owned()).collect();
    node_with(text, now, |config| (config.overlay, config.seeds) = (overlay, seeds))
}

fn held(view: &Node, of: &str) -> Vec<IpNetwork> {
    view.snapshot().nodes.get(&name(of)).map(|n| n.subnets.clone()).unwrap_or_default()
}

fn own(node: &Node) -> Vec<IpNetwork> {
    node.snapshot().own_subnets.clone()
}

fn subnet_id(of: &str) -> RecordId {
    Key::Claim(ClaimKey::Subnet { node: name(of), family: Family::V4 }).id()
}

#[test]
fn a_node_alone_claims_waits_and_uses() {
    let mut a = overlaid("n1", "10.128.0.0/16", &[], at(0));
    run(&mut a, 0, 1_000);
    assert_eq!((held(&a, "n1").len(), own(&a)), (1, vec![]), "claimed, not used yet");
    run(&mut a, 1_000, 5_000);
    assert_eq!((own(&a), own(&a).len()), (held(&a, "n1"), 1));
    // What is settled writes nothing more.
    let hash = a.state_hash();
    run(&mut a, 5_000, 60_000);
    assert_eq!(a.state_hash(), hash);
}

#[test]
fn a_node_that_should_join_others_claims_nothing_before_it_heard_them() {
    let mut a = overlaid("n1", "10.128.0.0/16", &["n2:7946"], at(0));
    run(&mut a, 0, 60_000);
    assert!(held(&a, "n1").is_empty());
    a.set_synced(at(60_000));
    run(&mut a, 60_000, 65_000);
    assert_eq!(own(&a).len(), 1);
}

#[test]
fn a_node_that_lost_its_disk_gets_its_own_subnet_back() {
    let mut other = node("n2");
    let mut first = overlaid("n1", "10.128.0.0/16", &[], at(0));
    run(&mut first, 0, 5_000);
    share(&mut first, &mut other, at(5_000));
    let claim = other.store.get(&subnet_id("n1")).cloned();
    assert!(claim.is_some(), "kept also by a node without an overlay");
    let mut second = overlaid("n1", "10.128.0.0/16", &["n2:7946"], at(6_000));
    share(&mut other, &mut second, at(6_500));
    second.set_synced(at(6_500));
    run(&mut second, 6_500, 7_000);
    assert_eq!(own(&second), own(&first), "used at once");
    assert_eq!(second.store.get(&subnet_id("n1")).cloned(), claim, "and not claimed anew");
}

#[test]
fn a_subnet_in_use_is_defended_against_older_runs_and_hasty_deletion() {
    let mut a = overlaid("n1", "10.128.0.0/16", &[], at(0));
    run(&mut a, 0, 5_000);
    let settled = own(&a);
    // An earlier run's claim, by a clock that was an hour ahead; then a peer that takes it for an orphan.
    let earlier = Held::Subnet("10.128.77.0/24".parse().unwrap());
    let value = Claim { generation: Claim::NEWEST, stamp: Hlc::from_millis(1), held: earlier }.encode();
    for (node, deleted) in [("n1", false), ("n9", true)] {
        let writer = Arc::new(Writer { node: name(node), boot: START - 1_000 });
        let version = Hlc::from_millis(START + 3_600_000 + u64::from(deleted));
        let record = Record::new(subnet_id("n1"), version, writer, deleted, value.clone().into());
        assert!(a.absorb(record, at(6_000), true));
        a.settle(at(6_000));
        assert_eq!((own(&a), held(&a, "n1")), (settled.clone(), settled.clone()), "by {node}");
    }
    run(&mut a, 6_000, 12_000);
    assert_eq!(own(&a), settled);
}

#[test]
fn of_two_sides_of_a_partition_the_older_claim_stays_and_the_other_moves() {
    // Room for two: of any three nodes that claim alone, two take the same.
    let names = ["n1", "n2", "n3"];
    let mut nodes: Vec<Node> =
        (0..).zip(names).map(|(i, n)| overlaid(n, "10.128.0.0/23", &[], at(i))).collect();
    nodes.iter_mut().for_each(|n| run(n, 10, 5_000));
    let used: Vec<_> = nodes.iter().map(own).collect();
    assert!(used.iter().all(|own| own.len() == 1));
    let (i, j) = [(0, 1), (0, 2), (1, 2)].into_iter().find(|(i, j)| used[*i] == used[*j]).unwrap();
    let mut later = nodes.remove(j);
    let mut older = nodes.remove(i);
    share(&mut older, &mut later, at(6_000));
    assert!(own(&later).is_empty(), "not used a moment longer");
    run(&mut later, 6_000, 7_000);
    share(&mut later, &mut older, at(7_000));
    run(&mut older, 7_000, 7_250);
    for node in [&older, &later] {
        assert_eq!(held(node, names[i]), used[i], "the holder keeps it");
        assert!(held(node, names[j]).len() == 1 && held(node, names[j]) != used[i]);
    }
    assert!(own(&later).is_empty(), "it waits again");
    run(&mut later, 7_000, 10_500);
    assert_eq!(own(&later), held(&older, names[j]));
}

#[test]
fn the_subnet_of_a_node_that_left_is_kept_two_days_and_then_free() {
    let mut a = overlaid("n1", "10.128.0.0/23", &[], at(0));
    let mut gone = overlaid("n2", "10.128.0.0/23", &[], at(0));
    run(&mut a, 0, 5_000);
    share(&mut a, &mut gone, at(5_000));
    run(&mut gone, 5_000, 10_000);
    let freed = held(&gone, "n2");
    assert!(freed.len() == 1 && freed != own(&a));
    gone.leave(at(11_000));
    let records: Vec<Record> = gone.store.iter().cloned().collect();
    records.into_iter().for_each(|r| {
        a.absorb(r, at(11_000), false);
    });
    a.settle(at(11_000));
    let state = |a: &Node| a.store.get(&subnet_id("n2")).map(|r| r.deleted);
    let mut third = overlaid("n3", "10.128.0.0/23", &[], at(0));
    for hour in 1..=23 {
        run(&mut a, hour * 3_600_000, hour * 3_600_000);
    }
    assert_eq!(state(&a), Some(false), "held for a day, whatever else is full");
    assert_eq!(
        third.view.subnets().free(&name("n3"), &third.config.overlay[0], None).map(|s| s.prefix()),
        Some(24)
    );
    for minute in 0..80 {
        run(&mut a, DAY + 60_000 * minute, DAY + 60_000 * minute);
    }
    assert_eq!(state(&a), Some(true));
    // The network is full but for the freed one: another may have it now.
    let late = Now { mono: 0, wall: START + DAY + 5_000_000 };
    let records: Vec<Record> = a.store.iter().cloned().collect();
    records.into_iter().for_each(|r| {
        third.absorb(r, late, false);
    });
    third.settle(late);
    let overlay = third.config.overlay[0];
    assert_eq!(third.view.subnets().free(&name("n3"), &overlay, None), freed.first().copied());
    for minute in 0..80 {
        run(&mut a, 3 * DAY + 60_000 * minute, 3 * DAY + 60_000 * minute);
    }
    assert_eq!(state(&a), None, "forgotten");
    assert_eq!(own(&a).len(), 1, "that of a live node is not");
}

#[test]
fn a_node_that_is_only_down_keeps_its_subnet() {
    let mut a = overlaid("n1", "10.128.0.0/16", &[], at(0));
    let mut down = overlaid("n2", "10.128.0.0/16", &[], at(0));
    run(&mut a, 0, 5_000);
    run(&mut down, 0, 5_000);
    share(&mut down, &mut a, at(5_000));
    let before = held(&a, "n2");
    for minute in 0..80 {
        run(&mut a, 3 * DAY + 60_000 * minute, 3 * DAY + 60_000 * minute);
    }
    assert!(!before.is_empty());
    assert_eq!(held(&a, "n2"), before);
}

#[test]
fn a_changed_overlay_moves_the_subnet_and_none_gives_it_up() {
    let mut a = overlaid("n1", "10.128.0.0/16", &[], at(0));
    run(&mut a, 0, 5_000);
    let records: Vec<Record> = a.store.iter().cloned().collect();
    let again = |network: &str| {
        let mut node = overlaid("n1", network, &[], at(10_000));
        records.iter().for_each(|r| {
            node.absorb(r.clone(), at(10_000), false);
        });
        node.settle(at(10_000));
        run(&mut node, 10_000, 15_000);
        node
    };
    let same = again("10.128.0.0/16");
    assert_eq!((own(&same), same.store.get(&subnet_id("n1"))), (own(&a), a.store.get(&subnet_id("n1"))));
    let moved = own(&again("10.200.0.0/16"));
    assert!("10.200.0.0/16".parse::<IpNetwork>().unwrap().contains(moved[0].ip()), "{moved:?}");
    let mut none = node_at("n1", at(10_000));
    share(&mut a, &mut none, at(10_000));
    run(&mut none, 10_000, 11_000);
    assert!(own(&none).is_empty() && none.store.live(&subnet_id("n1")).is_none());
}
