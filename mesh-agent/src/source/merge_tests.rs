use super::{
    instance::Health,
    local::{LocalService, Process, SourceId, Verdict},
    merge::{Merge, Refused},
    testing::{Held, endpoint, key, node, service, source},
};
use mesh_control::{
    LocalChange,
    model::{
        Addresses, Endpoint, EndpointView, Name, NodeInfo, Origin, PortRange, Protocol, ServiceKey,
        ServicePort, ServiceSpec, ServiceView, Snapshot,
    },
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// A merge and a control plane that takes everything.
struct Rig {
    merge: Merge,
    held: Held,
    snapshot: Snapshot,
}

fn rig() -> Rig {
    let merge = Merge::new(node(), NodeInfo::default(), &[source("api"), source("file")]);
    Rig { merge, held: Held::default(), snapshot: Snapshot::empty(node()) }
}

impl Rig {
    fn says(&mut self, now: u64, id: &str, services: Vec<LocalService>) -> usize {
        self.merge.replace(now, &self.snapshot, &source(id), services);
        self.flush()
    }

    /// Tells everything; how many changes that took.
    fn flush(&mut self) -> usize {
        let mut count = 0;
        loop {
            let changes = self.merge.changes(4, &Refused::default());
            if changes.is_empty() {
                return count;
            }
            count += changes.len();
            self.held.take(changes.clone()).unwrap();
            self.merge.told(&changes);
        }
    }

    fn tick(&mut self, now: u64) {
        self.merge.tick(now);
        self.flush();
    }

    /// Endpoints of `web` as `a+` ready, `a-` not, `a~5` terminating until 5.
    fn web(&self) -> Vec<String> {
        let all = self.held.endpoints.get(&key("web")).into_iter().flatten();
        all.map(|e| match e.drain_until {
            Some(at) => {
                assert!(e.terminating && !e.ready && e.serving);
                format!("{}~{at}", e.instance)
            }
            None => format!("{}{}", e.instance, if e.ready { '+' } else { '-' }),
        })
        .collect()
    }
}

fn draining(seconds: u64) -> ServiceSpec {
    ServiceSpec { drain: Duration::from_secs(seconds), ..ServiceSpec::default() }
}

fn checked() -> ServiceSpec {
    let yaml = "services: {web: {ports: [80], stop_grace_period: 10s, x-mesh: {health: {tcp: 80}}}}";
    let context = super::compose::Context { node: &node(), origin: &Origin::Cluster };
    let all = super::compose::parse("t", yaml, context).unwrap();
    (*all[0].service.declaration.as_ref().unwrap().1).clone()
}

fn verdict(rig: &mut Rig, name: &str, verdict: Option<Verdict>) {
    rig.merge.set_verdict(&key("web"), &Process::from(&endpoint(name)), verdict);
    rig.flush();
}

#[test]
fn only_changes_are_told() {
    let mut r = rig();
    let both = || vec![service("web", draining(1), &["a", "b"]), service("db", draining(1), &[])];
    assert_eq!(r.says(0, "file", both()), 3);
    assert_eq!(r.says(1, "file", both()), 0);
    let mut one = both();
    Arc::make_mut(&mut one[0].endpoints)[0].weight = 7;
    assert_eq!(r.says(2, "file", one), 1);
    assert_eq!(r.held.endpoints[&key("web")][0].weight, 7);
}

#[test]
fn an_endpoint_drains_and_may_come_back() {
    let mut r = rig();
    r.says(0, "file", vec![service("web", draining(5), &["a", "b"])]);
    r.says(1000, "file", vec![service("web", draining(5), &["b"])]);
    assert_eq!(r.web(), ["a~6000", "b+"]);
    assert_eq!(r.merge.next_deadline(), Some(6000));
    // A second word on the way does not move the deadline.
    r.says(2000, "file", vec![service("web", draining(9), &["b"])]);
    assert_eq!(r.web(), ["a~6000", "b+"]);
    r.says(3000, "file", vec![service("web", draining(5), &["a", "b"])]);
    r.tick(6000);
    assert_eq!(r.web(), ["a+", "b+"]);
    r.says(7000, "file", vec![service("web", draining(5), &["b"])]);
    r.tick(11_999);
    assert_eq!(r.web(), ["a~12000", "b+"]);
    r.tick(12_000);
    assert_eq!((r.web(), r.merge.next_deadline()), (vec!["b+".to_owned()], None));
    // The service itself goes at once, its endpoints drain.
    r.says(13_000, "file", vec![]);
    assert_eq!((r.held.specs.len(), r.web()), (0, vec!["b~18000".to_owned()]));
    r.tick(18_000);
    assert!(r.held.endpoints.is_empty() && r.merge.local().is_empty());
}

#[test]
fn without_drain_or_with_udp_alone_an_endpoint_goes_at_once() {
    let port = ServicePort {
        name: None,
        protocol: Protocol::Udp,
        port: PortRange::single(53).unwrap(),
        target: 53,
        publish: None,
        proxy_protocol: false,
    };
    for spec in [draining(0), ServiceSpec { ports: vec![port], ..draining(9) }] {
        let mut r = rig();
        r.says(0, "file", vec![service("web", spec.clone(), &["a", "b"])]);
        r.says(1, "file", vec![service("web", spec, &["b"])]);
        assert_eq!(r.web(), ["b+"]);
    }
}

#[test]
fn a_checked_endpoint_waits_for_its_verdict() {
    let mut r = rig();
    r.says(0, "file", vec![service("web", checked(), &["a"])]);
    assert_eq!(r.web(), ["a-"]);
    verdict(&mut r, "a", Some(Verdict::Healthy));
    assert_eq!(r.web(), ["a+"]);
    verdict(&mut r, "a", Some(Verdict::Unhealthy));
    assert_eq!(r.web(), ["a-"]);
    verdict(&mut r, "a", None);
    assert_eq!(r.web(), ["a+"]);
    verdict(&mut r, "nobody", Some(Verdict::Healthy));
    // Another address is another process; another weight is not.
    verdict(&mut r, "a", Some(Verdict::Healthy));
    let mut web = service("web", checked(), &["a"]);
    Arc::make_mut(&mut web.endpoints)[0].weight = 1;
    r.says(1, "file", vec![web.clone()]);
    assert_eq!(r.web(), ["a+"]);
    Arc::make_mut(&mut web.endpoints)[0].addresses = Addresses::from(std::net::IpAddr::from([127, 0, 0, 9]));
    r.says(2, "file", vec![web.clone()]);
    assert_eq!(r.web(), ["a-"]);
    // What was asked of the old process is late: it says nothing of the new one.
    verdict(&mut r, "a", Some(Verdict::Healthy));
    assert_eq!(r.web(), ["a-"]);
    r.merge.set_verdict(&key("web"), &Process::from(&web.endpoints[0]), Some(Verdict::Healthy));
    r.flush();
    assert_eq!(r.web(), ["a+"]);
    verdict(&mut r, "a", None);
    verdict(&mut r, "a", Some(Verdict::Unhealthy));
    assert_eq!(r.web(), ["a+"]);
    // Without a check it is ready as declared.
    r.says(3, "file", vec![service("web", draining(1), &["a"])]);
    assert_eq!(r.web(), ["a+"]);
}

fn in_mesh(spec: ServiceSpec, endpoint: Option<Endpoint>) -> Snapshot {
    let mut snapshot = Snapshot::empty(node());
    let endpoints = endpoint.into_iter().map(|endpoint| EndpointView { node: node(), zone: None, endpoint });
    let view = ServiceView {
        key: key("web"),
        spec: Arc::new(spec),
        origins: vec![Origin::Cluster],
        conflict: None,
        vips: Addresses::default(),
        published: vec![],
        endpoints: endpoints.collect(),
        hidden_endpoints: 0,
    };
    snapshot.set_service(key("web"), Some(Arc::new(view)));
    snapshot
}

#[test]
fn a_restart_takes_no_healthy_endpoint_out() {
    for (before, want) in [(Some(endpoint("a")), "a+"), (None, "a-")] {
        let mut r = rig();
        r.snapshot = in_mesh(checked(), before);
        let added = || vec![LocalService { declaration: None, ..service("web", checked(), &["a"]) }];
        r.says(0, "api", added());
        assert_eq!(r.web(), [want]);
        // Later the memory of the mesh says nothing: the endpoint is a new one.
        r.merge.synced(&source("api"));
        r.says(1, "api", vec![]);
        r.tick(1_000_000);
        r.says(2, "api", added());
        assert_eq!(r.web(), ["a-"]);
    }
}

#[test]
fn an_operator_drains_an_endpoint_and_takes_it_back() {
    let mut r = rig();
    r.says(0, "file", vec![service("web", draining(5), &["a", "b"])]);
    let a = Name::new("a").unwrap();
    r.merge.drain(1000, &r.snapshot, &key("web"), &a, None).unwrap();
    r.merge.drain(2000, &r.snapshot, &key("web"), &a, None).unwrap();
    r.flush();
    r.tick(9000);
    assert_eq!(r.web(), ["a~6000", "b+"], "it stays out until it is taken back");
    r.merge.undrain(&key("web"), &a).unwrap();
    r.flush();
    assert_eq!(r.web(), ["a+", "b+"]);
    let e = r.merge.undrain(&key("db"), &a).unwrap_err().to_string();
    assert_eq!(e, "this node has no endpoint a of db: `mesh-agent endpoint ls db` shows them all");
    r.merge.drain(2000, &r.snapshot, &key("web"), &a, Some(Duration::from_secs(60))).unwrap();
    r.flush();
    assert_eq!(r.web(), ["a~62000", "b+"], "a deadline that is named counts");
}

#[test]
fn a_drained_node_drains_what_it_has_and_what_comes() {
    let mut r = rig();
    r.says(0, "file", vec![service("web", draining(5), &["a"])]);
    r.merge.drain_node(1000, &r.snapshot, true);
    r.flush();
    assert!(r.held.info.draining);
    assert_eq!(r.web(), ["a~6000"]);
    r.says(2000, "file", vec![service("web", draining(5), &["a", "b"])]);
    assert_eq!(r.web(), ["a~6000", "b~7000"]);
    r.merge.drain_node(3000, &r.snapshot, false);
    r.flush();
    assert_eq!((r.web(), r.held.info.draining), (vec!["a+".to_owned(), "b+".into()], false));
}

#[test]
fn no_source_touches_what_another_says() {
    let mut r = rig();
    r.says(0, "file", vec![service("web", draining(0), &["a"])]);
    r.says(0, "api", vec![LocalService { declaration: None, ..service("web", draining(0), &["a", "b"]) }]);
    assert_eq!(r.web(), ["a+", "b+"]);
    r.says(1, "api", vec![]);
    assert_eq!((r.web(), r.held.specs.len()), (vec!["a+".to_owned()], 1));
    assert!(!r.merge.synced(&source("api")));
    assert!(r.merge.synced(&source("file")));
}

#[test]
fn what_an_earlier_run_left_is_withdrawn_once() {
    let mut r = rig();
    r.says(0, "file", vec![service("web", draining(0), &[]), service("db", draining(0), &["d"])]);
    let own = || ["web", "db", "old"].map(key).to_vec();
    r.merge.withdraw_leftovers(own());
    let changes = r.merge.changes(99, &Refused::default());
    assert_eq!(
        changes,
        [
            LocalChange::DeleteService { origin: Origin::Node(node()), key: key("old") },
            LocalChange::PutEndpoints { key: key("old"), endpoints: vec![] },
            LocalChange::PutEndpoints { key: key("web"), endpoints: vec![] },
        ]
    );
    // One fails and is asked for again.
    r.merge.told(&changes[1..]);
    assert_eq!(r.merge.changes(99, &Refused::default()), changes[..1]);
    r.merge.told(&changes[..1]);
    assert_eq!(r.flush(), 0);
}

/// Whatever happens in whatever order: what the mesh was told is what the sources say now, and draining ends.
#[test]
fn any_history_ends_in_what_the_sources_say() {
    for seed in 0..200u64 {
        println!("seed {seed}");
        let mut rng = StdRng::seed_from_u64(seed);
        let mut r = rig();
        let mut said: BTreeMap<SourceId, Vec<LocalService>> = BTreeMap::new();
        for now in 0..60 {
            let id = ["api", "file"][rng.random_range(0..2)];
            match rng.random_range(0..6) {
                0..3 => {
                    let mut all = Vec::new();
                    for name in ["web", "db", "x"] {
                        let mut some = vec!["a", "b", "c"];
                        some.retain(|_| rng.random_range(0..2) > 0);
                        if rng.random_range(0..3) > 0 {
                            all.push(service(name, draining(rng.random_range(0..3)), &some));
                        }
                    }
                    said.insert(source(id), all.clone());
                    r.says(now * 100, id, all);
                }
                3 => verdict(
                    &mut r,
                    "a",
                    [None, Some(Verdict::Healthy), Some(Verdict::Unhealthy)][rng.random_range(0..3)],
                ),
                4 => r.tick(now * 100),
                _ => {
                    // Refused halfway: only a part was told.
                    let changes = r.merge.changes(3, &Refused::default());
                    let part = &changes[..changes.len().min(1)];
                    r.held.take(part.to_vec()).unwrap();
                    r.merge.told(part);
                }
            }
        }
        verdict(&mut r, "a", None);
        r.tick(1_000_000);
        let mut want: BTreeMap<ServiceKey, Vec<Name>> = BTreeMap::new();
        for s in said.values().flatten() {
            let all = want.entry(s.key.clone()).or_default();
            all.extend(s.endpoints.iter().map(|e| e.instance.clone()));
            all.sort();
            all.dedup();
        }
        let specs: Vec<&ServiceKey> = r.held.specs.keys().map(|(k, _)| k).collect();
        assert_eq!(specs, want.keys().collect::<Vec<_>>());
        want.retain(|_, e| !e.is_empty());
        let held = r.held.endpoints.iter();
        let held: BTreeMap<ServiceKey, Vec<Name>> =
            held.map(|(k, e)| (k.clone(), e.iter().map(|e| e.instance.clone()).collect())).collect();
        assert_eq!(held, want);
        assert!(r.held.endpoints.values().flatten().all(|e| e.ready && !e.terminating));
        let views = r.merge.local().values();
        let healths: Vec<Health> = views.flat_map(|v| v.endpoints.iter().map(|(_, h)| *h)).collect();
        assert_eq!(healths.len(), want.values().map(Vec::len).sum::<usize>());
        assert!(healths.iter().all(|h| *h == Health::Unchecked));
    }
}

/// Telling ten thousand services is work in proportion to them, not to their square.
#[test]
fn a_large_relist_is_told_in_batches() {
    let mut r = rig();
    let all = (0..10_000).map(|i| service(&format!("s{i}"), draining(1), &["a", "b"])).collect();
    assert_eq!(r.says(0, "file", all), 20_000);
    assert_eq!((r.held.specs.len(), r.held.endpoints.len()), (10_000, 10_000));
    assert!(r.merge.changes(9, &Refused::default()).is_empty());
}
