//! An agent in memory: what the API asks, answered from a snapshot made by hand; what it writes, written down.

use crate::dns;
use mesh_agent::{
    admin::{
        Answer, DnsAnswer, DnsRecord, Drain, HealthResult, OperationError, Operations, PlaneStatus,
        PublishRequest, SourceStatus, UnpublishRequest,
    },
    dataplane::{BackendCounters, Candidate, Counters, Explanation, Flow, FrontendCounters},
    events::EventLog,
    overlay::{AttachError, AttachRequest, Attachment, OverlayPlan, OverlayStatus, leases::Lease},
    plan::{BackendId, FrontendKey, Listen, Op},
    sys::rtnl::{Kind, Mac, NewLink},
};
use mesh_control::{
    ClusterKey, ControlStats, KeyChange, KeyView, Lag, PeerStats,
    model::{
        Endpoint, EndpointView, Name, NodeInfo, NodeState, NodeView, Origin, PortRange, Protocol, Publish,
        PublishMode, PublishedView, ServiceKey, ServicePort, ServiceSpec, ServiceView, Snapshot,
    },
};
use mesh_dns::Lookup;
use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

/// What a test may turn.
#[derive(Clone)]
pub(crate) struct Knobs {
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) counters: Counters,
    pub(crate) synced: bool,
    pub(crate) plane: PlaneStatus,
    pub(crate) dns: Option<SocketAddr>,
    /// Every question to the data plane waits for ever.
    pub(crate) hung: bool,
    /// The next question to the data plane panics.
    pub(crate) panics: bool,
    /// What was written, in order.
    pub(crate) log: Vec<String>,
    /// Flows of web-1 that end with every look at the counters.
    pub(crate) ending: u64,
    pub(crate) control: ControlStats,
    pub(crate) peers: Vec<PeerStats>,
    pub(crate) events: EventLog,
}

pub(crate) struct Fake(pub(crate) Mutex<Knobs>);

/// In use, older, removed.
pub(crate) fn cluster_keys() -> [ClusterKey; 3] {
    // 43 letters: 40, and three of which the last has two zero bits.
    ["AAA=", "BAA=", "CAA="].map(|end| format!("{}{end}", "A".repeat(40)).parse().unwrap())
}

pub(crate) fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

/// How many events it keeps.
pub(crate) const EVENTS: usize = 8;

/// What is measured of a node: round trip in microseconds, the others in milliseconds.
pub(crate) fn peer(node: &str, rtt: Option<u32>, clock_offset: Option<i64>, heard: Option<u64>) -> PeerStats {
    PeerStats { node: name(node), rtt, clock_offset, heard, trouble: None }
}

pub(crate) fn key(text: &str) -> ServiceKey {
    text.parse().unwrap()
}

impl Fake {
    pub(crate) fn new() -> Arc<Fake> {
        let knobs = Knobs {
            snapshot: Arc::new(snapshot()),
            counters: counters(),
            synced: true,
            plane: PlaneStatus {
                name: "userspace".into(),
                revision: Some(3),
                error: None,
                failed: Vec::new(),
                since_ok: Some(Duration::from_secs(1)),
                stale_after: Duration::from_secs(60),
                frontends: 2,
                capabilities: None,
            },
            dns: Some("127.0.0.1:53".parse().unwrap()),
            hung: false,
            panics: false,
            log: Vec::new(),
            ending: 0,
            control: ControlStats {
                members_up: 1,
                members_down: 1,
                records: 9,
                refused: vec![("replayed", 4)],
                syncs: (5, 2),
                lag: Some(Lag { records: 34, median: 120, worst: 1_500 }),
                in_sync: Some(3_000),
                ..ControlStats::default()
            },
            peers: vec![peer("n2", Some(1_234), Some(12), Some(800)), peer("n3", None, Some(-1_500), None)],
            events: EventLog::new(EVENTS),
        };
        Arc::new(Fake(Mutex::new(knobs)))
    }

    pub(crate) fn turn(&self, change: impl FnOnce(&mut Knobs)) {
        change(&mut self.0.lock().unwrap());
    }

    pub(crate) fn log(&self) -> Vec<String> {
        self.0.lock().unwrap().log.clone()
    }

    fn knobs(&self) -> Knobs {
        self.0.lock().unwrap().clone()
    }

    fn write(&self, key: &ServiceKey, line: String) -> Result<(), OperationError> {
        let mut knobs = self.0.lock().unwrap();
        if !knobs.snapshot.services.contains_key(key) {
            return Err(OperationError::NotFound(format!("there is no service `{key}`")));
        }
        knobs.log.push(line);
        Ok(())
    }
}

fn snapshot() -> Snapshot {
    let mut s = Snapshot::empty(name("n1"));
    for (node, state) in [("n1", NodeState::Alive), ("n2", NodeState::Alive), ("n3", NodeState::Down)] {
        let info = NodeInfo {
            addresses: std::net::IpAddr::from([127, 0, 0, 1]).into(),
            version: "0.1.0".into(),
            ..NodeInfo::default()
        };
        let subnets = (node == "n1").then(|| "10.128.7.0/24".parse().unwrap()).into_iter().collect();
        let view = NodeView { name: name(node), info, gossip: None, state, subnets };
        s.set_node(name(node), Some(Arc::new(view)));
    }
    let publish = Publish {
        port: PortRange::single(8080).ok(),
        mode: PublishMode::Ingress,
        address: None,
        allow: vec![],
    };
    let port = ServicePort {
        name: Some(name("http")),
        protocol: Protocol::Tcp,
        port: PortRange::single(80).unwrap(),
        target: 8000,
        publish: Some(publish),
        proxy_protocol: false,
    };
    let spec = ServiceSpec { ports: vec![port], drain: ServiceSpec::DEFAULT_DRAIN, ..ServiceSpec::default() };
    let endpoint = |instance: &str, node: &str, last: u8| EndpointView {
        node: name(node),
        zone: None,
        endpoint: Endpoint::new(name(instance), std::net::IpAddr::from([10, 0, 0, last]).into()),
    };
    let mut draining = endpoint("web-2", "n2", 2);
    draining.endpoint.terminating = true;
    draining.endpoint.ready = false;
    let published = PublishedView {
        index: 0,
        protocol: Protocol::Tcp,
        port: PortRange::single(8080).ok(),
        mode: PublishMode::Ingress,
        conflict: None,
    };
    let web = ServiceView {
        key: key("web"),
        spec: Arc::new(spec),
        origins: vec![Origin::Cluster, Origin::Node(name("n1"))],
        conflict: None,
        vips: std::net::IpAddr::from([127, 96, 0, 7]).into(),
        published: vec![published],
        endpoints: vec![endpoint("web-1", "n1", 1), draining].into(),
        hidden_endpoints: 1,
    };
    let cart = ServiceView { key: key("cart.shop"), endpoints: vec![].into(), ..web.clone() };
    s.set_service(web.key.clone(), Some(Arc::new(web)));
    s.set_service(cart.key.clone(), Some(Arc::new(cart)));
    s
}

fn counters() -> Counters {
    let of = |instance: &str, node: &str, state, active| BackendCounters {
        service: key("web"),
        backend: BackendId { instance: name(instance), node: name(node) },
        state,
        protocol: Protocol::Tcp,
        active,
        established: 10,
        failed: 1,
        reset: 0,
        bytes_in: 1000,
        bytes_out: 2048,
    };
    let refused =
        FrontendCounters { service: key("web"), frontend: frontend(), no_backend: 1, denied: 2, limited: 3 };
    // The same backend twice: a data plane may tell active and removed flows apart.
    let backends = vec![
        of("web-1", "n1", "active", 3),
        of("web-2", "n2", "draining", 1),
        of("web-1", "n1", "removed", 2),
    ];
    Counters { backends, frontends: vec![refused], drops: vec![("no_route", 5)] }
}

fn attachment(netns: PathBuf, name: String) -> Attachment {
    let addresses = vec![std::net::IpAddr::from([10, 128, 7, 2])];
    let lease = Lease { netns, identity: (4, 4_026_531_840), name, addresses };
    Attachment { port: lease.port(), gateways: vec![[10, 128, 7, 1].into()], mtu: 1450, lease }
}

fn frontend() -> FrontendKey {
    let listen = Listen::Vip(Ipv4Addr::new(127, 96, 0, 7).into());
    FrontendKey { listen, ports: PortRange::single(80).unwrap(), protocol: Protocol::Tcp }
}

impl Operations for Fake {
    fn snapshot(&self) -> Arc<Snapshot> {
        self.knobs().snapshot
    }

    fn control_stats(&self) -> ControlStats {
        self.knobs().control
    }

    fn peers(&self) -> Vec<PeerStats> {
        self.knobs().peers
    }

    fn events(&self) -> EventLog {
        self.knobs().events
    }

    fn joined(&self) -> bool {
        true
    }

    fn plane(&self) -> PlaneStatus {
        self.knobs().plane
    }

    fn sources(&self) -> Vec<SourceStatus> {
        let synced = self.knobs().synced;
        vec![SourceStatus { name: "file".into(), synced, services: 2, errors: vec![] }]
    }

    fn health(&self) -> Vec<HealthResult> {
        let detail = "200 OK".to_owned();
        vec![HealthResult { service: key("web"), instance: name("web-1"), healthy: Some(true), detail }]
    }

    fn dns_wanted(&self) -> bool {
        true
    }

    fn dns_address(&self) -> Option<SocketAddr> {
        self.knobs().dns
    }

    fn counters(&self) -> Answer<'_, Result<Counters, OperationError>> {
        Box::pin(async {
            let knobs = self.knobs();
            assert!(!knobs.panics, "told to panic");
            if knobs.hung {
                std::future::pending::<()>().await;
            }
            let ending = knobs.ending;
            self.turn(|k| {
                let first = &mut k.counters.backends[0].active;
                *first = first.saturating_sub(ending);
            });
            Ok(knobs.counters)
        })
    }

    fn explain(&self, flow: Flow) -> Answer<'_, Result<Explanation, OperationError>> {
        Box::pin(async move {
            let found = flow.destination == "127.96.0.7:80".parse().unwrap();
            let candidate = Candidate {
                backend: BackendId { instance: name("web-1"), node: name("n1") },
                address: "10.0.0.1:8000".parse().unwrap(),
                probability: 1.0,
                excluded: None,
            };
            Ok(Explanation {
                frontend: found.then(frontend),
                service: found.then(|| key("web")),
                candidates: if found { vec![candidate] } else { vec![] },
                affinity: None,
                objects: vec!["listener 127.96.0.7:80".into()],
            })
        })
    }

    fn plan(&self) -> Answer<'_, Result<Vec<Op>, OperationError>> {
        Box::pin(async { Ok(vec![Op::RemoveFrontend(frontend())]) })
    }

    fn overlay_plan(&self) -> Answer<'_, Result<Vec<String>, OperationError>> {
        Box::pin(async { Ok(vec!["set link mesh-vx up".into()]) })
    }

    fn overlay(&self) -> Option<Arc<OverlayStatus>> {
        let problems = vec!["n9 has no IPv4 address".into()];
        let link =
            |name: &str| NewLink { name: name.into(), kind: Kind::Bridge, mac: Mac([2; 6]), mtu: 1450 };
        let (bridge, vxlan) = (link("mesh0"), link("mesh-vx"));
        let gateways = vec!["10.128.7.1/24".parse().expect("a network")];
        let (vips, peers) = (Vec::new(), Vec::new());
        let (local, full) = (std::net::IpAddr::from([192, 0, 2, 7]), 1500);
        let plan = OverlayPlan { bridge, vxlan, local, full, gateways, vips, peers, problems: Vec::new() };
        Some(Arc::new(OverlayStatus {
            plan: Some(Arc::new(plan)),
            problems,
            repairs: 3,
            ..OverlayStatus::default()
        }))
    }

    fn renew_key(&self) -> Answer<'_, Result<(), OperationError>> {
        Box::pin(async { Err(OperationError::Unavailable("nothing is encrypted".into())) })
    }

    fn attachments(&self) -> Answer<'_, Result<Vec<Attachment>, OperationError>> {
        Box::pin(async { Ok(vec![attachment("/run/netns/web".into(), "eth0".into())]) })
    }

    fn attach(&self, request: AttachRequest) -> Answer<'_, Result<Attachment, OperationError>> {
        Box::pin(async move {
            if request.address.is_some() {
                return Err(AttachError::Taken("10.128.7.9 belongs to another container".into()).into());
            }
            self.turn(|k| k.log.push(format!("attach {} {}", request.netns.display(), request.name)));
            Ok(attachment(request.netns, request.name))
        })
    }

    fn detach(&self, netns: PathBuf, name: String) -> Answer<'_, Result<bool, OperationError>> {
        Box::pin(async move {
            self.turn(|k| k.log.push(format!("detach {} {name}", netns.display())));
            Ok(netns.ends_with("web"))
        })
    }

    fn apply_compose(&self, text: String, dry_run: bool) -> Answer<'_, Result<Vec<ServiceKey>, Vec<String>>> {
        Box::pin(async move {
            if text.contains("bad") {
                return Err(vec!["line 1: bad".into(), "line 2: worse".into()]);
            }
            self.turn(|k| k.log.push(format!("apply {} dry_run={dry_run}", text.len())));
            Ok(vec![key("web")])
        })
    }

    fn remove_service(&self, key: ServiceKey) -> Answer<'_, Result<(), OperationError>> {
        Box::pin(async move {
            if key.is_default_namespace() {
                return self.write(&key, format!("remove {key}"));
            }
            Err(OperationError::Conflict {
                problem: "declared by node:n1".into(),
                fix: "edit its file".into(),
            })
        })
    }

    fn publish(&self, key: ServiceKey, r: PublishRequest) -> Answer<'_, Result<(), OperationError>> {
        Box::pin(async move {
            self.write(
                &key,
                format!("publish {key} {:?} {:?} {} {:?}", r.published, r.target, r.protocol, r.mode),
            )
        })
    }

    fn unpublish(&self, key: ServiceKey, r: UnpublishRequest) -> Answer<'_, Result<(), OperationError>> {
        Box::pin(async move { self.write(&key, format!("unpublish {key} {}/{}", r.published, r.protocol)) })
    }

    fn add_endpoint(&self, key: ServiceKey, e: Endpoint) -> Answer<'_, Result<(), OperationError>> {
        Box::pin(async move {
            self.write(&key, format!("add {key} {} {} {:?} {}", e.instance, e.addresses, e.ports, e.weight))
        })
    }

    fn remove_endpoint(&self, key: ServiceKey, i: Name) -> Answer<'_, Result<(), OperationError>> {
        Box::pin(async move { self.write(&key, format!("rm {key} {i}")) })
    }

    fn drain_endpoint(&self, key: ServiceKey, i: Name, d: Drain) -> Answer<'_, Result<(), OperationError>> {
        Box::pin(async move { self.write(&key, format!("drain {key} {i} {d:?}")) })
    }

    fn drain_node(&self, draining: bool) -> Answer<'_, Result<(), OperationError>> {
        Box::pin(async move {
            self.turn(|k| k.log.push(format!("drain node {draining}")));
            Ok(())
        })
    }

    fn forget_node(&self, node: Name) -> Answer<'_, Result<(), OperationError>> {
        Box::pin(async move {
            self.turn(|k| k.log.push(format!("forget node {node}")));
            Ok(())
        })
    }

    fn keys(&self) -> Vec<KeyView> {
        let view = |id: &ClusterKey, in_use, in_config, removed, nodes: &[&str]| KeyView {
            id: id.id(),
            in_use,
            in_config,
            removed,
            held_by: nodes.iter().map(|n| name(n)).collect(),
            seals_for: nodes.iter().filter(|_| in_use).map(|n| name(n)).collect(),
        };
        let [new, old, gone] = cluster_keys();
        vec![
            view(&new, true, false, false, &["n1", "n2"]),
            view(&old, false, true, false, &["n1"]),
            view(&gone, false, true, true, &[]),
        ]
    }

    fn change_key(&self, change: KeyChange) -> Answer<'_, Result<(), OperationError>> {
        Box::pin(async move {
            if matches!(change, KeyChange::Use { force: false, .. }) {
                let (problem, fix) = ("n2 lacks it".into(), "wait".into());
                return Err(OperationError::Conflict { problem, fix });
            }
            self.turn(|k| k.log.push(format!("{change:?}")));
            Ok(())
        })
    }

    fn expose_sealing_key(&self) -> ClusterKey {
        let [new, ..] = cluster_keys();
        new
    }

    fn dns_query(&self, asked: Lookup) -> Answer<'_, Result<DnsAnswer, OperationError>> {
        Box::pin(async move {
            let Lookup { name, kind, listen, explain } = asked;
            let known = name.starts_with("web.");
            let records = if known && kind == "A" {
                vec![DnsRecord { name: name.clone(), record_type: kind, ttl: 5, data: "127.96.0.7".into() }]
            } else {
                vec![]
            };
            Ok(DnsAnswer {
                rcode: if known { "NOERROR" } else { "NXDOMAIN" }.into(),
                authoritative: true,
                records,
                explanation: explain.then(|| dns::explanation(&name, listen)),
            })
        })
    }
}
