//! Three nodes on real sockets of one machine.

use mesh_control::{
    Control, ControlConfig, ControlError, ControlHandle, KeyChange, LocalChange, OverlayNetwork,
    generate_key,
    model::{
        Endpoint, Name, NodeInfo, NodeState, Origin, Protocol, Publish, PublishMode, ServiceKey, ServicePort,
        ServiceSpec, Snapshot,
    },
};
use std::{net::SocketAddr, os::unix::fs::PermissionsExt, sync::Arc, time::Duration};
use tokio::time::timeout;

fn config(i: u8, key: &str, seeds: Vec<String>) -> ControlConfig {
    let address = SocketAddr::from(([127, 77, 0, i], 0));
    ControlConfig {
        node: Name::new(&format!("n{i}")).expect("good"),
        info: NodeInfo { version: "test".into(), ..NodeInfo::default() },
        bind: address,
        advertise: address,
        seeds,
        keys: vec![key.to_owned()],
        vip_cidrs: vec!["10.99.0.0/16".parse().expect("good"), "fd00:99::/64".parse().expect("good")],
        overlay: vec![],
        dynamic_ports: "30000-32767".parse().expect("good"),
        data_dir: None,
    }
}

/// Waits until a snapshot satisfies `good`, for at most 30 s.
async fn wait(handle: &ControlHandle, what: &str, good: impl Fn(&Snapshot) -> bool) -> Arc<Snapshot> {
    let mut snapshots = handle.snapshots();
    let found = timeout(Duration::from_secs(30), async {
        snapshots.wait_for(|s| good(s)).await.expect("the task lives").clone()
    });
    match found.await {
        Ok(snapshot) => snapshot,
        Err(_) => panic!("never: {what}; last {:?}", handle.snapshots().borrow()),
    }
}

fn web() -> ServiceKey {
    ServiceKey::in_default("web").expect("good")
}

fn declare(origin: Origin) -> LocalChange {
    let port = ServicePort {
        name: None,
        protocol: Protocol::Tcp,
        port: "80".parse().expect("good"),
        target: 8080,
        publish: Some(Publish { port: None, mode: PublishMode::Ingress, address: None, allow: vec![] }),
        proxy_protocol: false,
    };
    let spec = ServiceSpec { ports: vec![port], ..ServiceSpec::default() };
    LocalChange::PutService { origin, key: web(), spec: Arc::new(spec) }
}

fn announce(i: u8) -> LocalChange {
    let address = std::net::IpAddr::from([127, 77, 1, i]);
    let endpoint = Endpoint::new(Name::new(&format!("web-{i}")).expect("good"), address.into());
    LocalChange::PutEndpoints { key: web(), endpoints: vec![endpoint] }
}

fn state(snapshot: &Snapshot, node: &str) -> Option<NodeState> {
    snapshot.nodes.get(node).map(|n| n.state)
}

fn endpoints(snapshot: &Snapshot) -> (usize, usize) {
    snapshot.services.get(&web()).map_or((0, 0), |s| (s.endpoints.len(), s.hidden_endpoints))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_share_a_service_through_leave_crash_and_restart() {
    let key = generate_key().expect("good");
    let n1 = Control::start(config(1, &key, vec![])).await.expect("good");
    assert!(n1.joined());
    let seeds = vec![n1.address().to_string()];
    let n2 = Control::start(config(2, &key, seeds.clone())).await.expect("good");
    let n3 = Control::start(config(3, &key, seeds.clone())).await.expect("good");

    n1.submit(vec![declare(Origin::Node(Name::new("n1").expect("good"))), announce(1)]).await.expect("good");
    n2.submit(vec![announce(2)]).await.expect("good");
    n3.submit(vec![announce(3)]).await.expect("good");
    let mut views = Vec::new();
    for node in [&n1, &n2, &n3] {
        let ready = |s: &Snapshot| {
            let service = s.services.get(&web());
            endpoints(s) == (3, 0)
                && service.is_some_and(|s| {
                    s.vips.v4.is_some() && s.vips.v6.is_some() && s.published[0].port.is_some()
                })
                && s.nodes.len() == 3
        };
        views.push(wait(node, "three endpoints and a VIP", ready).await);
        timeout(Duration::from_secs(30), node.until_joined()).await.expect("it joins");
    }
    let service = |s: &Snapshot| Arc::clone(&s.services[&web()]);
    assert_eq!(service(&views[0]).vips, service(&views[1]).vips);
    assert_eq!(service(&views[0]).published, service(&views[2]).published);

    // Nothing changed, nothing is written.
    let revision = n1.submit(vec![announce(1)]).await.expect("good");
    assert_eq!(revision, n1.submit(vec![announce(1)]).await.expect("good"));

    // Leaving is known at once, long before a failure detector could know.
    n3.shutdown().await;
    for node in [&n1, &n2] {
        wait(node, "n3 has left", |s| state(s, "n3") == Some(NodeState::Left) && endpoints(s) == (2, 1))
            .await;
    }
    assert!(matches!(n3.submit(vec![announce(3)]).await, Err(ControlError::Stopped)));

    // Back at another port, with nothing kept: its records come back to it.
    let n3 = Control::start(config(3, &key, seeds)).await.expect("good");
    let back = |s: &Snapshot| state(s, "n3") == Some(NodeState::Alive) && endpoints(s) == (3, 0);
    for node in [&n1, &n2, &n3] {
        let view = wait(node, "n3 is back with its endpoint", back).await;
        assert_eq!(service(&view).vips, service(&views[0]).vips);
    }
    assert_eq!(n3.own_services(), [web()]);
    n3.submit(vec![LocalChange::PutEndpoints { key: web(), endpoints: vec![] }]).await.expect("good");
    wait(&n1, "n3 withdrew a leftover", |s| endpoints(s) == (2, 0)).await;
    for node in [n1, n2, n3] {
        node.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_and_garbage_leave_a_mesh_alone() {
    let key = generate_key().expect("good");
    let n1 = Control::start(config(11, &key, vec![])).await.expect("good");
    let seeds = vec![n1.address().to_string()];
    let stranger =
        Control::start(config(12, &generate_key().expect("good"), seeds.clone())).await.expect("good");
    let socket = tokio::net::UdpSocket::bind("127.77.0.13:0").await.expect("good");
    for length in [0, 1, 44, 45, 200, 1500, 9000] {
        socket.send_to(&vec![1; length], n1.address()).await.expect("good");
    }
    for garbage in [&b""[..], b"GET / HTTP/1.1\r\n\r\n", &[0xff; 4096]] {
        use tokio::io::AsyncWriteExt;
        let mut stream = tokio::net::TcpStream::connect(n1.address()).await.expect("good");
        // The node may close first.
        let _ = stream.write_all(garbage).await;
    }
    // Strangers that hold what they can of the connections keep no member out.
    let mut idle = Vec::new();
    for i in 0..100u8 {
        let socket = tokio::net::TcpSocket::new_v4().expect("good");
        socket.bind(SocketAddr::from(([127, 77, 9, i % 4], 0))).expect("good");
        idle.push(socket.connect(n1.address()).await.expect("good"));
    }
    let n2 = Control::start(config(13, &key, seeds)).await.expect("good");
    wait(&n2, "the mesh still takes nodes", |s| state(s, "n11") == Some(NodeState::Alive)).await;
    assert!(n1.stats().refused.iter().any(|(_, count)| *count > 0), "{:?}", n1.stats());
    drop(idle);
    assert!(!stranger.joined());
    assert_eq!(n1.snapshots().borrow().nodes.get("n12"), None);
    for node in [n1, n2, stranger] {
        node.shutdown().await;
    }
}

/// Polls until `good`, for at most 30 s.
async fn poll(what: &str, good: impl Fn() -> bool) {
    let waited = timeout(Duration::from_secs(30), async {
        while !good() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    assert!(waited.await.is_ok(), "never: {what}");
}

#[tokio::test]
async fn the_later_of_two_nodes_with_one_name_keeps_silent_and_both_say_so() {
    let key = generate_key().expect("good");
    let n1 = Control::start(config(41, &key, vec![])).await.expect("good");
    let seeds = vec![n1.address().to_string()];
    let first = Control::start(config(42, &key, seeds.clone())).await.expect("good");
    wait(&n1, "the first", |s| state(s, "n42") == Some(NodeState::Alive)).await;
    let name = Name::new("n42").expect("good");
    let later = Control::start(ControlConfig { node: name.clone(), ..config(43, &key, seeds) }).await;
    let later = later.expect("good");
    poll("silence", || later.stats().silenced.is_some()).await;
    let trouble = |node: &ControlHandle| node.peers().into_iter().find(|p| p.node == name)?.trouble;
    poll("the first names it", || trouble(&first).is_some()).await;
    for text in [trouble(&later), later.stats().silenced, trouble(&first)] {
        let text = text.expect("said");
        assert!(text.contains(&first.address().to_string()) && text.contains("rename"), "{text}");
    }
    assert!(matches!(later.submit(vec![declare(Origin::Cluster)]).await, Err(ControlError::Change { .. })));
    assert_eq!((first.stats().silenced, n1.stats().silenced), (None, None));
    // A peer is measured on the way.
    let measured = |node: &ControlHandle| node.peers().into_iter().any(|p| p.clock_offset.is_some());
    poll("clocks are compared", || measured(&n1) && measured(&first)).await;
    for node in [n1, first, later] {
        node.shutdown().await;
    }
}

#[tokio::test]
async fn kept_records_survive_a_restart_of_the_whole_mesh() {
    let outer = tempfile::tempdir().expect("good");
    let dir = outer.path().join("state-of-n21");
    let key = generate_key().expect("good");
    let config = || ControlConfig { data_dir: Some(dir.clone()), ..config(21, &key, vec![]) };
    let n1 = Control::start(config()).await.expect("good");
    n1.submit(vec![declare(Origin::Cluster)]).await.expect("good");
    let before = wait(&n1, "a VIP", |s| s.services.get(&web()).is_some_and(|s| s.vips.v4.is_some())).await;
    n1.shutdown().await;
    let n1 = Control::start(config()).await.expect("good");
    let after = wait(&n1, "the service is back", |s| s.services.contains_key(&web())).await;
    assert_eq!(after.services[&web()], before.services[&web()]);
    n1.shutdown().await;
    // It is the agent's alone, and nothing is left beside it.
    let mode = |path: &std::path::Path| std::fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!((mode(&dir.join("state")), mode(&dir)), (0o600, 0o700));
    assert_eq!(std::fs::read_dir(&dir).expect("good").count(), 1);
    // A damaged file is refused with its name and what to do.
    let file = dir.join("state");
    let mut bytes = std::fs::read(&file).expect("good");
    *bytes.last_mut().expect("good") ^= 1;
    std::fs::write(&file, bytes).expect("good");
    let error = Control::start(config()).await.unwrap_err().to_string();
    assert!(error.contains("damaged") && error.contains(file.to_str().expect("good")), "{error}");
}

/// Without its seeds a node claims no subnet; so what it uses after the restart is what it kept.
#[tokio::test]
async fn a_subnet_survives_a_restart_without_a_network() {
    let outer = tempfile::tempdir().expect("good");
    let key = generate_key().expect("good");
    let overlay = OverlayNetwork { network: "10.98.0.0/16".parse().expect("good"), node_prefix: 24 };
    let start = |seeds: Vec<String>| {
        let data_dir = Some(outer.path().join("state"));
        Control::start(ControlConfig { data_dir, overlay: vec![overlay], ..config(41, &key, seeds) })
    };
    let node = start(vec![]).await.expect("good");
    let before = wait(&node, "a subnet to use", |s| !s.own_subnets.is_empty()).await;
    assert!(overlay.network.contains(before.own_subnets[0].ip()), "{:?}", before.own_subnets);
    node.shutdown().await;
    let nobody = vec!["127.77.0.49:1".to_owned()];
    let node = start(nobody).await.expect("good");
    let after = wait(&node, "the subnet is used again", |s| !s.own_subnets.is_empty()).await;
    assert_eq!(after.own_subnets, before.own_subnets);
    assert!(!node.joined());
    node.shutdown().await;
}

#[tokio::test]
async fn what_is_wrong_is_said_before_anything_runs() {
    let key = generate_key().expect("good");
    let taken = std::net::TcpListener::bind("127.77.0.31:0").expect("good");
    let address = taken.local_addr().expect("good");
    let good = || config(31, &key, vec![]);
    let error = |c: ControlConfig| async { Control::start(c).await.unwrap_err().to_string() };
    let message = error(ControlConfig { bind: address, advertise: address, ..good() }).await;
    assert!(message.contains(&address.to_string()) && message.contains("free address"), "{message}");
    let message = error(ControlConfig { keys: vec!["abc".into()], ..good() }).await;
    assert!(message.contains("key generate") && !message.contains("abc"), "{message}");
    let message = error(ControlConfig { seeds: vec!["node1".into()], ..good() }).await;
    assert!(message.contains("`node1`") && message.contains("host:port"), "{message}");
    let message = error(ControlConfig { seeds: vec!["fd00::1:7946".into()], ..good() }).await;
    assert!(message.contains("[fd00::1]:7946"), "{message}");
    for nowhere in ["0.0.0.0:1", "224.0.0.1:1", "[fe80::1]:1"] {
        let message = error(ControlConfig { advertise: nowhere.parse().expect("good"), ..good() }).await;
        assert!(message.contains("advertise"), "{message}");
    }
    for network in ["10.0.0.0/31", "fd00::/127", "224.0.0.0/8"] {
        let vip_cidrs = vec![network.parse().expect("good")];
        let message = error(ControlConfig { vip_cidrs, ..good() }).await;
        assert!(message.contains("vip_cidrs") && message.contains(network), "{message}");
    }
    for (network, node_prefix, fix) in [("10.99.0.0/20", 24, "keep them apart"), ("10.98.0.0/16", 16, "/17")]
    {
        let overlay = vec![OverlayNetwork { network: network.parse().expect("good"), node_prefix }];
        let message = error(ControlConfig { overlay, ..good() }).await;
        assert!(
            message.contains("overlay") && message.contains(network) && message.contains(fix),
            "{message}"
        );
    }
    let one = OverlayNetwork { network: "10.98.0.0/16".parse().expect("good"), node_prefix: 24 };
    let message = error(ControlConfig { overlay: vec![one; 2], ..good() }).await;
    assert!(message.contains("10.98.0.0/16: at most one"), "{message}");
    assert!(!format!("{:?}", good()).contains(&key), "keys are not for logs");

    let node = Control::start(good()).await.expect("good");
    let other = Origin::Node(Name::new("n99").expect("good"));
    let refused = node.submit(vec![announce(1), declare(other)]).await.unwrap_err().to_string();
    assert!(refused.contains("n99") && refused.contains("web"), "{refused}");
    assert_eq!(node.own_services(), [], "all or none");
    node.shutdown().await;
}

/// More than gossip carries and than one frame holds: anti-entropy brings it, in chunks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_services_reach_a_node_that_joins_late() {
    const SERVICES: usize = 2_000;
    let key = generate_key().expect("good");
    let n1 = Control::start(config(41, &key, vec![])).await.expect("good");
    let mut changes = Vec::new();
    for s in 0..SERVICES {
        let service = ServiceKey::in_default(&format!("bulk-{s}")).expect("good");
        let instance = |i| Name::new(&format!("bulk-{s}-{i}")).expect("good");
        let address = |i| std::net::IpAddr::from([10, 1, 1, i]).into();
        let endpoints = (0..10).map(|i| Endpoint::new(instance(i), address(i))).collect();
        let spec = Arc::new(ServiceSpec::default());
        changes.push(LocalChange::PutService { origin: Origin::Cluster, key: service.clone(), spec });
        changes.push(LocalChange::PutEndpoints { key: service, endpoints });
    }
    for some in changes.chunks(500) {
        n1.submit(some.to_vec()).await.expect("good");
    }
    let n2 = Control::start(config(42, &key, vec![n1.address().to_string()])).await.expect("good");
    let complete = |s: &Snapshot| {
        let whole =
            |s: &Arc<mesh_control::model::ServiceView>| s.endpoints.len() == 10 && s.vips.v4.is_some();
        s.services.len() == SERVICES && s.services.values().all(whole)
    };
    wait(&n2, "all services with endpoints and VIPs", complete).await;
    timeout(Duration::from_secs(30), n2.until_joined()).await.expect("the exchange ends");
    assert!(n2.joined());
    // A small change still goes through at once, by gossip.
    n2.submit(vec![declare(Origin::Cluster)]).await.expect("good");
    wait(&n1, "a change the other way", |s| s.services.get(&web()).is_some_and(|s| s.vips.v6.is_some()))
        .await;
    for node in [n1, n2] {
        node.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_seals_with_a_key_the_others_removed_comes_in_by_another_of_its_keys() {
    let (old, new) = (generate_key().expect("good"), generate_key().expect("good"));
    let n1 = Control::start(config(1, &new, vec![])).await.expect("good");
    let seeds = vec![n1.address().to_string()];
    let mut behind = config(2, &old, seeds.clone());
    behind.keys.push(new.clone());
    let n2 = Control::start(behind).await.expect("good");
    let n3 = Control::start(config(3, &old, seeds)).await.expect("good");
    n1.submit(vec![declare(Origin::Cluster)]).await.expect("good");
    let known = |s: &Snapshot| s.services.contains_key(&web());
    wait(&n2, "the service of n1", known).await;
    // Until then it was heard by connections only. A service may come a moment before the node's own record.
    let id = new.parse::<mesh_control::ClusterKey>().expect("good").id();
    wait(&n2, "the keys of n1", |s| s.nodes.get("n1").is_some_and(|n| n.info.keys.contains(&id))).await;
    n2.submit(vec![LocalChange::Key(KeyChange::Use { id, force: false })]).await.expect("good");
    wait(&n1, "n2", |s| state(s, "n2") == Some(NodeState::Alive)).await;
    wait(&n2, "n1", |s| state(s, "n1") == Some(NodeState::Alive)).await;
    // Who has the old key only stays outside.
    assert!(!n3.joined() && !known(&n3.snapshots().borrow()));
    for node in [n1, n2, n3] {
        node.shutdown().await;
    }
}
