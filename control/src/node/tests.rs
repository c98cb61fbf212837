//! What a node makes of what its sources and its peers say, without a network.

use super::{Input, Node, NodeConfig};
use crate::key::RecordId;
use crate::{
    api::LocalChange,
    hlc::{Hlc, Now},
    model::{
        Changes, Endpoint, EndpointMode, Name, NodeInfo, Origin, Protocol, Publish, PublishMode, ServiceKey,
        ServicePort, ServiceSpec, ServiceView,
    },
    record::{Record, Writer},
};
use std::sync::Arc;

mod care;
mod forget;
mod hostile;
mod keys;
mod later;
mod peers;
mod subnets;

/// The one cluster key.
pub(crate) const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const START: u64 = 1_790_000_000_000;

pub(crate) fn at(ms: u64) -> Now {
    Now { mono: ms, wall: START + ms }
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn key(text: &str) -> ServiceKey {
    ServiceKey::in_default(text).unwrap()
}

fn node_at(text: &str, now: Now) -> Node {
    node_on(7946, text, now)
}

fn node_on(port: u16, text: &str, now: Now) -> Node {
    node_with(text, now, |config| config.addr.set_port(port))
}

fn node_with(text: &str, now: Now, change: impl FnOnce(&mut NodeConfig)) -> Node {
    let digit = text.bytes().last().unwrap();
    let mut config = NodeConfig {
        name: name(text),
        addr: ([10, 0, 0, digit], 7946).into(),
        info: NodeInfo { version: text.into(), ..NodeInfo::default() },
        boot: now.wall,
        seeds: vec![],
        vip_cidrs: vec!["10.96.0.0/24".parse().unwrap(), "fd00::/112".parse().unwrap()],
        overlay: vec![],
        dynamic_ports: "30000-30009".parse().unwrap(),
        seed: 1,
        sender: [digit; 16],
    };
    change(&mut config);
    Node::new(config, &[KEY.into()], now).unwrap()
}

pub(crate) fn node(text: &str) -> Node {
    node_at(text, at(0))
}

/// Ticks through the time from `from` to `to`, in milliseconds.
fn run(node: &mut Node, from: u64, to: u64) {
    for ms in (from..=to).step_by(250) {
        node.handle(Input::Tick, at(ms));
    }
}

/// Gives `to` everything that `from` holds, as anti-entropy would, and lets it be up there.
pub(crate) fn share(from: &mut Node, to: &mut Node, now: Now) {
    let id = from.membership.me().clone();
    to.membership.apply(vec![crate::member::Member::alive(id)], now.mono);
    let records: Vec<Record> = from.store.iter().cloned().collect();
    for record in records {
        to.absorb(record, now, false);
    }
    to.settle(now);
}

pub(crate) fn spec(published: Option<&str>) -> ServiceSpec {
    let publish = Publish {
        port: published.map(|p| p.parse().unwrap()),
        mode: PublishMode::Ingress,
        address: None,
        allow: vec![],
    };
    let port = ServicePort {
        name: None,
        protocol: Protocol::Tcp,
        port: "80".parse().unwrap(),
        target: 80,
        publish: Some(publish),
        proxy_protocol: false,
    };
    ServiceSpec { ports: vec![port], ..ServiceSpec::default() }
}

pub(crate) fn put(origin: Origin, service: &str, spec: ServiceSpec) -> LocalChange {
    LocalChange::PutService { origin, key: key(service), spec: Arc::new(spec) }
}

fn delete(service: &str) -> LocalChange {
    LocalChange::DeleteService { origin: Origin::Cluster, key: key(service) }
}

pub(crate) fn endpoints(service: &str, instances: &[&str]) -> LocalChange {
    let endpoints = instances
        .iter()
        .map(|i| Endpoint::new(name(i), std::net::IpAddr::from([10, 1, 0, i.as_bytes()[0]]).into()));
    LocalChange::PutEndpoints { key: key(service), endpoints: endpoints.collect() }
}

/// Whether it takes another for a node of its own name, and so does not insist on its records.
pub(crate) fn is_doubled(node: &Node) -> bool {
    node.membership.peers().is_up(&node.config.name)
}

pub(crate) fn submit(node: &mut Node, ms: u64, changes: Vec<LocalChange>) {
    node.submit(changes, at(ms)).unwrap();
}

fn view(node: &Node, service: &str) -> Arc<ServiceView> {
    Arc::clone(&node.snapshot().services[&key(service)])
}

#[test]
fn a_declaration_has_its_addresses_and_ports_when_submit_returns() {
    let mut a = node("n1");
    submit(&mut a, 1, vec![put(Origin::Cluster, "web", spec(None))]);
    let web = view(&a, "web");
    assert!(web.vips.v4.is_some() && web.vips.v6.is_some());
    assert!(
        "30000-30009".parse::<crate::model::PortRange>().unwrap().overlaps(web.published[0].port.unwrap())
    );
    let plain = ServiceSpec { endpoint_mode: EndpointMode::Dnsrr, ..ServiceSpec::default() };
    submit(&mut a, 2, vec![put(Origin::Cluster, "plain", plain)]);
    assert!(view(&a, "plain").vips.is_empty());
}

#[test]
fn what_changes_nothing_writes_nothing_and_a_change_touches_one_service() {
    let mut a = node("n1");
    let web = || vec![put(Origin::Cluster, "web", spec(None)), endpoints("web", &["a"])];
    submit(&mut a, 1, web());
    submit(&mut a, 2, vec![put(Origin::Cluster, "db", spec(None))]);
    let (hash, revision) = (a.state_hash(), a.snapshot().revision);
    submit(&mut a, 3, web());
    submit(&mut a, 4, vec![delete("none"), endpoints("none", &[])]);
    assert_eq!((a.state_hash(), a.snapshot().revision), (hash, revision));
    let before = view(&a, "web");
    submit(&mut a, 5, vec![endpoints("web", &["a", "b"])]);
    assert_eq!(a.snapshot().changed_since(revision), Changes::Services([key("web")].into()));
    assert!(Arc::ptr_eq(&before.spec, &view(&a, "web").spec), "the spec is shared, not copied");
}

#[test]
fn the_newest_declaration_is_in_force_and_the_disagreement_is_shown() {
    let (mut a, mut b) = (node("n1"), node("n2"));
    submit(&mut a, 1, vec![put(Origin::Node(name("n1")), "web", spec(Some("80")))]);
    submit(&mut b, 2, vec![put(Origin::Node(name("n2")), "web", spec(Some("81")))]);
    share(&mut b, &mut a, at(3));
    let web = view(&a, "web");
    assert_eq!(web.spec.as_ref(), &spec(Some("81")));
    let conflict = web.conflict.clone().unwrap();
    assert_eq!(conflict.in_force, Origin::Node(name("n2")));
    assert_eq!(conflict.overruled, [Origin::Node(name("n1"))]);
    // It ends when they agree; the service goes with its last declaration.
    submit(&mut a, 4, vec![put(Origin::Node(name("n1")), "web", spec(Some("81")))]);
    assert_eq!(view(&a, "web").conflict, None);
    let withdraw = LocalChange::DeleteService { origin: Origin::Node(name("n2")), key: key("web") };
    submit(&mut b, 5, vec![withdraw]);
    share(&mut b, &mut a, at(6));
    assert_eq!(view(&a, "web").origins, [Origin::Node(name("n1"))]);
}

#[test]
fn one_instance_announced_by_several_nodes_counts_once() {
    let (mut a, mut b) = (node("n1"), node("n2"));
    submit(&mut a, 1, vec![put(Origin::Cluster, "web", spec(None)), endpoints("web", &["x"])]);
    submit(&mut b, 1, vec![endpoints("web", &["x", "y"])]);
    share(&mut a, &mut b, at(2));
    let shown: Vec<_> =
        view(&b, "web").endpoints.iter().map(|e| (e.endpoint.instance.clone(), e.node.clone())).collect();
    assert_eq!(shown, [(name("x"), name("n1")), (name("y"), name("n2"))]);
    // The node that counted goes: the other one's announcement counts.
    let id = a.membership.me().clone();
    b.membership.left(id, 3);
    b.settle(at(3));
    assert_eq!((view(&b, "web").endpoints.len(), view(&b, "web").hidden_endpoints), (2, 1));
}

#[test]
fn a_fixed_port_belongs_to_its_oldest_claim_until_that_goes() {
    let mut a = node("n1");
    submit(&mut a, 1, vec![put(Origin::Cluster, "zoo", spec(Some("8080")))]);
    submit(&mut a, 2, vec![put(Origin::Cluster, "ape", spec(Some("8080")))]);
    assert_eq!(view(&a, "zoo").published[0].conflict, None);
    assert_eq!(view(&a, "ape").published[0].conflict, Some(key("zoo")));
    submit(&mut a, 3, vec![delete("zoo")]);
    assert_eq!(view(&a, "ape").published[0].conflict, None);
    // Who comes back does not push out who took it meanwhile.
    submit(&mut a, 4, vec![put(Origin::Cluster, "zoo", spec(Some("8080")))]);
    assert_eq!(view(&a, "zoo").published[0].conflict, Some(key("ape")));
    submit(&mut a, 5, vec![put(Origin::Cluster, "zoo", spec(Some("9090")))]);
    let zoo = view(&a, "zoo");
    assert_eq!(
        (zoo.published[0].conflict.clone(), zoo.published[0].port),
        (None, Some("9090".parse().unwrap()))
    );
}

#[test]
fn a_name_that_comes_back_has_its_old_address() {
    let mut a = node("n1");
    let services: Vec<String> = (0..60).map(|i| format!("s{i}")).collect();
    submit(&mut a, 1, services.iter().map(|s| put(Origin::Cluster, s, ServiceSpec::default())).collect());
    let before = view(&a, "s7").vips;
    submit(&mut a, 2, vec![delete("s7")]);
    assert!(!a.snapshot().services.contains_key(&key("s7")));
    // Its address is nobody else's meanwhile.
    submit(
        &mut a,
        3,
        (60..120).map(|i| put(Origin::Cluster, &format!("s{i}"), ServiceSpec::default())).collect(),
    );
    submit(&mut a, 4, vec![put(Origin::Cluster, "s7", ServiceSpec::default())]);
    assert_eq!(view(&a, "s7").vips, before);
}

#[test]
fn an_old_claim_is_not_displaced_by_a_node_that_did_not_know_it() {
    let (mut old, mut fresh) = (node("n1"), node("n2"));
    // In the old mesh, web's first candidate was taken; the fresh node does not know that.
    let claims = crate::claims::Claims::default();
    let first = claims.free_address(&key("web"), "10.96.0.0/24".parse().unwrap(), None).unwrap();
    let taken = (0..5_000)
        .map(|i| format!("t{i}"))
        .find(|t| claims.free_address(&key(t), "10.96.0.0/24".parse().unwrap(), None) == Some(first));
    submit(&mut old, 1, vec![put(Origin::Cluster, &taken.unwrap(), spec(None))]);
    submit(&mut old, 2, vec![put(Origin::Cluster, "web", spec(None))]);
    submit(&mut fresh, 3, vec![put(Origin::Cluster, "web", spec(None))]);
    assert_ne!(view(&old, "web").vips.v4, view(&fresh, "web").vips.v4);
    let settled = view(&old, "web").vips;
    share(&mut fresh, &mut old, at(4));
    share(&mut old, &mut fresh, at(4));
    assert_eq!((view(&old, "web").vips, view(&fresh, "web").vips), (settled, settled));
    assert_eq!(old.state_hash(), fresh.state_hash());
}

#[test]
fn a_restart_gets_its_records_back_and_what_its_sources_say_now_stands() {
    let mut other = node("n2");
    let mut first = node("n1");
    submit(&mut first, 1, vec![put(Origin::Node(name("n1")), "web", spec(None))]);
    submit(
        &mut first,
        1,
        vec![endpoints("web", &["a"]), endpoints("gone", &["a"]), endpoints("same", &["a"])],
    );
    share(&mut first, &mut other, at(2));
    // The clock of the second run is an hour behind.
    let behind = |ms: u64| Now { mono: ms, wall: START - 3_600_000 + ms };
    let mut second = node_at("n1", behind(0));
    second.submit(vec![endpoints("web", &["b"]), endpoints("same", &["a"])], behind(1)).unwrap();
    let records: Vec<Record> = other.store.iter().cloned().collect();
    for record in records {
        second.absorb(record, behind(2), false);
    }
    second.settle(behind(2));
    assert_eq!(second.own_services(), [key("gone"), key("same"), key("web")]);
    let web = view(&second, "web");
    assert_eq!(web.endpoints[0].endpoint.instance, name("b"), "this run's word stands");
    second.submit(vec![endpoints("gone", &[])], behind(3)).unwrap();
    share(&mut second, &mut other, at(10));
    assert_eq!(view(&other, "web").endpoints[0].endpoint.instance, name("b"));
    assert_eq!(other.state_hash(), second.state_hash(), "its new word is newer than its old one, for all");
    assert_eq!(second.own_services(), [key("same"), key("web")]);
}

#[test]
fn unknown_kinds_are_kept_and_passed_on() {
    let (mut a, mut b) = (node("n1"), node("n2"));
    let id = RecordId { kind: 99, key: b"later".as_slice().into() };
    let writer = Arc::new(Writer { node: name("n9"), boot: 1 });
    let record = Record::new(id.clone(), Hlc::from_millis(START), writer, false, b"what".as_slice().into());
    assert!(a.absorb(record.clone(), at(1), true));
    a.settle(at(1));
    share(&mut a, &mut b, at(2));
    assert_eq!(b.store.get(&id), Some(&record));
}

#[test]
fn bad_changes_are_refused_whole_with_field_value_and_fix() {
    let mut a = node("n1");
    let twice = ServiceSpec { ports: vec![spec(None).ports[0].clone(); 2], ..ServiceSpec::default() };
    let labels = (0..100).map(|i| (format!("x{i}"), "y".repeat(3_000))).collect();
    let huge = ServiceSpec { labels, ..ServiceSpec::default() };
    let foreign = Origin::Node(name("n2"));
    for (change, words) in [
        (put(Origin::Cluster, "web", twice), ["ports[1]", "80/tcp"]),
        (put(Origin::Cluster, "web", huge), ["bytes", "shorten"]),
        (put(foreign, "web", spec(None)), ["n2", "n1"]),
        (endpoints("web", &["a", "a"]), ["endpoint a", "twice"]),
    ] {
        let good = put(Origin::Cluster, "good", spec(None));
        let error = a.submit(vec![good, change], at(1)).unwrap_err().to_string();
        assert!(words.iter().all(|w| error.contains(w)), "{error}");
    }
    assert!(a.snapshot().services.is_empty(), "all or none");
}

#[test]
fn orphaned_claims_end_after_the_service_is_long_gone() {
    let mut a = node("n1");
    submit(&mut a, 1, vec![put(Origin::Cluster, "web", spec(None)), put(Origin::Cluster, "db", spec(None))]);
    submit(&mut a, 2, vec![delete("web")]);
    let claims = |a: &Node| a.records().filter(|r| r.id.kind == crate::key::CLAIM).count();
    assert_eq!(claims(&a), 6);
    // Each minute a part of the store is looked at.
    for minute in (1..=4).flat_map(|day| (0..33).map(move |m| day * 1_442 + m)) {
        a.handle(Input::Tick, at(minute * 60_000));
    }
    assert_eq!(claims(&a), 3, "those of db");
    assert!(view(&a, "db").vips.v4.is_some());
}

#[test]
fn two_nodes_of_one_name_do_not_fight_over_records() {
    let (mut a, mut b) = (node_at("n1", at(0)), node_on(7947, "n1", at(1_000)));
    let mut other = node("n2");
    submit(&mut a, 2_000, vec![endpoints("web", &["a"])]);
    submit(&mut b, 2_000, vec![endpoints("web", &["b"])]);
    let mut hashes = Vec::new();
    for round in 3..9 {
        share(&mut a, &mut other, at(round * 1_000));
        share(&mut b, &mut other, at(round * 1_000));
        share(&mut other, &mut a, at(round * 1_000));
        share(&mut other, &mut b, at(round * 1_000));
        share(&mut a, &mut b, at(round * 1_000));
        share(&mut b, &mut a, at(round * 1_000));
        hashes.push(b.state_hash());
    }
    assert_eq!(hashes[3], hashes[5], "the writing ends");
    assert_eq!(a.state_hash(), b.state_hash());
}
