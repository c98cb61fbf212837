//! What holds of every name there can be: random names of words that mean something somewhere, asked of random types.

use crate::{answers::options, mesh};
use hickory_proto::{
    op::ResponseCode,
    rr::{Name, RData, RecordType},
};
use mesh_control::model::{self, Snapshot};
use mesh_dns::{Answer, AnswerOptions, DnsView, Question, Scope, Zone, answer};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

const SEED: u64 = 0xd115;
const ROUNDS: usize = 40_000;

pub(crate) const KINDS: [RecordType; 7] = [
    RecordType::A,
    RecordType::AAAA,
    RecordType::SRV,
    RecordType::TXT,
    RecordType::PTR,
    RecordType::CNAME,
    RecordType::ANY,
];

/// The services of the example and those of the Kubernetes table, in one mesh.
pub(crate) fn meshes() -> Snapshot {
    let mut snapshot = mesh::example();
    mesh::change(&mut snapshot, include_str!("data/kubernetes.txt").split_once("\n---\n").unwrap().0);
    snapshot
}

pub(crate) fn options_of_all() -> AnswerOptions {
    AnswerOptions { kubernetes: Some(Zone::kubernetes("cluster.local").unwrap()), ..options() }
}

/// A name of words the mesh knows, often those of a service, below a zone most of the time.
pub(crate) fn name(rng: &mut StdRng, snapshot: &Snapshot, words: &[String]) -> Name {
    if rng.random_range(0..10) == 0 {
        let all = snapshot
            .services
            .values()
            .flat_map(|s| s.vips.iter().chain(s.endpoints.iter().flat_map(|e| e.endpoint.addresses.iter())));
        let all: Vec<IpAddr> = all.collect();
        return Name::from(all[rng.random_range(0..all.len())]);
    }
    let mut labels: Vec<Vec<u8>> = Vec::new();
    for _ in 0..rng.random_range(0..4) {
        labels.push(match rng.random_range(0..40) {
            0 => (0..rng.random_range(1..20)).map(|_| rng.random()).collect(),
            1 => rng.random_range(0..300u32).to_string().into_bytes(),
            _ => words[rng.random_range(0..words.len())].clone().into_bytes(),
        });
    }
    let keys = snapshot.services.len();
    if let Some(key) = snapshot.services.keys().nth(rng.random_range(0..keys * 2)) {
        labels.push(key.name.as_str().into());
        if !key.is_default_namespace() || rng.random() {
            labels.push(key.namespace.as_str().into());
        }
    }
    let below: &[&str] = match rng.random_range(0..10) {
        0..4 => &["cluster"],
        4 | 5 => &["svc", "cluster", "local"],
        6 => &["shop", "svc", "cluster", "local"],
        7 => &["cluster", "local"],
        8 => &["0", "10", "in-addr", "arpa"],
        _ => &[],
    };
    labels.extend(below.iter().map(|label| label.as_bytes().to_vec()));
    let mut name = Name::from_labels(labels).unwrap();
    name.set_fqdn(true);
    name
}

pub(crate) fn words(snapshot: &Snapshot) -> Vec<String> {
    let fixed = [
        "tasks",
        "svc",
        "pod",
        "dns",
        "ns",
        "dns-version",
        "_tcp",
        "_udp",
        "_sctp",
        "_http",
        "_https",
        "_80",
        "_sql",
        "http",
        "cluster",
        "local",
        "10-0-0-1",
        "10-0-1-1",
        "fd00--1",
        "nobody",
        "1",
        "0",
    ];
    let mut all: BTreeSet<String> = fixed.map(str::to_owned).into();
    for (key, service) in &snapshot.services {
        all.extend([key.name.to_string(), key.namespace.to_string()]);
        all.extend(service.spec.aliases.iter().map(ToString::to_string));
        all.extend(service.endpoints.iter().map(|e| e.endpoint.instance.to_string()));
    }
    all.into_iter().collect()
}

fn exists(got: &Answer) -> bool {
    got.rcode != ResponseCode::NXDomain
}

#[test]
fn every_name_keeps_the_rules() {
    println!("seed {SEED:#x}");
    let (snapshot, options) = (meshes(), options_of_all());
    let (view, words) = (DnsView::new(&snapshot), words(&snapshot));
    let mut rng = StdRng::seed_from_u64(SEED);
    let (mut positive, mut absent) = (0, 0);
    for _ in 0..ROUNDS {
        let (name, kind) = (name(&mut rng, &snapshot, &words), KINDS[rng.random_range(0..KINDS.len())]);
        let ask = |name: &Name, kind| answer(&view, &Question::new(name.clone(), kind), 7, &options);
        let Some(got) = ask(&name, kind) else { continue };
        positive += usize::from(!got.answers.is_empty());
        absent += usize::from(!exists(&got));
        // Names exist or not whatever the type, unless a CNAME led to another.
        let cname = |a: &Answer| a.answers.iter().any(|r| r.record_type() == RecordType::CNAME);
        let other = ask(&name, RecordType::A).expect("ours for every type");
        assert!(cname(&got) || cname(&other) || exists(&got) == exists(&other), "{name} {kind}");
        // RFC 8020: below a name that does not exist there is none.
        let parent = name.base_name();
        if exists(&got)
            && let Some(above) = ask(&parent, kind)
        {
            assert!(cname(&above) || exists(&above), "{name} exists, {parent} does not");
        }
        // RFC 2308: nothing has an SOA, of a zone the name is in; something has none.
        let soas: Vec<_> = got.authority.iter().filter(|r| r.record_type() == RecordType::SOA).collect();
        if got.answers.is_empty() {
            let [soa] = soas[..] else { panic!("{name} {kind}: {:?}", got.authority) };
            assert!(soa.name.zone_of(&name), "{name}: the SOA of {}", soa.name);
        } else if !cname(&got) {
            assert!(got.authority.is_empty(), "{name} {kind}");
            assert!(got.answers.iter().all(|r| r.name == name), "{name} {kind}");
        }
        // RFC 2181 section 5: no record twice.
        for section in [&got.answers, &got.additional] {
            assert!((1..section.len()).all(|at| !section[..at].contains(&section[at])), "{name} {kind}");
        }
        // Names in records are names of ours, with an address unless the VIP is not claimed yet.
        for record in &got.answers {
            let (target, claimed) = match &record.data {
                RData::SRV(srv) => (&srv.target, !srv.target.iter().any(|label| label == b"unclaimed")),
                RData::PTR(ptr) => (&ptr.0, true),
                _ => continue,
            };
            let found = [RecordType::A, RecordType::AAAA].map(|kind| ask(target, kind).unwrap());
            assert!(found.iter().all(exists), "{name} {kind} names {target}");
            let addresses: usize = found.iter().map(|got| got.answers.len()).sum();
            assert_eq!(addresses > 0, claimed, "{name} {kind} names {target}");
        }
    }
    println!("{ROUNDS} names: {positive} with an answer, {absent} that do not exist");
    assert!(positive > ROUNDS / 50 && absent > ROUNDS / 10);
}

/// A scope is as if what it hides had never been declared.
#[test]
fn what_is_out_of_sight_changes_no_answer() {
    println!("seed {SEED:#x}");
    let snapshot = meshes();
    let words = words(&snapshot);
    let mut rng = StdRng::seed_from_u64(SEED);
    for visible in [&["shop"][..], &["shop", "default"], &["web", "empty", "default"], &["nowhere"]] {
        let names: Vec<model::Name> = visible.iter().map(|n| model::Name::new(n).unwrap()).collect();
        let mut less = snapshot.clone();
        for key in snapshot.services.keys().filter(|key| !names.contains(&key.namespace)) {
            less.set_service(key.clone(), None);
        }
        less.revision = snapshot.revision;
        let (whole, less) = (DnsView::new(&snapshot), DnsView::new(&less));
        let scope = Arc::new(Scope { namespaces: Some(names), bare_names: rng.random(), ..Scope::default() });
        for _ in 0..ROUNDS / 10 {
            let kind = KINDS[rng.random_range(0..KINDS.len())];
            let asked = Question::new(name(&mut rng, &snapshot, &words), kind).within(Arc::clone(&scope));
            let options = options_of_all();
            assert_eq!(
                answer(&whole, &asked, 3, &options),
                answer(&less, &asked, 3, &options),
                "{visible:?}"
            );
        }
    }
}
