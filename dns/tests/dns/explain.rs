//! Where an answer comes from: that what is told never disagrees with the answer, and the same over a running server.

use crate::{
    client::own_address,
    mesh,
    properties::{KINDS, meshes, name, options_of_all, words},
    upstreams::{Upstream, good},
};
use hickory_proto::{
    op::ResponseCode,
    rr::{Name, RData, Record, RecordType},
};
use mesh_control::model::{self, EndpointMode, Locality, Snapshot};
use mesh_dns::{
    Answer, DnsConfig, DnsServer, DnsView, Limits, Lookup, Origin, Outcome, Question, Scope, Step, Upstreams,
    answer, explain,
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use std::{collections::BTreeSet, net::IpAddr, sync::Arc};
use tokio::sync::watch;

const SEED: u64 = 0x3a9;

/// The mesh of all tables, with modes, localities, weights and states at random.
fn shaken(rng: &mut StdRng) -> Snapshot {
    let mut snapshot = meshes();
    let keys: Vec<_> = snapshot.services.keys().cloned().collect();
    for key in keys {
        let mut view = snapshot.services[&key].as_ref().clone();
        let mut spec = view.spec.as_ref().clone();
        if rng.random_range(0..4) == 0 && spec.external_name.is_none() {
            (spec.endpoint_mode, view.vips) = (EndpointMode::Dnsrr, model::Addresses::default());
        }
        let all = [Locality::Any, Locality::PreferLocal, Locality::PreferZone, Locality::LocalOnly];
        spec.locality = all[rng.random_range(0..all.len())];
        view.spec = Arc::new(spec);
        let mut endpoints = view.endpoints.to_vec();
        for e in &mut endpoints {
            match rng.random_range(0..8) {
                0 => e.endpoint.weight = 0,
                1 => e.endpoint.ready = false,
                2 => (e.endpoint.ready, e.endpoint.terminating) = (false, true),
                3 => {
                    e.endpoint.addresses.v4 =
                        e.endpoint.addresses.v6.map_or(e.endpoint.addresses.v4, |_| None);
                }
                _ => {}
            }
        }
        view.endpoints = endpoints.into();
        snapshot.set_service(key, Some(Arc::new(view)));
    }
    snapshot
}

/// A name that leads to a service, and a type that it probably has.
fn likely(rng: &mut StdRng, snapshot: &Snapshot, other: RecordType) -> (RecordType, Name) {
    let services: Vec<_> = snapshot.services.values().collect();
    let service = services[rng.random_range(0..services.len())];
    let endpoint = service.endpoints.first().map(|e| &e.endpoint);
    let kind = if rng.random() { RecordType::A } else { RecordType::AAAA };
    let (prefix, kind) = match rng.random_range(0..8) {
        0 | 1 => (String::new(), kind),
        2 => ("tasks.".to_owned(), kind),
        3 => (endpoint.map_or_else(String::new, |e| format!("{}.", e.instance)), kind),
        4 => ("_80._tcp.".to_owned(), RecordType::SRV),
        5 => ("_http._tcp.".to_owned(), RecordType::SRV),
        6 => match endpoint.and_then(|e| e.addresses.first()) {
            Some(address) => return (RecordType::PTR, Name::from(address)),
            None => (String::new(), kind),
        },
        _ => (String::new(), other),
    };
    let zone = if rng.random() { "cluster" } else { "svc.cluster.local" };
    let (name, namespace) = (&service.key.name, &service.key.namespace);
    (kind, Name::from_ascii(format!("{prefix}{name}.{namespace}.{zone}.")).unwrap())
}

fn addresses<'r>(records: impl IntoIterator<Item = &'r Record>) -> BTreeSet<IpAddr> {
    let address = |r: &Record| match &r.data {
        RData::A(a) => Some(IpAddr::V4(a.0)),
        RData::AAAA(a) => Some(IpAddr::V6(a.0)),
        _ => None,
    };
    records.into_iter().filter_map(address).collect()
}

fn expected(answer: Option<&Answer>) -> Outcome {
    match answer {
        None => Outcome::Forwarded,
        Some(a) if a.rest.is_some() => Outcome::Forwarded,
        Some(a) if a.rcode == ResponseCode::NXDomain => Outcome::NoSuchName,
        Some(a) if a.rcode == ResponseCode::Refused => Outcome::Refused,
        Some(a) if a.rcode == ResponseCode::ServFail => Outcome::Failed,
        Some(a) if a.authority.is_empty() => Outcome::Answer,
        Some(_) => Outcome::NoData,
    }
}

/// That the candidates of a step say what the answer says.
fn agrees(step: &Step, answer: &Answer, kind: RecordType, context: &str) {
    let told = addresses(answer.answers.iter().chain(&answer.additional));
    let of_kind = |a: &&IpAddr| match kind {
        RecordType::A => a.is_ipv4(),
        RecordType::AAAA => a.is_ipv6(),
        _ => true,
    };
    let marked = step.candidates.iter().filter(|c| c.answered);
    let marked: BTreeSet<IpAddr> = marked.flat_map(|c| c.addresses.iter().filter(of_kind).copied()).collect();
    match step.origin {
        Origin::Reverse => {
            let names = answer.answers.iter().filter(|r| r.record_type() == RecordType::PTR).count();
            assert_eq!(step.candidates.iter().filter(|c| c.answered).count(), names, "{context}");
        }
        _ if step.service.is_some() => assert_eq!(marked, told, "{context}: {step:?}"),
        _ => assert!(step.candidates.is_empty(), "{context}"),
    }
    let by_vip = step.candidates.iter().any(|c| c.name == "VIP");
    for c in step.candidates.iter().filter(|_| step.origin != Origin::Reverse) {
        let good =
            c.why.starts_with("ready") || c.why.starts_with("claimed") || c.why.ends_with("another's too");
        assert!(c.answered == good || (by_vip && c.why == "ready: the VIP leads to it"), "{context}: {c:?}");
    }
}

#[test]
fn an_explanation_never_disagrees_with_the_answer() {
    println!("seed {SEED:#x}");
    let mut rng = StdRng::seed_from_u64(SEED);
    let options = options_of_all();
    let (mut with_candidates, mut chains, mut absent) = (0, 0, 0);
    for _ in 0..40 {
        let snapshot = shaken(&mut rng);
        let (view, words) = (DnsView::new(&snapshot), words(&snapshot));
        let namespaces = rng.random::<bool>().then(|| vec![model::Name::new("shop").unwrap()]);
        let scope = Arc::new(Scope { namespaces, bare_names: rng.random(), ..Scope::default() });
        for _ in 0..500 {
            let kind = match rng.random_range(0..20) {
                0 => RecordType::AXFR,
                1 => RecordType::SOA,
                _ => KINDS[rng.random_range(0..KINDS.len())],
            };
            let (kind, name) = match rng.random_range(0..3) {
                0 => (kind, name(&mut rng, &snapshot, &words)),
                _ => likely(&mut rng, &snapshot, kind),
            };
            let asked = Question::new(name, kind).within(Arc::clone(&scope));
            let seed = rng.random();
            let (got, told) = explain(&view, &asked, seed, &options);
            let context = format!("{} {kind}", asked.name);
            assert_eq!(got, answer(&view, &asked, seed, &options), "{context}");
            assert_eq!(told.revision, snapshot.revision);
            let (last, before) = told.steps.split_last().expect("one step at least");
            assert_eq!(last.outcome, expected(got.as_ref()), "{context}");
            assert!(before.iter().all(|step| step.outcome == Outcome::Alias), "{context}");
            assert_eq!(told.steps[0].name, asked.name.to_string());
            assert!(told.steps.iter().all(|s| !s.reasons.is_empty() && !s.meaning.is_empty()), "{told:?}");
            assert!(told.forward.is_none() && told.steps.len() <= 9);
            if let Some(answer) = &got {
                assert_eq!(
                    last.zone.is_some(),
                    !matches!(last.outcome, Outcome::Forwarded | Outcome::Refused)
                );
                agrees(last, answer, kind, &context);
                let soa = answer.authority.first().map(|r| r.ttl);
                let ttl = last.ttl.as_ref().map(|ttl| ttl.seconds);
                assert!(answer.authority.is_empty() || ttl == soa, "{context}: {last:?}");
            }
            with_candidates += usize::from(last.candidates.iter().any(|c| c.answered));
            chains += usize::from(!before.is_empty());
            absent += usize::from(last.outcome == Outcome::NoSuchName);
        }
    }
    println!("{with_candidates} with candidates answered, {chains} chains, {absent} that do not exist");
    assert!(with_candidates > 2000 && chains > 100 && absent > 1000);
}

fn lookup(name: &str, listen: Option<String>) -> Lookup {
    Lookup { name: name.to_owned(), kind: "A".to_owned(), listen, explain: true }
}

#[tokio::test]
async fn the_address_asked_decides_what_is_seen() {
    let (_keep, feed) = watch::channel(Arc::new(mesh::read(
        "service web vip=10.96.0.1\nservice web.shop vip=10.96.0.2\nservice mail external=mail.example.org",
    )));
    let shop = model::Name::new("shop").unwrap();
    let config = DnsConfig {
        listen: vec!["127.0.0.1:0".parse().unwrap(), "127.0.0.2:0".parse().unwrap()],
        scopes: vec![Scope { namespaces: Some(vec![shop]), bare_names: true, ..Scope::default() }],
        upstreams: Upstreams::None,
        ..DnsConfig::default()
    };
    let handle = DnsServer::start(config, feed, &prometheus::Registry::new()).await.unwrap();
    let at = handle.addresses()[0].to_string();
    for (listen, address, step, completed) in [
        (None, "10.96.0.1", "web.cluster.", true),
        (Some(at.clone()), "10.96.0.2", "web.", false),
        (Some("127.0.0.1".to_owned()), "10.96.0.2", "web.", false),
        (Some("127.0.0.2".to_owned()), "10.96.0.1", "web.cluster.", true),
    ] {
        let reply = handle.lookup(&lookup("web", listen.clone())).await.unwrap();
        let told = reply.explanation.unwrap();
        assert_eq!(
            (reply.answers[0].data.as_str(), told.steps[0].name.as_str()),
            (address, step),
            "{listen:?}"
        );
        assert_eq!((told.completed.is_some(), told.listen.is_some()), (completed, listen.is_some()));
        let plain = handle.lookup(&Lookup { explain: false, ..lookup("web", listen) }).await.unwrap();
        assert_eq!((plain.answers, plain.explanation), (reply.answers, None));
    }
    let told = handle.lookup(&lookup("web", Some("127.0.0.1".into()))).await.unwrap().explanation.unwrap();
    assert_eq!((told.listen, told.steps[0].origin), (Some(at.clone()), Origin::Bare));
    let error = handle.lookup(&lookup("web", Some("127.0.0.9".into()))).await.unwrap_err().to_string();
    assert!(error.starts_with("listen: `127.0.0.9` is no address") && error.contains(&at), "{error}");
    // Nobody to ask: a plain query has no answer, an explanation says why.
    let told = handle.lookup(&lookup("www.example.org", None)).await.unwrap();
    assert_eq!(told.rcode, "REFUSED");
    let path = told.explanation.unwrap().forward.unwrap();
    assert_eq!((path.upstreams.len(), path.problem.as_deref()), (0, Some("there is no upstream to ask")));
    assert!(handle.query("www.example.org", "A").await.is_err());
    let told = handle.lookup(&lookup("mail.cluster", None)).await.unwrap();
    assert_eq!((told.rcode.as_str(), told.answers.len()), ("NOERROR", 1), "as a client gets it");
    let told = told.explanation.unwrap();
    assert_eq!((told.steps[1].outcome, told.forward.unwrap().upstreams.len()), (Outcome::Forwarded, 0));
    handle.shutdown().await;
}

#[tokio::test]
async fn the_way_of_a_forwarded_name_is_told() {
    let upstream = Upstream::start(good).await;
    let dead = own_address();
    let (_keep, feed) = watch::channel(Arc::new(mesh::read("service mail external=mail.example.org")));
    let config = DnsConfig {
        listen: vec!["127.0.0.1:0".parse().unwrap()],
        upstreams: Upstreams::List(vec![upstream.at.into()]),
        domains: [("corp.example".to_owned(), vec![dead.into()])].into(),
        limits: Limits { forward_total: std::time::Duration::from_millis(300), ..Limits::default() },
        ..DnsConfig::default()
    };
    let handle = DnsServer::start(config, feed, &prometheus::Registry::new()).await.unwrap();
    let ask = async |name: &str| handle.lookup(&lookup(name, None)).await.unwrap();
    let first = ask("www.example.org").await.explanation.unwrap();
    assert_eq!((first.steps.len(), first.steps[0].outcome), (1, Outcome::Forwarded));
    let path = first.forward.unwrap();
    assert_eq!((path.domain, path.cached, path.problem), (None, None, None), "it was not cached before");
    assert_eq!(path.upstreams.len(), 1);
    assert_eq!(path.upstreams[0].address, upstream.at.to_string());
    assert_eq!(path.answered_by, Some(upstream.at.to_string()));
    let again = ask("www.example.org").await.explanation.unwrap().forward.unwrap();
    let cached = again.cached.unwrap();
    assert!(cached.fresh && cached.rcode == "NOERROR" && cached.seconds > 0, "{cached:?}");
    assert_eq!(again.answered_by.as_deref(), Some("cache"));
    assert!(again.upstreams[0].rtt_seconds.is_some() && again.upstreams[0].state == "good");
    // A CNAME that leads out.
    let out = ask("mail.cluster").await;
    let told = out.explanation.unwrap();
    assert_eq!((out.rcode.as_str(), told.steps.len()), ("NOERROR", 2));
    assert_eq!(told.forward.unwrap().answered_by, Some(upstream.at.to_string()));
    // An upstream that does not answer: what a client gets, and why.
    let lost = ask("db.corp.example").await;
    assert_eq!((lost.rcode.as_str(), lost.answers.len()), ("SERVFAIL", 0));
    let path = lost.explanation.unwrap().forward.unwrap();
    assert_eq!(path.domain.as_deref(), Some("corp.example."));
    assert!(path.problem.unwrap().contains(&dead.to_string()) && path.answered_by.is_none());
    let path = ask("db.corp.example").await.explanation.unwrap().forward.unwrap();
    assert!(path.upstreams[0].state != "good", "{path:?}");
    handle.shutdown().await;
}
