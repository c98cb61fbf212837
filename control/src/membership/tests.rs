use super::*;
use crate::model::Name;
use rand::RngExt;

fn id(name: &str, port: u16, epoch: u64) -> Identity {
    Identity { name: Name::new(name).unwrap(), addr: ([127, 0, 0, 1], port).into(), epoch }
}

#[test]
fn a_later_run_replaces_the_earlier_one_at_once() {
    let mut a = Membership::new(id("a", 1, 1), 1);
    a.apply(vec![Member::alive(id("b", 2, 5))], 0);
    assert!(a.peers().is_up(&Name::new("b").unwrap()));
    a.take_effects();
    a.apply(vec![Member::alive(id("b", 2, 6))], 0);
    assert_eq!(a.take_effects().up, [id("b", 2, 6)]);
    assert_eq!(a.peers().alive(), [id("b", 2, 6)]);
}

/// More than the first frame of a connection holds would be refused by the peer, again and again.
#[test]
fn of_very_many_members_a_frameful_is_told() {
    let mut a = Membership::new(id("a", 1, 1), 1);
    let others = (0..3_000u16).map(|i| Identity {
        name: Name::new(&format!("{i:0>63}")).unwrap(),
        addr: (std::net::Ipv6Addr::from(u128::MAX - u128::from(i)), 65_535).into(),
        epoch: u64::MAX / 2,
    });
    a.apply(others.map(Member::alive).collect(), 0);
    let told = a.state();
    assert_eq!((told.len(), told[0].id()), (MAX_TOLD, a.me()));
    assert!(postcard::to_stdvec(&told).unwrap().len() + 10_000 < crate::session::MAX_FIRST_FRAME);
}

#[test]
fn a_restart_with_a_clock_behind_goes_beyond_its_ghost() {
    let mut b = Membership::new(id("b", 2, 5), 1);
    b.apply(vec![Member::alive(id("b", 2, 9)), Member::alive(id("a", 1, 1))], 0);
    assert_eq!(b.me(), &id("b", 2, 10));
    assert_eq!(b.peers().alive(), [id("a", 1, 1)]);
}

/// Silence makes a suspect; only a failed try over TCP takes it down.
#[test]
fn a_suspect_is_tried_over_tcp_before_it_is_down() {
    for answers in [true, false] {
        let (mut a, mut b) = (Membership::new(id("a", 1, 1), 1), Membership::new(id("b", 2, 1), 2));
        a.apply(vec![Member::alive(id("b", 2, 1))], 0);
        let (suspect, now) = loop {
            let now = a.deadline().expect("foca keeps probing");
            assert!(now < 20_000, "never suspected");
            a.tick(now);
            a.take_effects();
            if let Some(suspect) = a.next_to_confirm() {
                break (suspect, now);
            }
        };
        assert_eq!(suspect, id("b", 2, 1));
        assert!(a.peers().is_up(&suspect.name), "only a suspect yet");
        if answers {
            // The exchange: suspicion and announcement there, the feed back.
            let suspicion = a.suspicion(&suspect).unwrap();
            let announcement = a.announcement(&suspect);
            b.apply(vec![suspicion, Member::alive(id("a", 1, 1))], now);
            let feed = b.receive_over_tcp(&announcement, &id("a", 1, 1), now).unwrap();
            a.receive(&feed, now);
            assert!(a.suspicion(&suspect).is_none(), "refuted");
        }
        a.confirmed(suspect.addr, answers, now);
        assert_eq!(a.peers().is_up(&suspect.name), answers);
    }
}

#[test]
fn no_message_makes_it_panic() {
    let mut rng = StdRng::seed_from_u64(17);
    let mut a = Membership::new(id("a", 1, 1), 1);
    let mut b = Membership::new(id("b", 2, 1), 2);
    let good = b.announcement(&id("a", 1, 1));
    for round in 0..20_000u64 {
        let mut bytes = good.clone();
        if round % 3 == 0 {
            bytes = (0..rng.random_range(0..100)).map(|_| rng.random()).collect();
        } else {
            for _ in 0..rng.random_range(0..4) {
                let at = rng.random_range(0..bytes.len());
                bytes[at] = rng.random();
            }
            bytes.extend((0..rng.random_range(0..9)).map(|_| rng.random::<u8>()));
        }
        a.receive(&bytes, round);
        a.tick(round);
        a.take_effects();
    }
    assert!(a.errors() > 0);
}

/// A peer that invents members fills the table; who is in it still counts.
#[test]
fn a_full_table_refuses_new_members_only() {
    let mut a = Membership { limit: 100, ..Membership::new(id("a", 1, 1), 1) };
    let mut b = Membership::new(id("b", 2, 1), 2);
    a.apply(vec![Member::alive(b.me().clone())], 0);
    let invented = |i: u32| Identity {
        name: Name::new(&format!("x{i}")).unwrap(),
        addr: (std::net::Ipv4Addr::from(0x0a00_0000 + i), 1).into(),
        epoch: 1,
    };
    a.apply((0..500).map(invented).map(Member::alive).collect(), 0);
    assert_eq!(a.peers().names().count(), 100);
    let (full, errors) = (a.peers().hash(), a.errors());
    a.receive(&Membership::new(id("c", 3, 1), 3).announcement(&id("a", 1, 1)), 1);
    assert_eq!((a.peers().hash(), a.errors()), (full, errors + 1), "a newcomer is refused");
    b.apply(vec![Member::alive(a.me().clone()), Member::down(id("a", 9, 1))], 1);
    a.take_effects();
    a.receive(&b.announcement(&id("a", 1, 1)), 2);
    assert!(a.take_effects().sends.iter().any(|(to, _)| to == b.me()), "a member is answered");
    // A later run of a member takes its place, and one that leaves is down.
    a.apply(vec![Member::alive(id("b", 2, 7)), Member::down(invented(5))], 3);
    assert!(a.peers().alive().contains(&id("b", 2, 7)) && !a.peers().is_up(&invented(5).name));
}

/// Who hears nobody doubts itself; who was stalled has not waited.
#[test]
fn suspicions_wait_while_nobody_is_heard_and_while_the_node_does_not_run() {
    // Whether others are heard, how long it stalls at once: when the first suspect is to be tried.
    let first = |hears: bool, stall: u64| {
        let mut a = Membership::new(id("a", 1, 1), 1);
        a.apply(vec![Member::alive(id("b", 2, 1)), Member::alive(id("c", 3, 1))], 0);
        a.stalled(stall);
        loop {
            let now = a.deadline().expect("foca keeps probing");
            assert!(now < 60_000, "never");
            if hears {
                a.heard(now);
            }
            a.tick(now);
            if a.next_to_confirm().is_some() {
                return now;
            }
        }
    };
    let (heard, deaf) = (first(true, 0), first(false, 0));
    assert!(deaf > heard && deaf <= heard + u64::from(PATIENCE) * SUSPICION, "{heard} {deaf}");
    assert_eq!(first(true, 30_000), heard + 30_000);
}
