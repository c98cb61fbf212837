//! What a node says of its peers: whose clock is off, and who shares a name.

use super::*;
use crate::member::{Identity, Member};
use std::collections::BTreeMap;

fn meet(node: &mut Node, text: &str, addr: u8, now: Now) {
    let id = Identity { name: name(text), addr: ([10, 0, 0, addr], 7946).into(), epoch: now.wall };
    node.membership.apply(vec![Member::alive(id)], now.mono);
    node.settle(now);
}

/// What is wrong with each peer, by name.
fn troubles(node: &Node) -> BTreeMap<String, String> {
    node.peers().into_iter().filter_map(|p| Some((p.node.to_string(), p.trouble?))).collect()
}

#[test]
fn a_clock_that_is_off_is_named_and_not_all_those_that_it_differs_from() {
    let hear = |offsets: &[i64]| {
        let mut a = node("n1");
        for (i, offset) in (2..).zip(offsets) {
            let peer = format!("n{i}");
            meet(&mut a, &peer, i, at(1));
            a.heard(&name(&peer), at(1).wall.saturating_add_signed(*offset), at(1));
        }
        troubles(&a)
    };
    let two_hours = 2 * 3_600_000;
    assert_eq!(hear(&[two_hours, two_hours + 3, two_hours]), BTreeMap::new(), "this node's is off");
    let one = hear(&[two_hours, two_hours, 0, two_hours]);
    assert_eq!(one.len(), 1, "{one:?}");
    assert!(one["n4"].starts_with("its clock is 7200 s behind"), "{one:?}");
    let one = hear(&[0, 4, two_hours, -2]);
    assert_eq!(one.len(), 1, "{one:?}");
    assert!(one["n4"].starts_with("its clock is 7200 s ahead"), "{one:?}");
    // Of two nodes nobody knows who is wrong.
    assert_eq!(hear(&[two_hours]).len(), 1);
}

#[test]
fn two_others_with_one_name_are_a_trouble_of_that_name_until_one_is_gone() {
    let mut a = node("n1");
    for addr in [2, 3] {
        meet(&mut a, "n2", addr, at(1));
    }
    a.look_at_names(at(1_000));
    assert_eq!(troubles(&a), BTreeMap::new(), "a restart elsewhere looks like that for a moment");
    a.look_at_names(at(17_000));
    let said = troubles(&a);
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said["n2"].starts_with("two nodes are named n2, at 10.0.0."), "{said:?}");
    assert_eq!(a.peers().len(), 1);
    let gone = a.membership.peers().namesakes(&name("n2"))[0].clone();
    a.membership
        .apply(vec![Member::new(gone, foca::Incarnation::default(), foca::State::Down)], at(18_000).mono);
    a.settle(at(18_000));
    a.look_at_names(at(18_000));
    assert_eq!(troubles(&a), BTreeMap::new());
}
