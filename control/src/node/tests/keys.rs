//! Key changes: what is refused, what is written, what is said.

use super::*;
use crate::{ClusterKey, ControlError, KeyChange, model::KeyId};

fn cluster_key(byte: u8) -> ClusterKey {
    ClusterKey::new([byte; 32])
}

fn try_key(node: &mut Node, ms: u64, change: KeyChange) -> Result<(), String> {
    match node.submit(vec![LocalChange::Key(change)], at(ms)) {
        Ok(_) => Ok(()),
        Err(ControlError::KeyChange { problem, fix }) => {
            assert!(!fix.is_empty());
            Err(problem)
        }
        Err(e) => panic!("{e}"),
    }
}

fn used(id: KeyId, force: bool) -> KeyChange {
    KeyChange::Use { id, force }
}

fn removed(id: KeyId, force: bool) -> KeyChange {
    KeyChange::Remove { id, force }
}

#[test]
fn a_step_of_a_rotation_waits_for_the_one_before() {
    let (mut a, mut b) = (node("n1"), node("n2"));
    share(&mut b, &mut a, at(0));
    share(&mut a, &mut b, at(0));
    let (old, new) = (a.sealing_key(), cluster_key(9));
    let unknown = try_key(&mut a, 1, used(new.id(), false)).unwrap_err();
    assert!(unknown.contains(&new.id().to_string()), "{unknown}");
    try_key(&mut a, 2, KeyChange::Add(new.clone())).unwrap();
    assert!(a.knows_key(new.id()) && a.sealing_key() == old);
    let lacking = try_key(&mut a, 3, used(new.id(), false)).unwrap_err();
    assert!(lacking.contains("n2 lacks"), "{lacking}");
    share(&mut a, &mut b, at(4));
    share(&mut b, &mut a, at(4));
    try_key(&mut a, 5, used(new.id(), false)).unwrap();
    assert_eq!(a.sealing_key(), new.id());
    let in_use = try_key(&mut a, 6, removed(new.id(), true)).unwrap_err();
    assert!(in_use.contains("in use"), "{in_use}");
    let sealing = try_key(&mut a, 6, removed(old, false)).unwrap_err();
    assert!(sealing.contains("n2 still seals"), "{sealing}");
    share(&mut a, &mut b, at(7));
    assert_eq!(b.sealing_key(), new.id());
    share(&mut b, &mut a, at(7));
    try_key(&mut a, 8, removed(old, false)).unwrap();
    share(&mut a, &mut b, at(9));
    share(&mut b, &mut a, at(9));
    assert!(!a.knows_key(old) && !b.knows_key(old));
    assert_eq!(a.state_hash(), b.state_hash());
    // The configuration still lists it: `key ls` says so.
    let listed: Vec<_> =
        a.keys().into_iter().map(|k| (k.id, k.removed, k.held_by.len(), k.seals_for.len())).collect();
    assert_eq!(listed, [(new.id(), false, 2, 2), (old, true, 0, 0)]);
    // Done already: nothing is written.
    let before = a.state_hash();
    try_key(&mut a, 10, used(new.id(), false)).unwrap();
    try_key(&mut a, 10, KeyChange::Add(new)).unwrap();
    assert_eq!(a.state_hash(), before);
}

#[test]
fn force_overrides_the_others_and_eight_keys_are_all() {
    let (mut a, b) = (node("n1"), node("n2"));
    let id = b.membership.me().clone();
    a.membership.apply(vec![crate::member::Member::alive(id)], 0);
    a.settle(at(0));
    for byte in 2..9 {
        try_key(&mut a, 1, KeyChange::Add(cluster_key(byte))).unwrap();
    }
    let full = try_key(&mut a, 2, KeyChange::Add(cluster_key(9))).unwrap_err();
    assert!(full.contains('8'), "{full}");
    // Of n2 nothing but the name is known.
    let two = cluster_key(2).id();
    let silent = try_key(&mut a, 3, used(two, false)).unwrap_err();
    assert!(silent.contains("n2 has not said"), "{silent}");
    try_key(&mut a, 3, used(two, true)).unwrap();
    try_key(&mut a, 4, removed(cluster_key(3).id(), false)).unwrap();
    try_key(&mut a, 5, KeyChange::Add(cluster_key(9))).unwrap();
    // One that comes back comes back unused, also if it was in use before it went.
    try_key(&mut a, 6, used(cluster_key(4).id(), true)).unwrap();
    try_key(&mut a, 7, removed(two, true)).unwrap();
    try_key(&mut a, 8, KeyChange::Add(cluster_key(2))).unwrap();
    assert!(a.knows_key(two) && a.sealing_key() == cluster_key(4).id());
}

#[test]
fn who_is_down_without_the_new_key_is_named_before_it_is_locked_out() {
    let (mut a, mut b) = (node("n1"), node("n2"));
    share(&mut b, &mut a, at(0));
    let leaving = b.membership.me().clone();
    let (old, new) = (a.sealing_key(), cluster_key(9));
    a.membership.left(leaving, 1);
    a.settle(at(1));
    assert_eq!(a.snapshot().nodes["n2"].state, crate::model::NodeState::Down);
    try_key(&mut a, 2, KeyChange::Add(new.clone())).unwrap();
    try_key(&mut a, 3, used(new.id(), false)).unwrap();
    let away = try_key(&mut a, 4, removed(old, false)).unwrap_err();
    assert!(away.contains("n2 is down"), "{away}");
    try_key(&mut a, 5, removed(old, true)).unwrap();
}

#[test]
fn the_ring_outlives_a_restart_with_its_records_and_shows_nowhere() {
    let mut a = node("n1");
    let (old, new) = (a.sealing_key(), cluster_key(0x41));
    try_key(&mut a, 1, KeyChange::Add(new.clone())).unwrap();
    try_key(&mut a, 2, used(new.id(), false)).unwrap();
    try_key(&mut a, 3, removed(old, false)).unwrap();
    let kept: Vec<Record> = a.records().cloned().collect();
    let keys = crate::keys::Keys::new(&["AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=".into()]).unwrap();
    let config = crate::node::NodeConfig { boot: 2 * at(0).wall, ..a.config.clone() };
    let again = Node::with_records(config, keys, kept.clone(), at(10)).unwrap();
    assert_eq!(again.sealing_key(), new.id());
    assert!(!again.knows_key(old));
    assert_eq!(again.snapshot().nodes["n1"].info.keys, [new.id()]);
    let shown =
        format!("{kept:?} {:?} {:?} {:?}", again.snapshot(), again.keys(), KeyChange::Add(new.clone()));
    assert!(
        !shown.contains(&new.expose()) && !shown.contains("65, 65") && !shown.contains("AAAA"),
        "{shown}"
    );
}

#[test]
fn an_agent_cannot_speak_for_the_ring() {
    let mut a = node("n1");
    let info = NodeInfo { keys: vec![cluster_key(1).id(); 3], ..NodeInfo::default() };
    submit(&mut a, 1, vec![LocalChange::SetNode(info)]);
    assert_eq!(a.snapshot().nodes["n1"].info.keys, [a.sealing_key()]);
}
