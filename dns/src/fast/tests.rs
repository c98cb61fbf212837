//! Both ways say the same, whatever is asked.

#[path = "../../tests/dns/mesh.rs"]
mod mesh;

use super::{Context, Outcome, Query, reply};
use crate::{
    answer::{AnswerOptions, answer},
    encode::{self, Screened},
    packet::question_octets,
    scope::Scope,
    view::DnsView,
    zone::Zone,
};
use hickory_proto::{op::Message, rr::Name};
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use std::sync::Arc;

fn options() -> AnswerOptions {
    AnswerOptions {
        zone: Zone::new("cluster").unwrap(),
        ttl: 5,
        negative_ttl: 7,
        name_servers: vec!["127.0.0.1".parse().unwrap()],
        local_reverse: vec!["10.96.0.0/16".parse().unwrap()],
        kubernetes: Some(Zone::kubernetes("cluster.local").unwrap()),
    }
}

/// Every name of the tables, and near misses.
fn names() -> Vec<String> {
    let tables = [
        include_str!("../../tests/dns/data/answers.txt"),
        include_str!("../../tests/dns/data/kubernetes.txt"),
        include_str!("../../tests/dns/data/search.txt"),
    ];
    let words = tables.into_iter().flat_map(str::lines).filter(|line| !line.starts_with('#'));
    let mut names: Vec<String> = words
        .filter_map(|line| line.split_whitespace().next())
        .map(|name| name.trim_end_matches('.').into())
        .collect();
    names.extend(["example.org", "cluster", "local", "tasks", "web"].map(str::to_owned));
    names
}

/// A packet for one of `names`, more or less.
fn packet(names: &[String], rng: &mut StdRng) -> Vec<u8> {
    let mut name = names.choose(rng).unwrap().clone();
    let odd = rng.random_range(0..3) == 0;
    match rng.random_range(0..10) {
        0 => name = format!("x{name}"),
        1 => name = format!("{}.{name}", names.choose(rng).unwrap().split('.').next().unwrap_or("")),
        2 => name = name.split_once('.').map_or(name.clone(), |(_, rest)| rest.to_owned()),
        _ => {}
    }
    let flags: u8 = if odd { [0, 2, 4, 0x80, 0x28][rng.random_range(0..5)] } else { rng.random_range(0..2) };
    let more: u8 = if odd { [0x40, 0x80][rng.random_range(0..2)] } else { 0x10 * rng.random_range(0..4) };
    let kinds = [1_u16, 1, 1, 28, 28, 33, 16, 6, 2, 5, 12, 15, 65, 255, 252, 250, 41, 0, 64_000];
    let kind = *kinds[..if odd { kinds.len() } else { 6 }].choose(rng).unwrap();
    let opts: [&[u8]; 6] = [
        &[],
        &[],
        &[0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0],
        &[0, 0, 41, 0, 100, 0, 0, 0x80, 0, 0, 0],
        &[0, 0, 41, 16, 0, 0, 1, 0, 0, 0, 0],
        &[0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 12, 0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8],
    ];
    let opt = *opts[..if odd { opts.len() } else { 4 }].choose(rng).unwrap();
    let mut packet =
        vec![rng.random(), rng.random(), flags, more, 0, 1, 0, 0, 0, 0, 0, u8::from(!opt.is_empty())];
    for label in name.split('.') {
        packet.push(u8::try_from(label.len() & 63).unwrap());
        packet.extend(label.bytes().map(|b| if rng.random_bool(0.3) { b.to_ascii_uppercase() } else { b }));
    }
    packet.push(0);
    packet.extend_from_slice(&kind.to_be_bytes());
    packet.extend_from_slice(&[0, if rng.random_range(0..20) == 0 { 3 } else { 1 }]);
    packet.extend_from_slice(opt);
    if rng.random_range(0..8) == 0 {
        let at = rng.random_range(0..packet.len());
        packet[at] = [rng.random(), 0, 0xc0, 63][rng.random_range(0..4)];
    }
    if rng.random_range(0..20) == 0 {
        packet.truncate(rng.random_range(0..packet.len()));
    }
    packet
}

/// The same records, whatever the case that a pointer into the question lends their names.
fn plain(message: Message) -> Message {
    let mut message = message;
    for record in message.answers.iter_mut().chain(&mut message.authorities).chain(&mut message.additionals) {
        record.name = record.name.to_lowercase();
        if let hickory_proto::rr::RData::SOA(soa) = &mut record.data {
            let lower = |name: &Name| name.to_lowercase();
            (soa.mname, soa.rname) = (lower(&soa.mname), lower(&soa.rname));
        }
    }
    message
}

#[test]
fn both_ways_say_the_same() {
    let number = |name, default: u64| std::env::var(name).map_or(default, |text| text.parse().unwrap());
    let (seed, rounds) = (number("FUZZ_SEED", 11), number("FUZZ_ROUNDS", 30_000));
    println!("seed {seed}, {rounds} rounds");
    let (view, options, names) = (DnsView::new(&mesh::example()), options(), names());
    let scopes = [
        Scope::default(),
        Scope { bare_names: true, ..Scope::default() },
        Scope { namespaces: Some(vec!["shop".parse().unwrap()]), bare_names: true, ..Scope::default() },
    ];
    let (mut taken, mut positive, mut out) = (0, 0, Vec::new());
    for round in 0..rounds {
        let mut rng = StdRng::seed_from_u64(seed ^ round.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let packet = packet(&names, &mut rng);
        let (scope, turn, recursion) = (scopes.choose(&mut rng).unwrap(), rng.random(), rng.random());
        let context = Context { view: &view, options: &options, scope, recursion };
        let Some(query) = Query::read(&packet) else { continue };
        let Outcome::Written(code) = reply(&context, &query, turn, &mut out) else { continue };
        let at = format!("FUZZ_SEED={seed}, round {round}: {packet:02x?} gave {out:02x?}");
        let Screened::Query(request) = encode::screen(&packet, ([127, 0, 0, 1], 1).into()) else {
            panic!("no query in the common way: {at}");
        };
        let question = encode::question(&request).unwrap().within(Arc::new(scope.clone()));
        let answer = answer(&view, &question, turn, &options).unwrap_or_else(|| panic!("not ours: {at}"));
        let (common, common_code) = encode::reply(&request, &answer, true, recursion);
        assert_eq!(code, common_code, "{at}");
        let read = |bytes: &[u8]| Message::from_vec(bytes).unwrap_or_else(|e| panic!("{e}: {at}"));
        assert_eq!(plain(read(&out)), plain(read(&common)), "{at}");
        assert_eq!(out[..12], common[..12], "the header: {at}");
        assert_eq!(
            question_octets(&out),
            question_octets(&packet),
            "the question comes back as it was: {at}"
        );
        assert!(out.len() <= usize::from(query.limit), "{at}");
        taken += 1;
        positive += usize::from(out[7] > 0);
    }
    assert!(taken > rounds / 4 && positive > 500, "{taken} of {rounds} taken, {positive} of them positive");
}

#[test]
fn unusual_queries_are_left_to_the_common_way() {
    let good = b"\x00\x07\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03web\x07cluster\x00\x00\x01\x00\x01";
    assert!(Query::read(good).is_some());
    let with = |at: usize, byte: u8| {
        let mut packet = good.to_vec();
        packet[at] = byte;
        packet
    };
    let long = |last: u8| {
        let labels = [63, last].map(|length| [&[length][..], &vec![b'x'; usize::from(length)]].concat());
        [&good[..12], &labels.concat(), &good[good.len() - 5..]].concat()
    };
    assert!(Query::read(&long(62)).is_some(), "128 octets");
    for (what, packet) in [
        ("a response", with(2, 0x81)),
        ("NOTIFY", with(2, 0x21)),
        ("TC", with(2, 0x03)),
        ("Z", with(3, 0x40)),
        ("two questions", with(5, 2)),
        ("an answer", with(7, 1)),
        ("an additional record that is not there", with(11, 1)),
        ("a pointer", with(12, 0xc0)),
        ("class CH", with(good.len() - 1, 3)),
        ("something behind", [&good[..], &[0]].concat()),
        ("a name of 129 octets", long(63)),
        ("too short", good[..good.len() - 1].to_vec()),
    ] {
        assert!(Query::read(&packet).is_none(), "{what}");
    }
}
