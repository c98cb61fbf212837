//! What peers say that is wrong, whether by a clock, a bug or on purpose.

use super::*;
use crate::{
    claim::{Claim, ClaimKey, Held},
    key::Key,
    model::{Affinity, CheckKind, Family, HealthCheck},
};
use std::{net::IpAddr, time::Duration};

/// A record as the peer n9 writes it at `ms`.
fn peer(key: &Key, ms: u64, value: Vec<u8>) -> Record {
    let writer = Arc::new(Writer { node: name("n9"), boot: 1 });
    Record::new(key.id(), Hlc::from_millis(START + ms), writer, false, value.into())
}

fn bad_values(node: &Node) -> u64 {
    node.stats().refused.iter().find(|(reason, _)| *reason == "bad value").map_or(0, |(_, n)| *n)
}

#[test]
fn a_declaration_from_a_peer_passes_the_checks_of_a_local_one() {
    let check = |path: &str, interval| HealthCheck {
        kind: CheckKind::Http { port: None, path: path.into(), host: None },
        interval,
        timeout: Duration::from_secs(1),
        rise: 1,
        fall: 1,
        start_period: Duration::ZERO,
    };
    let with = |change: &dyn Fn(&mut ServiceSpec)| {
        let mut spec = spec(None);
        change(&mut spec);
        spec
    };
    type Spoil<'a> = (&'a str, &'a dyn Fn(&mut ServiceSpec));
    let bad: [Spoil<'_>; 11] = [
        ("target + range", &|s| s.ports[0].target = 65_535),
        ("no target", &|s| s.ports[0].target = 0),
        ("clash", &|s| s.ports.push(s.ports[0].clone())),
        ("drain", &|s| s.drain = Duration::MAX),
        ("idle", &|s| s.idle_timeout = Some(Duration::ZERO)),
        ("affinity", &|s| s.affinity = Some(Affinity { timeout: Duration::MAX })),
        ("no connection", &|s| s.max_connections = Some(0)),
        ("ttl", &|s| s.ttl = Some(u32::MAX)),
        ("interval", &|s| s.health = Some(check("/", Duration::MAX))),
        ("request line", &|s| s.health = Some(check("/\u{b}x HTTP/1.0", Duration::from_secs(1)))),
        ("multicast", &|s| {
            s.ports[0].publish.as_mut().unwrap().address = Some([224, 0, 0, 1].into());
        }),
    ];
    for (i, (what, change)) in bad.into_iter().enumerate() {
        let mut a = node("n1");
        let mut spec = with(change);
        if what == "target + range" {
            spec.ports[0].port = "80-81".parse().unwrap();
        }
        // A peer may say it: it is kept for those who know better, and moves nothing here.
        let record = peer(&Key::Service(key("web"), Origin::Cluster), 1, postcard::to_stdvec(&spec).unwrap());
        assert!(a.absorb(record.clone(), at(1), true), "{what}");
        a.settle(at(1));
        assert!(a.snapshot().services.is_empty(), "{i} {what}: it is in force");
        assert_eq!(bad_values(&a), 1, "{what}");
        assert_eq!(a.store.get(&record.id), Some(&record), "{what}: kept and passed on");
        // This node's sources may not say it either, and a good declaration takes its place.
        assert!(a.submit(vec![put(Origin::Cluster, "web", spec)], at(2)).is_err(), "{what}");
        submit(&mut a, 3, vec![put(Origin::Cluster, "web", super::spec(None))]);
        assert!(view(&a, "web").vips.v4.is_some(), "{what}");
    }
}

#[test]
fn of_a_peers_endpoints_the_senseless_ones_are_not_shown() {
    let mut a = node("n1");
    submit(&mut a, 1, vec![put(Origin::Cluster, "web", spec(None))]);
    let one = |instance: &str, address: &str| {
        Endpoint::new(name(instance), address.parse::<IpAddr>().unwrap().into())
    };
    let mut list = vec![
        one("good", "10.1.0.1"),
        one("good", "10.1.0.2"),
        one("any", "0.0.0.0"),
        one("many", "ff02::1"),
        one("all", "255.255.255.255"),
        one("port0", "10.1.0.3"),
        one("empty", "10.1.0.4"),
        one("loop", "127.0.0.9"),
    ];
    list[5].ports.insert(80, 0);
    list[6].addresses = crate::model::Addresses::default();
    let record = peer(&Key::Endpoints(name("n9"), key("web")), 1, postcard::to_stdvec(&list).unwrap());
    let id = crate::member::Identity { name: name("n9"), addr: ([10, 0, 0, 9], 7946).into(), epoch: 1 };
    a.membership.apply(vec![crate::member::Member::alive(id)], 1);
    a.absorb(record, at(1), false);
    a.settle(at(1));
    let shown = view(&a, "web");
    let shown: Vec<_> = shown.endpoints.iter().map(|e| e.endpoint.instance.as_str()).collect();
    assert_eq!((shown, bad_values(&a)), (vec!["good", "loop"], 1));
    // One's own sources are told which and why.
    let own = LocalChange::PutEndpoints { key: key("web"), endpoints: vec![list[2].clone()] };
    let error = a.submit(vec![own], at(2)).unwrap_err().to_string();
    assert!(error.contains("endpoint any of web") && error.contains("0.0.0.0"), "{error}");
}

#[test]
fn a_claim_of_another_sort_than_its_key_claims_nothing() {
    let mut a = node("n1");
    submit(&mut a, 1, vec![put(Origin::Cluster, "web", spec(None))]);
    let vip = |family| Key::Claim(ClaimKey::Vip { service: key("web"), family });
    let ports = Held::Ports { range: "80".parse().unwrap(), address: None, host: false };
    for (family, held) in [
        (Family::V4, Held::Address("fd00::9".parse().unwrap())),
        (Family::V6, Held::Address([224, 0, 0, 1].into())),
        (Family::V4, Held::Address([255; 4].into())),
        (Family::V4, ports),
    ] {
        let claim = Claim { generation: 1, stamp: Hlc::from_millis(1), held };
        let mut a = node("n1");
        submit(&mut a, 1, vec![put(Origin::Cluster, "web", spec(None))]);
        let before = view(&a, "web").vips;
        a.absorb(peer(&vip(family), 2, claim.encode()), at(2), false);
        // The address is lacking now, and claimed anew.
        for ms in (2..10_000).step_by(250) {
            a.handle(Input::Tick, at(ms));
        }
        assert_eq!(view(&a, "web").vips, before, "{held:?}");
    }
}

/// The clock of a node must not decide who had a port first.
#[test]
fn a_node_whose_clock_is_off_takes_no_port_from_who_has_it() {
    const HOUR: u64 = 3_600_000;
    for (first, second) in [(0, -1), (1, 0)] {
        let now = |hours: i64, ms: u64| Now {
            mono: ms,
            wall: (START + ms).saturating_add_signed(hours * HOUR.cast_signed()),
        };
        let (mut a, mut b) = (node_at("n1", now(first, 0)), node_at("n2", now(second, 0)));
        a.submit(vec![put(Origin::Cluster, "old", spec(Some("8080")))], now(first, 1)).unwrap();
        share(&mut a, &mut b, now(second, 2));
        b.submit(vec![put(Origin::Cluster, "new", spec(Some("8080")))], now(second, 3)).unwrap();
        share(&mut b, &mut a, now(first, 4));
        for node in [&a, &b] {
            assert_eq!(view(node, "old").published[0].conflict, None, "clocks {first} h and {second} h");
            assert_eq!(view(node, "new").published[0].conflict, Some(key("old")));
        }
    }
}
