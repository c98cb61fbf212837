//! Forgetting a node that is gone for good.

use super::*;
use crate::{
    api::ControlError,
    claim::ClaimKey,
    key::Key,
    member::Member,
    model::{Family, NodeState},
    subnets::OverlayNetwork,
};

/// n2 with a subnet, a declaration and an endpoint.
fn second(now: Now) -> Node {
    let overlay = OverlayNetwork { network: "10.128.0.0/16".parse().unwrap(), node_prefix: 24 };
    let mut node = node_with("n2", now, |config| config.overlay = vec![overlay]);
    let declare = put(Origin::Node(name("n2")), "web", ServiceSpec::default());
    node.submit(vec![declare, endpoints("web", &["w"])], now).unwrap();
    run(&mut node, now.mono, now.mono + 5_000);
    assert_eq!(node.snapshot().own_subnets.len(), 1);
    node
}

fn down(at: &mut Node, who: &Node, now: Now) {
    let member = Member::new(who.membership.me().clone(), foca::Incarnation::default(), foca::State::Down);
    at.membership.apply(vec![member], now.mono);
    at.settle(now);
}

/// How many live records of n2's own a node holds.
fn its(node: &Node) -> usize {
    let n2 = name("n2");
    let own = |r: &&Record| !r.deleted && Key::of(&r.id).is_some_and(|key| key.owner() == Some(&n2));
    node.store.iter().filter(own).count()
}

fn refused(node: &mut Node, who: &str, now: Now) -> String {
    let hash = node.state_hash();
    let Err(error @ ControlError::Forget { .. }) = node.forget(&name(who), now) else {
        panic!("{who} was forgotten")
    };
    assert_eq!(node.state_hash(), hash);
    error.to_string()
}

#[test]
fn what_a_dead_node_wrote_goes_everywhere_and_comes_back_only_with_it() {
    let (mut a, mut other, mut dead) = (node("n1"), node("n3"), second(at(0)));
    for to in [&mut a, &mut other] {
        share(&mut dead, to, at(6_000));
    }
    assert!(refused(&mut a, "n2", at(6_000)).contains("n2 is up"));
    assert!(refused(&mut a, "n1", at(6_000)).contains("n1 is up"), "itself");
    assert!(refused(&mut a, "n9", at(6_000)).contains("no node n9"));
    down(&mut a, &dead, at(7_000));
    assert_eq!((its(&a), a.snapshot().nodes[&name("n2")].state), (4, NodeState::Down));

    a.forget(&name("n2"), at(8_000)).unwrap();
    assert_eq!(its(&a), 0);
    let view = &a.snapshot().nodes[&name("n2")];
    assert_eq!((view.state, view.subnets.len()), (NodeState::Left, 0));
    assert!(!a.snapshot().services.contains_key(&key("web")), "nobody declares it");
    let hash = a.state_hash();
    a.forget(&name("n2"), at(8_500)).unwrap();
    assert_eq!(a.state_hash(), hash, "twice is once");

    // Over the wire, as others take it.
    let mut bytes = Vec::new();
    a.store.iter().for_each(|record| record.encode(&mut bytes));
    for record in Record::decode_all(&bytes).unwrap() {
        other.absorb(record, at(9_000), false);
    }
    other.settle(at(9_000));
    assert_eq!(its(&other), 0);

    // A later run that kept the disk, and the very run, which was only cut off.
    let kept = dead.kept(at(9_000));
    let config = NodeConfig { boot: at(10_000).wall, ..dead.config.clone() };
    let mut later = Node::restored(config, &[KEY.into()], &kept, at(10_000)).unwrap();
    later.submit(vec![endpoints("web", &["x"])], at(10_000)).unwrap();
    for (mut back, live) in [(later, 3), (dead, 4)] {
        let before = back.snapshot().nodes[&name("n2")].subnets.clone();
        share(&mut other, &mut back, at(11_000));
        run(&mut back, 11_000, 17_000);
        assert_eq!(its(&back), live, "what its sources say of late, and its subnet");
        assert_eq!((&back.snapshot().own_subnets, before.len()), (&before, 1), "it was free still");
        let mut third = node("n4");
        share(&mut other, &mut third, at(18_000));
        share(&mut back, &mut third, at(18_000));
        assert_eq!(its(&third), live, "whoever heard of both");
    }
}

#[test]
fn a_subnet_claim_that_was_freed_is_deleted_for_good() {
    let (mut a, dead) = (node("n1"), &mut second(at(0)));
    share(dead, &mut a, at(6_000));
    down(&mut a, dead, at(7_000));
    a.forget(&name("n2"), at(8_000)).unwrap();
    let id = Key::Claim(ClaimKey::Subnet { node: name("n2"), family: Family::V4 }).id();
    let freed = a.store.get(&id).cloned().unwrap();
    assert!(freed.deleted);
    share(dead, &mut a, at(9_000));
    assert_eq!(a.store.get(&id), Some(&freed), "an old copy does not bring it back");
}
