//! The targets, and what must hold of whatever each takes.

use super::{
    mutate::fuzz,
    talk::{Talk, busy, ring, talk},
};
use crate::{
    claim::{Claim, ClaimKey, Held},
    frame::{BucketList, Frame},
    hlc::Hlc,
    key::{self, Key, RecordId},
    keyring::{ClusterKey, wire_id},
    membership::MAX_MEMBERS,
    model::{Endpoint, Name, Origin, PortRange, Protocol, ServiceKey, ServiceSpec},
    node::{
        ExchangeId, Input, Node, Output,
        tests::{KEY, at, is_doubled, put, share, spec, submit},
    },
    packet::{Opener, Refused, Sealer},
    record::{MAX_KEY, MAX_VALUE, Record, Writer, tests::plain},
    session, state_file,
    token::{JoinToken, MAX_SEEDS, is_seed},
    value,
};
use rand::RngExt;
use std::{collections::BTreeSet, sync::Arc};

fn encoded<'a>(records: impl IntoIterator<Item = &'a Record>) -> Vec<u8> {
    let mut bytes = Vec::new();
    records.into_iter().for_each(|record| record.encode(&mut bytes));
    bytes
}

/// Records that were read are within the limits, not larger than what they were read from, and mean the same again.
fn check_records(records: &[Record], from: &[u8]) {
    let size: usize = records.iter().map(|r| r.id.key.len() + r.value.len() + 5).sum();
    assert!(size <= from.len(), "{size} of {}", from.len());
    for record in records {
        assert!(record.id.key.len() <= MAX_KEY && record.value.len() <= MAX_VALUE);
        assert!(record.version < Hlc::LIMIT && Key::fits(&record.id, &record.writer.node, record.deleted));
    }
    assert_eq!(Record::decode_all(&encoded(records)).as_deref(), Ok(records));
}

#[test]
fn records() {
    let mut corpus: Vec<_> = talk().records.iter().map(|record| encoded([record])).collect();
    corpus.push(encoded(&[
        plain("some-key", 9 << 16, "n1", false, "some value"),
        plain("", 1, "n2", true, ""),
    ]));
    fuzz("records", &corpus, |input, _| {
        Record::decode_all(input).inspect(|records| check_records(records, input)).is_ok()
    });
}

/// A kind and its key's bytes.
#[test]
fn keys_of_records() {
    let corpus: Vec<_> = talk().records.iter().map(|r| [&[r.id.kind], &*r.id.key].concat()).collect();
    let writer = Name::new("n1").unwrap();
    fuzz("keys of records", &corpus, |input, _| {
        let Some((kind, key)) = input.split_first() else { return false };
        let id = RecordId { kind: *kind, key: key.into() };
        let meaning = Key::of(&id);
        if !Key::fits(&id, &writer, false) {
            return false;
        }
        assert!(meaning.is_none_or(|key| key.id() == id && key.owner().is_none_or(|owner| *owner == writer)));
        true
    });
}

/// A kind and a value; each is read under every key of that kind.
#[test]
fn values() {
    let known = talk().records;
    let corpus: Vec<_> = known.iter().map(|r| [&[r.id.kind], &*r.value].concat()).collect();
    let writer = Arc::new(Writer { node: Name::new("n1").unwrap(), boot: 1 });
    fuzz("values", &corpus, |input, _| {
        let Some((kind, bytes)) = input.split_first() else { return false };
        let mut sense = false;
        for like in known.iter().filter(|r| r.id.kind == *kind) {
            let record = Record::new(like.id.clone(), Hlc(1), Arc::clone(&writer), false, bytes.into());
            sense |= value::makes_sense(&record);
            let list = value::endpoints(&record);
            assert!(list.len() <= value::MAX_ENDPOINTS && list.iter().all(|e| e.validate().is_ok()));
            if *kind == key::ENDPOINTS {
                let size: usize =
                    list.iter().map(|e| e.instance.as_str().len() + 2 * e.ports.len() + 8).sum();
                assert!(size <= bytes.len() + 1);
                let again = postcard::from_bytes::<Vec<Endpoint>>(&postcard::to_stdvec(&list).unwrap());
                assert_eq!(again, Ok(list));
            }
            if *kind == key::SERVICE
                && let Some(spec) = value::spec(&record)
            {
                assert_eq!(spec.validate(), Ok(()));
                assert!(spec.ports.len() + spec.aliases.len() + spec.labels.len() <= bytes.len());
                let again = postcard::from_bytes::<ServiceSpec>(&postcard::to_stdvec(&spec).unwrap());
                assert_eq!(again, Ok(spec));
            }
            if *kind == key::NODE {
                assert!(value::node(&record).version.len() <= value::MAX_VERSION);
            }
            if let Some(Key::Claim(key)) = Key::of(&like.id)
                && let Some(claim) = value::claim(&key, &record)
            {
                assert_eq!(Claim::decode(&claim.encode()), Some(claim));
                assert_eq!(matches!(key, ClaimKey::Port { .. }), matches!(claim.held, Held::Ports { .. }));
            }
        }
        sense
    });
}

#[test]
fn frames() {
    let corpus = talk().frames;
    fuzz("frames", &corpus, |input, _| {
        let Ok(frame) = Frame::decode(input) else { return false };
        match &frame {
            Frame::Hello(hello) => assert!(hello.members.len() <= MAX_MEMBERS.min(input.len())),
            Frame::Welcome(welcome) => assert!(welcome.members.len() <= MAX_MEMBERS.min(input.len())),
            Frame::Listing(lists) => {
                let size =
                    |list: &BucketList| list.entries.iter().map(|e| e.key.len() + 4).sum::<usize>() + 2;
                assert!(lists.iter().map(size).sum::<usize>() <= input.len());
            }
            Frame::Want(keys) => assert!(keys.iter().map(|(_, k)| k.len() + 2).sum::<usize>() <= input.len()),
            Frame::Records(records) => check_records(records, input),
            _ => {}
        }
        assert_eq!(Frame::decode(&frame.encode()), Ok(frame));
        true
    });
}

/// Only what was sealed for this node opens, once.
#[test]
fn datagrams() {
    let sealed = |to: &str, body: &[u8]| Sealer::new(&ring(), [7; 16]).unwrap().seal(to, body).unwrap();
    let corpus: Vec<_> = talk().bodies.iter().map(|body| sealed("n1", body)).collect();
    fuzz("datagrams", &corpus, |input, _| {
        let mut opener = Opener::new(Arc::new(ring()), "n1");
        let opened = opener.open(&mut input.to_vec()).map(<[u8]>::to_vec);
        assert_eq!(opened.is_ok(), corpus.iter().any(|good| good == input));
        if let Ok(body) = &opened {
            assert_eq!(sealed("n1", body), input);
            assert_eq!(opener.open(&mut input.to_vec()), Err(Refused::Replayed));
            let mut elsewhere = Opener::new(Arc::new(ring()), "n2");
            assert_eq!(elsewhere.open(&mut input.to_vec()), Err(Refused::Forged));
        }
        opened.is_ok()
    });
}

/// Greeting, answer and sealed frames of a connection.
#[test]
fn connections() {
    let id = wire_id(ring().sealing().id());
    let hello = session::greeting(id, [1; 16]);
    let (answer, _) = session::respond(&ring(), &hello, [2; 16]).unwrap();
    let mut sender = session::initiate(&ring(), id, [1; 16], &answer).unwrap();
    let mut sealed = Vec::new();
    sender.send.seal(b"some frame", &mut sealed).unwrap();
    let good = [&hello[..], &answer, &sealed].concat();
    fuzz("connections", std::slice::from_ref(&good), |input, _| {
        let Some((greeting, rest)) = input.split_first_chunk() else { return false };
        let responded = session::respond(&ring(), greeting, [2; 16]);
        assert_eq!(
            responded.is_ok(),
            greeting[..5] == hello[..5],
            "the version and the key decide, the salt does not"
        );
        let Some((answer, rest)) = rest.split_first_chunk() else { return false };
        assert_eq!(session::initiate(&ring(), id, [1; 16], answer).is_ok(), answer[0] == hello[0]);
        let (Ok((_, mut session)), Some((prefix, rest))) = (responded, rest.split_first_chunk()) else {
            return false;
        };
        let Ok(length) = session.receive.length(*prefix) else { return false };
        assert!((session::TAG..=session::MAX_FIRST_FRAME).contains(&length));
        let Some(frame) = rest.get(..length) else { return false };
        let opened = session.receive.open(frame.to_vec());
        assert_eq!(opened.is_ok(), *greeting == hello && frame == &sealed[4..], "{opened:?}");
        opened.is_ok()
    });
}

/// A state file, also with the checksum put right after the damage.
#[test]
fn state_files() {
    const BODY: usize = 10 + 1 + 32;
    let (name, now) = (Name::new("n1").unwrap(), at(0));
    let records = talk().records;
    let corpus = [state_file::encode(&name, records.iter(), now), state_file::encode(&name, [].iter(), now)];
    fuzz("state files", &corpus, |input, _| {
        let as_is = state_file::decode(input, &name, now);
        assert_eq!(as_is.is_ok(), corpus.iter().any(|good| good == input), "{as_is:?}");
        let mut file = input.to_vec();
        if let Some((head, body)) = file.split_at_mut_checked(BODY) {
            head[11..].copy_from_slice(ring::digest::digest(&ring::digest::SHA256, body).as_ref());
        }
        match state_file::decode(&file, &name, now) {
            Ok(state_file::Kept::Records(records)) => check_records(&records, &file),
            Ok(state_file::Kept::TooOld(age)) => assert!(age > 0),
            Err(_) => return false,
        }
        true
    });
}

/// Whatever is no key is refused without being shown.
#[test]
fn keys() {
    let corpus = [KEY.as_bytes().to_vec(), crate::generate_key().unwrap().into_bytes()];
    fuzz("keys", &corpus, |input, _| {
        let text = String::from_utf8_lossy(input).into_owned();
        match text.parse::<ClusterKey>() {
            Ok(key) => assert!(key.expose() == text.trim() && !format!("{key:?}").contains(text.trim())),
            Err(error) => {
                assert!(text.trim().len() < 8 || !error.to_string().contains(text.trim()));
                return false;
            }
        }
        true
    });
}

/// The words that configuration, files and the API have.
#[test]
fn words() {
    let corpus = ["web-1", "web.shop", "6000-6010", "80", "tcp"].map(|text| text.as_bytes().to_vec());
    fuzz("words", &corpus, |input, _| {
        let text = String::from_utf8_lossy(input);
        let service = text.parse::<ServiceKey>();
        assert!(service.iter().all(|key| key.to_string().parse().as_ref() == Ok(key)));
        let ports = text.parse::<PortRange>();
        assert!(ports.iter().all(|ports| ports.to_string().parse().as_ref() == Ok(ports)));
        let name = Name::new(&text);
        assert!(name.iter().all(|name| name.as_str() == text.to_ascii_lowercase()));
        service.is_ok() || ports.is_ok() || text.parse::<Protocol>().is_ok()
    });
}

/// What this node said itself: its records, live or deleted, without the versions.
fn own(node: &Node) -> Vec<(RecordId, bool, Arc<[u8]>)> {
    let mine = |r: &&Record| Key::of(&r.id).is_some_and(|k| k.owner().is_some_and(|o| o.as_str() == "n1"));
    let records = node.records().filter(mine);
    records.map(|r| (r.id.clone(), r.deleted, Arc::clone(&r.value))).collect()
}

/// A whole node takes damaged bodies and frames, in turn and out of turn: its own records stay as they are, no address
/// is in two services' hands, and what it answers is bounded. Its failure detector reads the bodies with tag 0.
#[test]
fn a_node() {
    const FRESH: u64 = 100;
    let Talk { bodies, frames, .. } = talk();
    let corpus: Vec<_> = bodies
        .iter()
        .map(|body| [&[0], &body[..]].concat())
        .chain(frames.iter().map(|frame| [&[1], &frame[..]].concat()))
        .collect();
    let (mut subject, mut before) = (busy("n1", "web"), Vec::new());
    let mut sealer = Sealer::new(&ring(), [7; 16]).unwrap();
    let (mut now, mut step, mut running, mut doubled) = (3, 0, Vec::new(), false);
    fuzz("a node", &corpus, |input, rng| {
        if step % FRESH == 0 {
            // Whatever it heard, it still takes what its sources say.
            if !doubled {
                submit(&mut subject, now + 1, vec![put(Origin::Cluster, "after", spec(None))]);
                assert!(subject.snapshot().services.keys().any(|key| key.name.as_str() == "after"));
            }
            doubled = false;
            subject = busy("n1", "web");
            share(&mut busy("n2", "db"), &mut subject, at(3));
            (before, now) = (own(&subject), 3);
            running.clear();
        }
        step += 1;
        now += rng.random_range(0..1_500);
        let Some((way, bytes)) = input.split_first() else { return false };
        let refused: u64 = subject.stats().refused.iter().map(|(_, n)| n).sum();
        let input = if way % 2 == 0 {
            let Some(packet) = sealer.seal("n1", bytes) else { return false };
            Input::Datagram(([10, 0, 0, b'2'], 7946).into(), packet)
        } else {
            if running.is_empty() || rng.random_range(0..4) == 0 {
                let id = ExchangeId(ExchangeId::ACCEPTED + step);
                subject.handle(Input::Accepted(id), at(now));
                running.push(id);
            }
            Input::Frame(running[rng.random_range(0..running.len())], bytes.to_vec())
        };
        let mut said = 0;
        let mut todo = vec![input];
        while let Some(input) = todo.pop() {
            for output in subject.handle(input, at(now)) {
                match output {
                    Output::Datagram(_, bytes) | Output::Frame(_, bytes) => said += bytes.len(),
                    Output::Open(id, _) => {
                        running.push(id);
                        todo.push(Input::Opened(id, 900));
                    }
                    Output::Close(id) => running.retain(|other| *other != id),
                }
            }
        }
        assert!(said < 512 * 1024, "{said} bytes in answer to {}", bytes.len());
        let snapshot = subject.snapshot();
        let vips: Vec<_> = snapshot.services.values().flat_map(|s| s.vips.iter()).collect();
        assert_eq!(vips.iter().collect::<BTreeSet<_>>().len(), vips.len(), "an address is held twice");
        doubled |= is_doubled(&subject);
        let after = own(&subject);
        // Records under its name that it never wrote are those of an earlier run, to be withdrawn by its sources.
        let stand = doubled || before.iter().all(|said| after.contains(said));
        assert!(stand, "own records: {before:?} became {after:?}");
        subject.stats().refused.iter().map(|(_, n)| n).sum::<u64>() == refused
    });
}

/// What is no token is refused without being shown; what is one means the same when written again.
#[test]
fn tokens() {
    let keys = vec![KEY.parse().unwrap()];
    let token = |seeds: &[&str]| {
        let seeds = seeds.iter().map(|seed| (*seed).to_owned()).collect();
        JoinToken { expires: 1_790_000_000, seeds, keys: keys.clone() }.encode().into_bytes()
    };
    fuzz("tokens", &[token(&["10.0.0.1:7946"]), token(&["node-a:7946", "[fd00::1]:7946"])], |input, _| {
        let text = String::from_utf8_lossy(input);
        match JoinToken::decode(&text) {
            Ok(token) => {
                assert!(token.seeds.len() <= MAX_SEEDS && token.seeds.iter().all(|seed| is_seed(seed)));
                let again = JoinToken::decode(&token.encode()).unwrap();
                assert_eq!(
                    (again.expires, again.seeds, again.keys),
                    (token.expires, token.seeds, token.keys)
                );
                true
            }
            Err(error) => {
                assert!(text.len() < 16 || !error.to_string().contains(text.trim()));
                false
            }
        }
    });
}
