//! Each change of the state, and what is said of it.

use super::diff::diff;
use mesh_control::model::{
    Conflict, Endpoint, EndpointView, Name, NodeInfo, NodeState, NodeView, Origin, PortRange, Protocol,
    Publish, PublishMode, PublishedView, ServiceKey, ServicePort, ServiceSpec, ServiceView, Snapshot, Tunnel,
    TunnelKey,
};
use std::{net::IpAddr, sync::Arc};

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn node(state: NodeState) -> NodeView {
    let info = NodeInfo {
        addresses: IpAddr::from([10, 0, 0, 2]).into(),
        version: "1".into(),
        ..NodeInfo::default()
    };
    let gossip = Some("10.0.0.2:7946".parse().unwrap());
    NodeView { name: name("n2"), info, gossip, state, subnets: vec![] }
}

fn endpoint(instance: &str, node: &str) -> EndpointView {
    let address = IpAddr::from([10, 0, 0, 9]);
    EndpointView { node: name(node), zone: None, endpoint: Endpoint::new(name(instance), address.into()) }
}

/// A service that publishes 80 on 8080, without endpoints.
fn web() -> ServiceView {
    let port = ServicePort {
        name: None,
        protocol: Protocol::Tcp,
        port: PortRange::single(80).unwrap(),
        target: 8000,
        publish: Some(Publish {
            port: PortRange::single(8080).ok(),
            mode: PublishMode::Ingress,
            address: None,
            allow: vec![],
        }),
        proxy_protocol: false,
    };
    let published = PublishedView {
        index: 0,
        protocol: Protocol::Tcp,
        port: PortRange::single(8080).ok(),
        mode: PublishMode::Ingress,
        conflict: None,
    };
    ServiceView {
        key: ServiceKey::in_default("web").unwrap(),
        spec: Arc::new(ServiceSpec { ports: vec![port], ..ServiceSpec::default() }),
        origins: vec![Origin::Cluster],
        conflict: None,
        vips: IpAddr::from([10, 96, 0, 7]).into(),
        published: vec![published],
        endpoints: vec![].into(),
        hidden_endpoints: 0,
    }
}

/// The state of one moment: node n2 and the service.
fn put(s: &mut Snapshot, n2: Option<NodeView>, web: Option<ServiceView>) {
    s.set_node(name("n2"), n2.map(Arc::new));
    s.set_service(ServiceKey::in_default("web").unwrap(), web.map(Arc::new));
}

/// What is said when the one moment follows the other.
fn said(
    old: (Option<NodeView>, Option<ServiceView>),
    new: (Option<NodeView>, Option<ServiceView>),
) -> Vec<String> {
    let mut before = Snapshot::empty(name("n1"));
    before.set_node(name("n1"), Some(Arc::new(NodeView { name: name("n1"), ..node(NodeState::Alive) })));
    put(&mut before, old.0, old.1);
    let mut after = before.clone();
    put(&mut after, new.0, new.1);
    let news = diff(&before, &after);
    news.iter().map(|n| format!("{} {}: {}", n.kind.as_str(), n.subject, n.text)).collect()
}

#[test]
fn nodes() {
    use NodeState::{Alive, Down, Left, Suspect};
    let at = |state| Some(node(state));
    let table: &[(Option<NodeView>, Option<NodeView>, &[&str])] = &[
        (None, None, &[]),
        (at(Alive), at(Alive), &[]),
        (None, at(Alive), &["node-up n2: first seen, at 10.0.0.2:7946"]),
        (None, at(Down), &["node-down n2: first heard of, and it is down"]),
        (None, at(Left), &["node-left n2: first heard of, and it has left"]),
        (at(Alive), at(Suspect), &["node-suspect n2: missed a probe, at 10.0.0.2:7946"]),
        (at(Suspect), at(Alive), &["node-up n2: answers again, at 10.0.0.2:7946"]),
        (at(Suspect), at(Down), &["node-down n2: does not answer; its endpoints are hidden"]),
        (at(Alive), at(Left), &["node-left n2: said good-bye; its endpoints are hidden"]),
        (at(Down), at(Alive), &["node-returned n2: was down, at 10.0.0.2:7946"]),
        (at(Left), at(Suspect), &["node-returned n2: had left, at 10.0.0.2:7946"]),
        (at(Down), at(Left), &["node-left n2: said good-bye; its endpoints are hidden"]),
        (at(Down), None, &["node-forgotten n2: no longer known"]),
    ];
    for (old, new, want) in table {
        assert_eq!(said((old.clone(), None), (new.clone(), None)), *want, "{old:?} {new:?}");
    }
    type Change = fn(&mut NodeInfo);
    let info: &[(Change, &str)] = &[
        (|i| i.draining = true, "node-drained n2: takes no new flow"),
        (|i| i.version = "2".into(), "node-changed n2: version 1 -> 2"),
        (|i| i.zone = Some(name("z")), "node-changed n2: zone none -> z"),
        (
            |i| i.tunnels = vec![Tunnel { key: TunnelKey([0; 32]), port: 1 }],
            "node-changed n2: overlay keys none -> AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        ),
        (
            |i| i.addresses = IpAddr::from([10, 0, 0, 3]).into(),
            "node-changed n2: addresses 10.0.0.2 -> 10.0.0.3",
        ),
    ];
    for (change, want) in info {
        let mut changed = node(Alive);
        change(&mut changed.info);
        assert_eq!(said((at(Alive), None), (Some(changed), None)), [*want]);
    }
    let mut drained = node(Alive);
    drained.info.draining = true;
    let undrained = said((Some(drained.clone()), None), (at(Alive), None));
    assert_eq!(undrained, ["node-undrained n2: takes new flows again"]);
    assert_eq!(
        said((None, None), (Some(drained), None)).len(),
        2,
        "a node that is drained when it is first seen"
    );
    let mut unknown = node(Alive);
    unknown.info = NodeInfo::default();
    assert!(said((Some(unknown), None), (at(Alive), None)).is_empty(), "its first record is no change");
}

#[test]
fn services() {
    let change = |change: fn(&mut ServiceView)| {
        let mut view = web();
        change(&mut view);
        Some(view)
    };
    fn spec(view: &mut ServiceView) -> &mut ServiceSpec {
        Arc::make_mut(&mut view.spec)
    }
    fn conflict(view: &mut ServiceView) {
        view.conflict = Some(Conflict {
            in_force: Origin::Cluster,
            overruled: vec![Origin::Node(Name::new("n2").unwrap())],
        });
    }
    fn taken(view: &mut ServiceView) {
        view.published[0].conflict = Some(ServiceKey::in_default("other").unwrap());
    }
    fn chosen(view: &mut ServiceView) {
        spec(view).ports[0].publish.as_mut().unwrap().port = None;
        view.published[0].port = None;
    }
    fn got(view: &mut ServiceView) {
        chosen(view);
        view.published[0].port = PortRange::single(30_001).ok();
    }
    let same = || Some(web());
    let table: &[(Option<ServiceView>, Option<ServiceView>, &[&str])] = &[
        (same(), same(), &[]),
        (
            None,
            same(),
            &["service-declared web: by cluster: 80/tcp published 8080", "vip-claimed web: 10.96.0.7"],
        ),
        (same(), None, &["service-withdrawn web: had 0 endpoints, 0 hidden"]),
        (
            same(),
            change(|w| spec(w).ports[0].port = PortRange::single(81).unwrap()),
            &["service-changed web: by cluster: ports 80/tcp published 8080 -> 81/tcp published 8080"],
        ),
        (
            same(),
            change(|w| {
                spec(w).drain = std::time::Duration::from_secs(3);
                spec(w).aliases = vec![Name::new("w").unwrap()];
            }),
            &["service-changed web: by cluster: drain 0ns -> 3s, aliases"],
        ),
        (same(), change(|w| spec(w).ports[0].target = 8001), &["service-changed web: by cluster: ports"]),
        (same(), change(conflict), &["service-conflict web: cluster is in force, node:n2 differs"]),
        (change(conflict), same(), &["service-conflict-over web: all declarations agree"]),
        (same(), change(|w| w.vips.v4 = None), &["vip-lost web: 10.96.0.7"]),
        (change(|w| w.vips.v4 = None), same(), &["vip-claimed web: 10.96.0.7"]),
        (
            same(),
            change(|w| w.vips = IpAddr::from([10, 96, 0, 8]).into()),
            &["vip-changed web: 10.96.0.7 -> 10.96.0.8"],
        ),
        (same(), change(taken), &["port-conflict web: 8080/tcp is held by other"]),
        (change(taken), same(), &["port-conflict-over web: 8080/tcp is its own, no longer held by other"]),
        (change(chosen), change(got), &["port-claimed web: 80/tcp published on 30001/tcp"]),
        (change(taken), change(taken), &[]),
    ];
    for (old, new, want) in table {
        assert_eq!(said((None, old.clone()), (None, new.clone())), *want);
    }
    let unwanted = change(|w| {
        spec(w).ports[0].publish = None;
        w.published.clear();
    });
    let news = said((None, change(taken)), (None, unwanted));
    assert_eq!(news[1], "port-conflict-over web: 80/tcp published 8080, held by other, is no longer wanted");
}

#[test]
fn endpoints() {
    let with = |endpoints: Vec<EndpointView>, hidden| {
        let mut view = web();
        view.endpoints = endpoints.into();
        view.hidden_endpoints = hidden;
        Some(view)
    };
    let changed = |change: fn(&mut Endpoint)| {
        let mut e = endpoint("w1", "n1");
        change(&mut e.endpoint);
        with(vec![e], 0)
    };
    let one = || with(vec![endpoint("w1", "n1")], 0);
    let both = || with(vec![endpoint("w1", "n1"), endpoint("w2", "n2")], 0);
    let (up, down) = (Some(node(NodeState::Alive)), Some(node(NodeState::Down)));
    type State = (Option<NodeView>, Option<ServiceView>);
    let table: &[(State, State, &[&str])] = &[
        ((up.clone(), one()), (up.clone(), one()), &[]),
        ((up.clone(), one()), (up.clone(), both()), &["endpoints-added web: w2@n2; 2 of 2 ready"]),
        ((up.clone(), both()), (up.clone(), one()), &["endpoints-removed web: w2@n2; 1 of 1 ready"]),
        (
            (up.clone(), both()),
            (down.clone(), with(vec![endpoint("w1", "n1")], 1)),
            &[
                "node-down n2: does not answer; its endpoints are hidden",
                "endpoints-hidden web: w2@n2; 1 of 1 ready",
            ],
        ),
        (
            (down.clone(), with(vec![endpoint("w1", "n1")], 1)),
            (up.clone(), both()),
            &["node-returned n2: was down, at 10.0.0.2:7946", "endpoints-shown web: w2@n2; 2 of 2 ready"],
        ),
        (
            (None, one()),
            (None, changed(|e| e.ready = false)),
            &["endpoints-unready web: w1@n1; 0 of 1 ready"],
        ),
        ((None, changed(|e| e.ready = false)), (None, one()), &["endpoints-ready web: w1@n1; 1 of 1 ready"]),
        (
            (None, one()),
            (
                None,
                changed(|e| {
                    e.ready = false;
                    e.terminating = true;
                }),
            ),
            &["endpoints-draining web: w1@n1; 0 of 1 ready"],
        ),
        ((None, one()), (None, changed(|e| e.weight = 7)), &["endpoints-changed web: w1@n1; 1 of 1 ready"]),
        (
            (None, with(vec![], 0)),
            (None, changed(|e| e.ready = false)),
            &["endpoints-added web: w1@n1 (not ready); 0 of 1 ready"],
        ),
    ];
    for (old, new, want) in table {
        assert_eq!(said(old.clone(), new.clone()), *want);
    }
    let eight: Vec<_> = (1..=8).map(|i| endpoint(&format!("w{i}"), "n1")).collect();
    let news = said((None, with(vec![], 0)), (None, with(eight, 0)));
    let want = "endpoints-added web: w1@n1, w2@n1, w3@n1, w4@n1, w5@n1 and 3 more; 8 of 8 ready";
    assert_eq!(news, [want], "one event for a service and a way");
}

#[test]
fn what_the_change_log_forgot_is_found_all_the_same() {
    let mut before = Snapshot::empty(name("n1"));
    put(&mut before, None, Some(web()));
    let mut after = before.clone();
    put(&mut after, None, None);
    let other = ServiceKey::in_default("other").unwrap();
    for _ in 0..=Snapshot::LOG {
        after.set_service(other.clone(), None);
    }
    let news = diff(&before, &after);
    assert_eq!(news.len(), 1, "{news:?}");
    assert_eq!(news[0].kind.as_str(), "service-withdrawn");
}
