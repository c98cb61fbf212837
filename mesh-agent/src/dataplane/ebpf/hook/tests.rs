//! What is done at devices that have something, and at those that have nothing.

use super::*;

const PROGRAMS: [(Direction, u32); 2] = [(Direction::Ingress, 11), (Direction::Egress, 12)];

fn ours(direction: Direction, made: bool, program: u32) -> Classifier {
    let name = name(direction, made);
    Classifier { link: 3, direction, priority: PRIORITY, handle: HANDLE, name, program }
}

fn both(made: bool, programs: [u32; 2]) -> Vec<Classifier> {
    Direction::ALL
        .into_iter()
        .zip(programs)
        .map(|(direction, program)| ours(direction, made, program))
        .collect()
}

fn anothers() -> Classifier {
    let name = "cil_from_netdev".into();
    Classifier { link: 3, direction: Direction::Ingress, priority: 1, handle: 1, name, program: 7 }
}

fn there(programs: Vec<Classifier>, others: usize) -> Classifiers {
    Classifiers { programs, others }
}

fn hooked(there: &Classifiers) -> Vec<Step> {
    hooking(3, Some(there), &PROGRAMS)
}

#[test]
fn a_device_without_anything_gets_all() {
    let mut wanted = vec![Step::Make];
    wanted.extend(both(true, [11, 12]).into_iter().map(Step::Add));
    assert_eq!(hooking(3, None, &PROGRAMS), wanted);
}

#[test]
fn what_is_there_stays_as_it_is() {
    assert_eq!(hooked(&there(both(true, [11, 12]), 0)), []);
    assert_eq!(hooked(&there(both(false, [11, 12]), 1)), []);
}

#[test]
fn the_clsact_of_another_is_used_and_stays_anothers() {
    for mut before in [there(vec![anothers()], 0), there(vec![], 1), there(vec![], 0)] {
        let adds = both(false, [11, 12]).into_iter().map(Step::Add);
        assert_eq!(hooked(&before), adds.collect::<Vec<_>>());
        before.programs.extend(both(false, [11, 12]));
        let removes = both(false, [11, 12]).into_iter().map(Step::Remove);
        assert_eq!(unhooking(&before), removes.collect::<Vec<_>>());
    }
}

#[test]
fn other_programs_take_the_place_of_those_before() {
    let put = Step::Replace(ours(Direction::Ingress, true, 11));
    assert_eq!(hooked(&there(both(true, [9, 12]), 0)), [put]);
    let moved = Classifier { priority: 9, ..ours(Direction::Egress, true, 12) };
    let found = there(vec![ours(Direction::Ingress, true, 11), moved.clone()], 0);
    let add = Step::Add(ours(Direction::Egress, true, 12));
    assert_eq!(hooked(&found), [add, Step::Remove(moved)]);
}

#[test]
fn a_strangers_filter_in_our_place_is_not_replaced() {
    let stranger = Classifier { priority: PRIORITY, ..anothers() };
    assert_eq!(hooked(&there(vec![stranger], 0))[0], Step::Add(ours(Direction::Ingress, false, 11)));
}

#[test]
fn what_was_made_goes_unless_somebody_else_uses_it() {
    let removes = both(true, [11, 12]).into_iter().map(Step::Remove).collect::<Vec<_>>();
    let alone = unhooking(&there(both(true, [11, 12]), 0));
    assert_eq!(alone, [removes.clone(), vec![Step::Unmake]].concat());
    let mut shared = both(true, [11, 12]);
    shared.push(anothers());
    assert_eq!(unhooking(&there(shared, 0)), removes);
    assert_eq!(unhooking(&there(both(true, [11, 12]), 1)), removes);
    assert_eq!(unhooking(&there(vec![anothers()], 1)), []);
}

#[test]
fn what_a_hook_comes_to() {
    for (hook, release, filters) in [
        (Hook::Auto, "6.1.0", Some(true)),
        (Hook::Auto, "6.12.1", Some(false)),
        (Hook::Clsact, "6.12.1", Some(true)),
        (Hook::Tcx, "6.12.1", Some(false)),
        (Hook::Tcx, "6.1.0", None),
    ] {
        assert_eq!(hook.filters(release).ok(), filters, "{hook:?} {release}");
    }
}
