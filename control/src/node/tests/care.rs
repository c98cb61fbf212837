//! The care of claims: what is freed, what must move, and counters that end.

use super::*;
use crate::{
    claim::{Claim, ClaimKey, Held},
    key::Key,
    model::Family,
};
use std::net::IpAddr;

const DAY: u64 = 24 * 3_600_000;

fn small(text: &str, cidr: &str, now: Now) -> Node {
    let cidr = cidr.parse().unwrap();
    node_with(text, now, |config| config.vip_cidrs = vec![cidr])
}

fn plain() -> ServiceSpec {
    ServiceSpec::default()
}

fn dnsrr() -> ServiceSpec {
    ServiceSpec { endpoint_mode: EndpointMode::Dnsrr, ..ServiceSpec::default() }
}

fn vip(node: &Node, service: &str) -> Option<IpAddr> {
    node.snapshot().services.get(&key(service))?.vips.first()
}

fn vip_id(service: &str) -> RecordId {
    Key::Claim(ClaimKey::Vip { service: key(service), family: Family::V4 }).id()
}

/// An address that a service gave up, by deletion or by switching to `dnsrr`, is the last one that others get; and who
/// got it keeps it when the first owner wants one again.
#[test]
fn a_freed_address_is_taken_only_when_nothing_else_is_left_and_then_kept() {
    let give_up: [fn() -> LocalChange; 2] = [|| delete("web"), || put(Origin::Cluster, "web", dnsrr())];
    for change in give_up {
        // 14 addresses.
        let mut a = small("n1", "10.96.0.0/28", at(0));
        submit(&mut a, 1, vec![put(Origin::Cluster, "web", plain())]);
        let freed = vip(&a, "web").unwrap();
        submit(&mut a, 2, vec![change()]);
        for i in 0..13 {
            let service = format!("s{i}");
            submit(&mut a, 3, vec![put(Origin::Cluster, &service, plain())]);
            assert!(vip(&a, &service).is_some_and(|v| v != freed), "{service} got it");
        }
        // Back while nobody took it: the same address. Then given up again, and taken.
        submit(&mut a, 4, vec![put(Origin::Cluster, "web", plain())]);
        assert_eq!(vip(&a, "web"), Some(freed));
        submit(&mut a, 5, vec![change(), put(Origin::Cluster, "last", plain())]);
        assert_eq!(vip(&a, "last"), Some(freed), "nothing else is left");
        submit(&mut a, 6, vec![put(Origin::Cluster, "web", plain())]);
        assert_eq!((vip(&a, "last"), vip(&a, "web")), (Some(freed), None), "it stays");
    }
}

#[test]
fn the_address_of_a_service_without_one_is_free_a_day_after() {
    let mut a = small("n1", "10.96.0.0/24", at(0));
    submit(&mut a, 1, vec![put(Origin::Cluster, "web", plain()), put(Origin::Cluster, "db", plain())]);
    let state = |a: &Node| a.store.get(&vip_id("web")).map(|r| r.deleted);
    submit(&mut a, 2 * DAY, vec![put(Origin::Cluster, "web", dnsrr())]);
    for minute in 1..40 {
        run(&mut a, 2 * DAY + 60_000 * minute, 2 * DAY + 60_000 * minute);
    }
    assert_eq!(state(&a), Some(true), "deleted, and kept a day");
    let held = vip(&a, "db");
    submit(&mut a, 3 * DAY, vec![]);
    run(&mut a, 3 * DAY + 3 * 3_600_000, 3 * DAY + 3 * 3_600_000);
    assert_eq!((state(&a), vip(&a, "db")), (None, held));
}

#[test]
fn a_service_outside_a_changed_vip_cidr_moves_into_it_and_nodes_that_disagree_do_not_fight() {
    let mut old = small("n1", "10.96.0.0/24", at(0));
    submit(
        &mut old,
        1,
        vec![put(Origin::Cluster, "web", spec(None)), put(Origin::Cluster, "db", spec(None))],
    );
    let before = vip(&old, "web");
    // n2 starts with another range; both are up.
    let mut new = small("n2", "10.97.0.0/24", at(10_000));
    share(&mut old, &mut new, at(10_000));
    run(&mut new, 10_000, 20_000);
    let moved = vip(&new, "web").unwrap();
    assert!(moved.to_string().starts_with("10.97.0."), "{moved}");
    assert_eq!(view(&new, "web").published[0].port, view(&old, "web").published[0].port);
    share(&mut new, &mut old, at(20_000));
    run(&mut old, 20_000, 60_000);
    share(&mut old, &mut new, at(60_000));
    run(&mut new, 60_000, 90_000);
    assert!(before.is_some() && vip(&old, "web") == Some(moved) && vip(&new, "web") == Some(moved));
    assert_eq!(old.state_hash(), new.state_hash());
}

/// A counter that a peer drove to its end, with a live claim or a tombstone: the next choice is still in force.
#[test]
fn the_greatest_generation_is_no_dead_end() {
    for (deleted, generation) in
        [(false, u16::MAX), (true, u16::MAX), (false, u16::MAX - 1), (true, u16::MAX - 1)]
    {
        let mut a = small("n1", "10.96.0.0/24", at(0));
        submit(&mut a, 1, vec![put(Origin::Cluster, "web", plain()), put(Origin::Cluster, "db", plain())]);
        let taken = vip(&a, "db").unwrap();
        // The peer moves web to the address of db, which is older.
        let stamp = Hlc::from_millis(START + 5);
        let claim = Claim { generation, stamp, held: Held::Address(taken) };
        let writer = Arc::new(Writer { node: name("n9"), boot: 1 });
        let version = Hlc::from_millis(START + 3_600_000);
        a.absorb(Record::new(vip_id("web"), version, writer, deleted, claim.encode().into()), at(10), false);
        a.settle(at(10));
        assert_eq!(vip(&a, "web"), None);
        run(&mut a, 10, 10_000);
        assert!(vip(&a, "web").is_some_and(|v| v != taken), "{deleted} {generation}");
        // And it can still move, and be deleted.
        assert_eq!(vip(&a, "db"), Some(taken));
        submit(&mut a, 10_001, vec![delete("web")]);
        assert_eq!(vip(&a, "web"), None);
    }
}
