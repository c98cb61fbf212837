//! The corpus: what two nodes that declared one of everything say to each other.

use crate::{
    key,
    keyring::Keyring,
    model::{Affinity, CheckKind, HealthCheck, Name, Origin},
    node::{
        ExchangeId, Input, Node, Output,
        tests::{KEY, at, endpoints, node, put, share, spec, submit},
    },
    packet::Opener,
    record::Record,
};
use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

/// The ring of the one key that all tests have.
pub(super) fn ring() -> Keyring {
    Keyring::new([KEY.parse().unwrap()])
}

/// A node that declared one of everything.
pub(super) fn busy(name: &str, service: &str) -> Node {
    let mut node = node(name);
    let mut full = spec(Some("8080"));
    full.aliases = vec![Name::new("www").unwrap()];
    full.affinity = Some(Affinity { timeout: Duration::from_secs(9) });
    full.health = Some(HealthCheck {
        kind: CheckKind::Http { port: Some(80), path: "/ready".into(), host: Some("h".into()) },
        interval: Duration::from_secs(1),
        timeout: Duration::from_millis(500),
        rise: 1,
        fall: 2,
        start_period: Duration::ZERO,
    });
    full.labels.insert("tier".into(), "front".into());
    full.ttl = Some(5);
    full.ports[0].publish.as_mut().unwrap().allow = vec!["10.0.0.0/8".parse().unwrap()];
    let own = Origin::Node(Name::new(name).unwrap());
    submit(&mut node, 1, vec![put(own, service, full), endpoints(service, &["a", "b"])]);
    submit(&mut node, 2, vec![put(Origin::Cluster, "chosen", spec(None))]);
    node
}

/// What two nodes say to each other in half a minute.
pub(super) struct Talk {
    /// Opened bodies of datagrams for n1.
    pub(super) bodies: Vec<Vec<u8>>,
    pub(super) frames: Vec<Vec<u8>>,
    pub(super) records: Vec<Record>,
}

pub(super) fn talk() -> Talk {
    let (mut a, mut b) = (busy("n1", "web"), busy("n2", "db"));
    share(&mut a, &mut b, at(3));
    let mut opener = Opener::new(Arc::new(ring()), "n1");
    let (mut bodies, mut frames) = (BTreeSet::new(), BTreeSet::new());
    let mut inbox: VecDeque<(bool, Input)> = VecDeque::new();
    let from = |to_a: bool| ([10, 0, 0, if to_a { b'2' } else { b'1' }], 7946).into();
    for step in 1..300u64 {
        let now = at(step * 100);
        match step {
            100 => submit(&mut a, step * 100, vec![endpoints("web", &["c"])]),
            200 => submit(&mut b, step * 100, vec![endpoints("db", &[])]),
            _ => {}
        }
        inbox.extend([(true, Input::Tick), (false, Input::Tick)]);
        let mut limit = 10_000;
        while let Some((to_a, input)) = inbox.pop_front() {
            limit -= 1;
            assert!(limit > 0, "they never stop talking");
            let outputs = if to_a { a.handle(input, now) } else { b.handle(input, now) };
            for output in outputs {
                // An exchange of a's is known to b by the same number, as accepted; and the other way round.
                let theirs = |id: ExchangeId| ExchangeId(id.0 ^ ExchangeId::ACCEPTED);
                match output {
                    Output::Datagram(_, mut packet) => {
                        if !to_a {
                            bodies.extend(opener.open(&mut packet.clone()).map(<[u8]>::to_vec).ok());
                        }
                        inbox.push_back((!to_a, Input::Datagram(from(!to_a), std::mem::take(&mut packet))));
                    }
                    Output::Open(id, _) => {
                        inbox.push_back((!to_a, Input::Accepted(theirs(id))));
                        inbox.push_back((to_a, Input::Opened(id, 900)));
                    }
                    Output::Frame(id, bytes) => {
                        frames.insert(bytes.clone());
                        inbox.push_back((!to_a, Input::Frame(theirs(id), bytes)));
                    }
                    Output::Close(id) => inbox.push_back((!to_a, Input::Closed(theirs(id)))),
                }
            }
        }
    }
    assert_eq!(a.state_hash(), b.state_hash(), "the corpus is of a talk that works");
    for output in b.leave(at(30_000)) {
        if let Output::Datagram(_, mut packet) = output {
            bodies.extend(opener.open(&mut packet).map(<[u8]>::to_vec).ok());
        }
    }
    let records: Vec<Record> = a.records().cloned().collect();
    let tags = |set: &BTreeSet<Vec<u8>>| set.iter().map(|b| b[0]).collect::<BTreeSet<_>>();
    assert!((0..=4).all(|tag| tags(&bodies).contains(&tag)), "{:?}", tags(&bodies));
    assert!((1..=6).all(|tag| tags(&frames).contains(&tag)), "{:?}", tags(&frames));
    assert!((key::NODE..=key::CLAIM).all(|kind| records.iter().any(|r| r.id.kind == kind)));
    Talk { bodies: bodies.into_iter().collect(), frames: frames.into_iter().collect(), records }
}
