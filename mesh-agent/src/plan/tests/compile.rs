//! One test for each rule of `compile.rs`, and the order of operations.

use super::{endpoint, key, n1, name, port, published, range, service, show, told};
use crate::plan::{compile::compile_service, diff::diff, facts::Policy, ops::Table};
use mesh_control::model::{EndpointView, Family, Locality, Protocol, PublishMode, ServiceView};
use std::sync::Arc;

fn v4() -> Policy {
    Policy { families: vec![Family::V4], ..Policy::default() }
}

fn lines(view: &ServiceView, policy: &Policy) -> Vec<String> {
    show(&compile_service(view, &n1(), policy))
}

fn edit(view: &mut ServiceView, edit: impl FnOnce(&mut mesh_control::model::ServiceSpec)) {
    edit(Arc::make_mut(&mut view.spec));
}

fn with(mut e: EndpointView, edit: impl FnOnce(&mut mesh_control::model::Endpoint)) -> EndpointView {
    edit(&mut e.endpoint);
    e
}

#[test]
fn a_vip_port_becomes_a_frontend_per_family() {
    let dual = endpoint("a", "n1", &["10.0.0.1", "fd00::1"]);
    let mut view = service(vec![port("80", 8080)], vec![dual, endpoint("b", "n2", &["10.0.0.2"])]);
    view.vips.set("fd00:96::7".parse().unwrap());
    assert_eq!(
        lines(&view, &Policy::default()),
        [
            "10.96.0.7:80/tcp <- a@n1=10.0.0.1:8080 active 100, b@n2=10.0.0.2:8080 active 100",
            "[fd00:96::7]:80/tcp <- a@n1=[fd00::1]:8080 active 100",
        ]
    );
    assert_eq!(lines(&view, &v4()).len(), 1, "a family that is not served has no frontend");
    view.vips = mesh_control::model::Addresses::default();
    assert!(lines(&view, &v4()).is_empty(), "no VIP, no frontend: dnsrr, or a claim not won yet");
}

#[test]
fn policy_reaches_the_frontend_and_proxy_protocol_only_tcp() {
    let mut udp = port("53", 53);
    (udp.protocol, udp.proxy_protocol) = (Protocol::Udp, true);
    let mut tcp = port("80", 80);
    tcp.proxy_protocol = true;
    let entries = compile_service(&service(vec![tcp, udp], vec![]), &n1(), &v4());
    let of = |p: Protocol| entries.iter().find(|e| e.frontend.key.protocol == p).unwrap();
    assert!(of(Protocol::Tcp).frontend.proxy_protocol && !of(Protocol::Udp).frontend.proxy_protocol);
    let frontend = &of(Protocol::Tcp).frontend;
    assert_eq!((&frontend.service, frontend.scheduler), (&key("web"), mesh_control::model::Scheduler::Wrr));
    assert!(frontend.affinity.is_some() && frontend.allow.is_empty());
}

#[test]
fn a_published_port_opens_where_policy_or_service_says() {
    let p = published(port("80", 8080), "8080", PublishMode::Ingress);
    let mut view = service(vec![p], vec![endpoint("a", "n2", &["10.0.0.1"])]);
    let keys = |view: &ServiceView, policy: &Policy| -> Vec<String> {
        let entries = compile_service(view, &n1(), policy);
        entries
            .iter()
            .map(|e| e.frontend.key)
            .filter(|k| k.listen.is_published())
            .map(|k| k.to_string())
            .collect()
    };
    assert_eq!(keys(&view, &v4()), ["0.0.0.0:8080/tcp"], "also without a local instance");
    assert_eq!(keys(&view, &Policy::default()), ["0.0.0.0:8080/tcp", "[::]:8080/tcp"]);
    let two = Policy { publish: Some(vec!["127.0.0.2".parse().unwrap(), "::1".parse().unwrap()]), ..v4() };
    assert_eq!(keys(&view, &two), ["127.0.0.2:8080/tcp"], "only families in use");
    edit(&mut view, |s| s.ports[0].publish.as_mut().unwrap().address = Some("127.0.0.9".parse().unwrap()));
    assert_eq!(keys(&view, &two), ["127.0.0.9:8080/tcp"], "the service's own address wins");
    edit(&mut view, |s| s.ports[0].publish.as_mut().unwrap().address = Some("0.0.0.0".parse().unwrap()));
    assert_eq!(keys(&view, &two), ["0.0.0.0:8080/tcp"], "unspecified means every local address");
    edit(&mut view, |s| s.ports[0].publish.as_mut().unwrap().allow = vec!["10.0.0.0/8".parse().unwrap()]);
    let entries = compile_service(&view, &n1(), &v4());
    let allows: Vec<usize> = entries.iter().map(|e| e.frontend.allow.len()).collect();
    assert_eq!(allows, [0, 1], "the allow-list is the published port's, not the VIP's");
}

#[test]
fn a_port_that_is_contested_unclaimed_or_unknown_is_not_programmed() {
    let p = published(port("80", 8080), "8080", PublishMode::Ingress);
    let mut view = service(vec![p], vec![]);
    let count = |view: &ServiceView| lines(view, &v4()).len();
    assert_eq!(count(&view), 2);
    view.published[0].conflict = Some(key("other"));
    assert_eq!(count(&view), 1);
    (view.published[0].conflict, view.published[0].port) = (None, None);
    assert_eq!(count(&view), 1);
    (view.published[0].port, view.published[0].index) = (Some(range("8080")), 7);
    assert_eq!(count(&view), 1, "an index that runs past the ports is skipped");
}

#[test]
fn host_mode_exists_only_beside_an_instance_and_leads_only_to_own_ones() {
    let p = published(port("80", 8080), "8080", PublishMode::Host);
    let mut view = service(vec![p], vec![endpoint("b", "n2", &["10.0.0.2"])]);
    assert_eq!(lines(&view, &v4()), ["10.96.0.7:80/tcp <- b@n2=10.0.0.2:8080 active 100"]);
    view.endpoints = vec![endpoint("a", "n1", &["10.0.0.1"]), endpoint("b", "n2", &["10.0.0.2"])].into();
    assert_eq!(lines(&view, &v4())[1], "0.0.0.0:8080/tcp <- a@n1=10.0.0.1:8080 active 100");
}

#[test]
fn the_state_follows_the_conditions_of_the_endpoint() {
    let set = |ready, serving, terminating| {
        with(endpoint("a", "n1", &["10.0.0.1"]), |e| {
            (e.ready, e.serving, e.terminating, e.drain_until) = (ready, serving, terminating, Some(99));
        })
    };
    for ((ready, serving, terminating), word) in [
        ((true, true, false), "active"),
        ((false, true, true), "draining"),
        ((true, true, true), "draining"),
        ((false, false, true), "down"),
        ((false, true, false), "down"),
        ((false, false, false), "down"),
    ] {
        let view = service(vec![port("80", 80)], vec![set(ready, serving, terminating)]);
        let entries = compile_service(&view, &n1(), &v4());
        let state = entries[0].backends[0].state;
        assert_eq!(state.as_str(), word, "ready {ready} serving {serving} terminating {terminating}");
        if let crate::plan::backend::BackendState::Draining { deadline } = state {
            assert_eq!(deadline, Some(99));
        }
    }
}

#[test]
fn a_range_is_split_only_where_ports_do_not_follow() {
    let plain = endpoint("a", "n1", &["10.0.0.1"]);
    let view = service(vec![port("6000-6003", 7000)], vec![plain.clone()]);
    assert_eq!(lines(&view, &v4()), ["10.96.0.7:6000-6003/tcp <- a@n1=10.0.0.1:7000 active 100"]);
    let moved = with(endpoint("b", "n1", &["10.0.0.2"]), |e| e.ports = [(7001, 9001), (7002, 9002)].into());
    let view = service(vec![port("6000-6003", 7000)], vec![plain.clone(), moved]);
    assert_eq!(
        lines(&view, &v4()),
        [
            "10.96.0.7:6000/tcp <- a@n1=10.0.0.1:7000 active 100, b@n1=10.0.0.2:7000 active 100",
            "10.96.0.7:6001-6002/tcp <- a@n1=10.0.0.1:7001 active 100, b@n1=10.0.0.2:9001 active 100",
            "10.96.0.7:6003/tcp <- a@n1=10.0.0.1:7003 active 100, b@n1=10.0.0.2:7003 active 100",
        ]
    );
    let single = with(plain, |e| e.ports = [(8080, 31_000)].into());
    let view = service(vec![port("80", 8080)], vec![single]);
    assert_eq!(lines(&view, &v4()), ["10.96.0.7:80/tcp <- a@n1=10.0.0.1:31000 active 100"]);
    let whole = service(vec![port("1-65535", 1)], vec![]);
    assert_eq!(lines(&whole, &v4()), ["10.96.0.7:1-65535/tcp <-"]);
}

#[test]
fn locality_prefers_while_it_can_and_keeps_the_others_flows() {
    let all = || {
        let of = |i: &str, node: &str, a: &str| endpoint(i, node, &[a]);
        vec![of("a", "n1", "10.0.0.1"), of("b", "n2", "10.0.0.2"), of("c", "n3", "10.0.0.3")]
    };
    let weights = |locality: Locality, endpoints: Vec<EndpointView>| -> Vec<(String, u16)> {
        let mut view = service(vec![port("80", 80)], endpoints);
        edit(&mut view, |s| s.locality = locality);
        let entries = compile_service(&view, &n1(), &v4());
        entries[0].backends.iter().map(|b| (b.id.to_string(), b.weight)).collect()
    };
    let say = |list: &[(&str, u16)]| -> Vec<(String, u16)> {
        list.iter().map(|(n, w)| ((*n).to_owned(), *w)).collect()
    };
    assert_eq!(weights(Locality::Any, all()), say(&[("a@n1", 100), ("b@n2", 100), ("c@n3", 100)]));
    assert_eq!(weights(Locality::PreferLocal, all()), say(&[("a@n1", 100), ("b@n2", 0), ("c@n3", 0)]));
    assert_eq!(weights(Locality::PreferZone, all()), say(&[("a@n1", 100), ("b@n2", 100), ("c@n3", 0)]));
    assert_eq!(weights(Locality::LocalOnly, all()), say(&[("a@n1", 100)]));
    let mut sick = all();
    sick[0].endpoint.ready = false;
    assert_eq!(
        weights(Locality::PreferLocal, sick.clone()),
        say(&[("a@n1", 100), ("b@n2", 100), ("c@n3", 100)]),
        "a local endpoint that takes no flow prefers nobody"
    );
    assert_eq!(weights(Locality::LocalOnly, sick), say(&[("a@n1", 100)]), "never another's");
    let mut idle = all();
    idle[0].endpoint.weight = 0;
    assert_eq!(weights(Locality::PreferLocal, idle), say(&[("a@n1", 0), ("b@n2", 100), ("c@n3", 100)]));
}

#[test]
fn equal_backends_are_kept_once() {
    let mut p = published(port("80", 8080), "8080", PublishMode::Ingress);
    p.protocol = Protocol::Tcp;
    let view = service(vec![p, port("81", 8080)], vec![endpoint("a", "n2", &["10.0.0.1"])]);
    let entries = compile_service(&view, &n1(), &v4());
    assert_eq!(entries.len(), 3);
    assert!(entries.iter().all(|e| Arc::ptr_eq(&e.backends, &entries[0].backends)));
}

#[test]
fn unsorted_and_doubled_endpoints_still_give_a_sorted_list() {
    let e = |i: &str| endpoint(i, "n2", &["10.0.0.1"]);
    let view = service(vec![port("80", 80)], vec![e("b"), e("a"), e("b")]);
    let entries = compile_service(&view, &n1(), &v4());
    let ids: Vec<String> = entries[0].backends.iter().map(|b| b.id.to_string()).collect();
    assert_eq!(ids, ["a@n2", "b@n2"]);
    assert_eq!(name("n2"), entries[0].backends[0].id.node);
}

#[test]
fn operations_come_in_the_promised_order() {
    let table = |view: &ServiceView| -> Table {
        compile_service(view, &n1(), &v4()).into_iter().map(|e| (e.frontend.key, e)).collect()
    };
    let before = service(vec![port("80-90", 80), port("443", 443)], vec![endpoint("a", "n2", &["10.0.0.1"])]);
    let mut after =
        service(vec![port("80-95", 80), port("9000", 9000)], vec![endpoint("b", "n2", &["10.0.0.2"])]);
    let ops = |a: &ServiceView, b: &ServiceView| -> Vec<String> {
        diff(&table(a), &table(b)).iter().map(told).collect()
    };
    assert_eq!(
        ops(&before, &after),
        [
            "remove 10.96.0.7:80-90/tcp",
            "put 10.96.0.7:80-95/tcp",
            "put 10.96.0.7:9000/tcp",
            "put b@n2 10.96.0.7:80-95/tcp",
            "put b@n2 10.96.0.7:9000/tcp",
            "remove 10.96.0.7:443/tcp",
        ],
        "a frontend that stands in the way goes first, another last"
    );
    after.spec = Arc::clone(&before.spec);
    assert_eq!(
        ops(&before, &after),
        [
            "put b@n2 10.96.0.7:80-90/tcp",
            "put b@n2 10.96.0.7:443/tcp",
            "remove a@n2 10.96.0.7:80-90/tcp",
            "remove a@n2 10.96.0.7:443/tcp",
        ],
        "no frontend is without a backend on the way"
    );
}
