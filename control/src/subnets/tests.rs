use super::*;
use crate::{claim::Claim, key::Key, model::Name, record::Writer};
use proptest::prelude::*;
use std::sync::Arc;

fn node(i: u8) -> NodeName {
    Name::new(&format!("n{i}")).unwrap()
}

fn net(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

fn overlay(network: &str, node_prefix: u8) -> OverlayNetwork {
    OverlayNetwork { network: net(network), node_prefix }
}

fn key(i: u8, family: Family) -> ClaimKey {
    ClaimKey::Subnet { node: node(i), family }
}

fn record(i: u8, subnet: IpNetwork, stamp: u64, deleted: bool) -> Record {
    let claim = Claim { generation: Claim::NEWEST, stamp: Hlc(stamp), held: Held::Subnet(subnet) };
    let writer = Arc::new(Writer { node: node(i), boot: 1 });
    let id = Key::Claim(key(i, Family::of(&subnet.ip()))).id();
    Record::new(id, Hlc(stamp), writer, deleted, claim.encode().into())
}

/// Takes a claim in; returns who was told.
fn claim(table: &mut Subnets, i: u8, subnet: &str, stamp: u64) -> BTreeSet<NodeName> {
    let subnet = net(subnet);
    table.note(&key(i, Family::of(&subnet.ip())), None, Some(&record(i, subnet, stamp, false)))
}

#[test]
fn the_oldest_of_overlapping_claims_wins_whatever_their_lengths() {
    let mut table = Subnets::new(vec![overlay("10.128.0.0/16", 24)]);
    claim(&mut table, 1, "10.128.4.0/24", 5);
    claim(&mut table, 2, "10.128.5.0/24", 3);
    assert!(table.wins(&node(1), net("10.128.4.0/24")) && table.wins(&node(2), net("10.128.5.0/24")));
    // A wider one over both: older than the first, younger than the second.
    let told = claim(&mut table, 3, "10.128.4.0/22", 4);
    assert_eq!(told, [node(1), node(2), node(3)].into());
    assert!(!table.wins(&node(1), net("10.128.4.0/24")) && !table.wins(&node(3), net("10.128.4.0/22")));
    assert!(table.wins(&node(2), net("10.128.5.0/24")));
    assert_eq!(table.newest_rival(&node(2), net("10.128.5.0/24")), Hlc(4));
    // Equal stamps: the lesser name.
    claim(&mut table, 4, "10.128.9.0/24", 7);
    claim(&mut table, 5, "10.128.8.0/23", 7);
    assert!(table.wins(&node(4), net("10.128.9.0/24")) && !table.wins(&node(5), net("10.128.8.0/23")));
}

#[test]
fn what_is_no_part_of_the_overlay_counts_for_nothing() {
    let mut table = Subnets::new(vec![overlay("10.128.0.0/16", 24), overlay("fd00::/48", 64)]);
    let subnet = net("10.128.4.0/24");
    for senseless in ["10.128.0.0/16", "10.0.0.0/8", "0.0.0.0/0", "10.129.4.0/24", "10.128.4.1/24"] {
        claim(&mut table, 1, senseless, 1);
        assert!(!table.wins(&node(1), net(senseless)), "{senseless}");
    }
    claim(&mut table, 2, "10.128.4.0/24", 2);
    assert!(table.wins(&node(2), subnet));
    // Of another family than the key.
    let six = record(3, net("fd00:0:0:7::/64"), 1, false);
    table.note(&key(3, Family::V4), None, Some(&six));
    assert!(!table.wins(&node(3), net("fd00:0:0:7::/64")));
}

#[test]
fn candidates_are_the_same_everywhere_and_a_network_is_filled_to_the_last() {
    for (chosen, room) in [(overlay("10.128.0.0/20", 24), 16), (overlay("fd00::/60", 64), 16)] {
        let mut table = Subnets::new(vec![chosen]);
        let mut taken: Vec<IpNetwork> = Vec::new();
        for i in 0..room {
            let first = Subnets::new(vec![chosen]).free(&node(i), &chosen, None);
            assert_eq!(first, Subnets::new(vec![chosen]).free(&node(i), &chosen, None));
            let subnet = table.free(&node(i), &chosen, None).unwrap();
            assert!(chosen.suits(subnet) && taken.iter().all(|t| !t.contains(subnet.network())));
            taken.push(subnet);
            claim(&mut table, i, &subnet.to_string(), 1);
            // Its own is preferred, another's is not given.
            assert_eq!(table.free(&node(i), &chosen, Some(subnet)), Some(subnet));
            assert_ne!(table.free(&node(99), &chosen, Some(subnet)), Some(subnet));
        }
        assert_eq!(table.free(&node(room), &chosen, None), None);
    }
}

#[test]
fn a_freed_subnet_is_taken_only_when_nothing_else_is_left() {
    let chosen = overlay("10.128.0.0/22", 24);
    let mut table = Subnets::new(vec![chosen]);
    let first = table.free(&node(9), &chosen, None).unwrap();
    table.note(&key(1, Family::V4), None, Some(&record(1, first, 1, true)));
    for i in 2..5 {
        let subnet = table.free(&node(i), &chosen, None).unwrap();
        assert_ne!(subnet, first);
        claim(&mut table, i, &subnet.to_string(), u64::from(i));
    }
    assert_eq!(table.free(&node(9), &chosen, None), Some(first));
    // Who had it gets it back.
    assert_eq!(table.free(&node(1), &chosen, Some(first)), Some(first));
}

#[test]
fn settings_that_cannot_work_are_refused_with_the_fix() {
    let vips = [net("10.96.0.0/16")];
    for (network, node_prefix, words) in [
        ("10.128.0.0/16", 16, "use /17 to /28"),
        ("10.128.0.0/16", 30, "use /17 to /28"),
        ("10.128.0.0/28", 29, "use /27 or wider"),
        ("10.96.128.0/17", 24, "overlaps 10.96.0.0/16"),
        ("10.0.0.0/8", 24, "overlaps 10.96.0.0/16"),
        ("127.1.0.0/16", 24, "use a private range"),
        ("224.0.0.0/8", 24, "use a private range"),
        ("fd00::/64", 64, "use /65 to /112"),
    ] {
        let problem = overlay(network, node_prefix).check(&vips).unwrap_err();
        assert!(problem.contains(words), "{network}: {problem}");
    }
    overlay("10.128.0.0/14", 24).check(&vips).unwrap();
    overlay("fd00::/48", 64).check(&vips).unwrap();
}

/// Claims by a few nodes of overlapping subnets of several lengths.
fn claims() -> impl Strategy<Value = Vec<Record>> {
    let one =
        (0..6u8, 0..16u32, 20..24u8, 0..6u64, any::<bool>()).prop_map(|(i, at, length, stamp, gone)| {
            let base = std::net::Ipv4Addr::from(u32::from_be_bytes([10, 128, 0, 0]) | at << 8);
            let whole = IpNetwork::new(base.into(), length).unwrap();
            let subnet = IpNetwork::new(whole.network(), length).unwrap();
            record(i, subnet, stamp << 20, gone && stamp % 3 == 0)
        });
    proptest::collection::vec(one, 0..24)
}

/// The claims in force after `list` was heard in this order, and who wins what; winners never overlap on the way.
fn heard<'a>(list: impl Iterator<Item = &'a Record>) -> Vec<(NodeName, IpNetwork)> {
    let mut table = Subnets::new(vec![overlay("10.128.0.0/19", 24)]);
    let mut store = crate::store::Store::default();
    let mut winners = Vec::new();
    for record in list {
        let id = record.id.clone();
        let crate::store::Merge::Applied(old) = store.merge(record.clone(), 0) else { continue };
        let Some(Key::Claim(key)) = Key::of(&id) else { panic!("a claim") };
        table.note(&key, old.as_ref(), store.get(&id));
        winners = (0..6u8)
            .filter_map(|i| {
                let claim = crate::view::live_claim(&store, &self::key(i, Family::V4))?;
                let Held::Subnet(subnet) = claim.held else { return None };
                table.wins(&node(i), subnet).then_some((node(i), subnet))
            })
            .collect();
        for (a, (_, one)) in winners.iter().enumerate() {
            for (_, other) in &winners[..a] {
                assert!(!one.contains(other.network()) && !other.contains(one.network()), "{one} {other}");
            }
        }
    }
    winners
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    #[test]
    fn winners_never_overlap_and_do_not_depend_on_the_order(list in claims(), turn in 0..24usize) {
        let forward = heard(list.iter());
        let turn = turn.min(list.len());
        prop_assert_eq!(&forward, &heard(list.iter().rev()));
        prop_assert_eq!(&forward, &heard(list[turn..].iter().chain(&list[..turn]).chain(&list)));
    }
}
