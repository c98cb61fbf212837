//! What a later release may say: it is passed over or passed on, never fatal.

use super::*;
use crate::{
    frame::{Frame, Hello},
    keyring::Keyring,
    member::{Identity, Member},
    node::{ExchangeId, Output},
    packet::Sealer,
};

fn refused(node: &Node, reason: &str) -> u64 {
    node.stats().refused.iter().find(|(r, _)| *r == reason).map_or(0, |(_, n)| *n)
}

fn unknown_kind() -> Record {
    let id = RecordId { kind: 99, key: b"later".as_slice().into() };
    let writer = Arc::new(Writer { node: name("n9"), boot: 1 });
    Record::new(id, Hlc::from_millis(START), writer, false, b"what".as_slice().into())
}

#[test]
fn datagrams_of_a_later_release_are_counted_and_their_records_passed_on() {
    let mut a = node("n1");
    let other = Identity { name: name("n9"), addr: ([10, 0, 0, 9], 7946).into(), epoch: 1 };
    a.membership.apply(vec![Member::alive(other.clone())], 0);
    a.settle(at(0));
    let mut sealer = Sealer::new(&Keyring::new([KEY.parse().unwrap()]), [9; 16]).unwrap();
    let mut say = |a: &mut Node, body: &[u8]| {
        let packet = sealer.seal("n1", body).unwrap();
        a.handle(Input::Datagram(other.addr, packet), at(1))
    };
    for tag in 5..=255 {
        say(&mut a, &[tag, 1, 2, 3]);
    }
    assert_eq!(refused(&a, "unknown message"), 251);
    let mut body = vec![1];
    unknown_kind().encode(&mut body);
    say(&mut a, &body);
    // It goes on by gossip as it came.
    let sent = (2..500).step_by(20).flat_map(|ms| a.handle(Input::Tick, at(ms)));
    assert!(
        sent.filter(|o| matches!(o, Output::Datagram(to, b) if *to == other.addr && b.len() > 60)).count()
            > 0
    );
    assert_eq!(a.store.get(&unknown_kind().id), Some(&unknown_kind()));
}

#[test]
fn an_exchange_goes_on_over_unknown_frames_and_longer_bodies() {
    let (mut a, id) = (node("n1"), ExchangeId(ExchangeId::ACCEPTED + 1));
    a.absorb(unknown_kind(), at(0), false);
    a.handle(Input::Accepted(id), at(1));
    let from = Identity { name: name("n9"), addr: ([10, 0, 0, 9], 7946).into(), epoch: 1 };
    let members = vec![Member::alive(from.clone())];
    let hello = Hello { from, to: None, members, message: vec![], root: 1, known: 2, wall: START };
    let hello = [Frame::Hello(Box::new(hello)).encode(), b"of a later release".to_vec()].concat();
    let unknown = vec![123, 4, 5];
    let mut answers = Vec::new();
    // Before the greeting and after it.
    for frame in [unknown.clone(), hello, unknown.clone(), Frame::Members(vec![]).encode(), unknown] {
        for output in a.handle(Input::Frame(id, frame), at(2)) {
            match output {
                Output::Frame(to, bytes) if to == id => answers.push(Frame::decode(&bytes).unwrap()),
                Output::Close(closed) => panic!("{closed:?} is closed"),
                _ => {}
            }
        }
    }
    assert!(matches!(&answers[..], [Frame::Welcome(welcome)] if welcome.buckets.is_some()), "{answers:?}");
    assert_eq!(refused(&a, "unknown message"), 3);
    assert!(a.membership.peers().is_up(&name("n9")));
    // All buckets listed empty: it gives what it has, the unknown kind too.
    let bucket = u8::try_from(crate::store::bucket_of(&unknown_kind().id)).unwrap();
    let lists = Frame::Listing(vec![crate::frame::BucketList { bucket, entries: vec![] }]).encode();
    let outputs = a.handle(Input::Frame(id, lists), at(3));
    let given = outputs.iter().any(|o| match o {
        Output::Frame(_, bytes) => {
            matches!(Frame::decode(bytes), Ok(Frame::Records(records)) if records.contains(&unknown_kind()))
        }
        _ => false,
    });
    assert!(given, "{outputs:?}");
}
