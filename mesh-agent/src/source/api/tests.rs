use super::{ApiError, ApiSource};
use crate::source::{
    LocalService, StateWriter, WriterError,
    testing::{Control, Held, endpoint, key, node, service, source, until},
};
use mesh_control::model::{
    Name, NodeInfo, Origin, PortRange, Protocol, Publish, PublishMode, ServicePort, ServiceSpec, ServiceView,
    Snapshot,
};
use std::{fs, path::Path, sync::Arc};
use tokio::sync::watch;

/// A control plane whose snapshot follows what it is told.
fn live_writer() -> (StateWriter, Control, watch::Receiver<Arc<Snapshot>>) {
    let control = Control::default();
    let (sink, snapshots) = (control.clone(), watch::channel(Arc::new(Snapshot::empty(node()))).0);
    let (out, snapshot) = (snapshots.clone(), snapshots.subscribe());
    let submit = move |changes| {
        let mut held = sink.lock().unwrap();
        let result = held.take(changes);
        out.send_replace(Arc::new(shown(&held)));
        async move { result }
    };
    let (writer, _task) =
        StateWriter::spawn(node(), NodeInfo::default(), &[ApiSource::id()], snapshot.clone(), submit);
    (writer, control, snapshot)
}

fn shown(held: &Held) -> Snapshot {
    let mut snapshot = Snapshot::empty(node());
    for ((key, origin), spec) in &held.specs {
        let view = ServiceView {
            key: key.clone(),
            spec: spec.clone(),
            origins: vec![origin.clone()],
            conflict: None,
            vips: Default::default(),
            published: vec![],
            endpoints: Arc::new([]),
            hidden_endpoints: 0,
        };
        snapshot.set_service(key.clone(), Some(Arc::new(view)));
    }
    snapshot
}

async fn start(dir: Option<&Path>) -> (ApiSource, StateWriter, Control) {
    let (writer, control, snapshot) = live_writer();
    (ApiSource::start(dir, writer.clone(), snapshot).await.unwrap(), writer, control)
}

fn tcp(port: u16) -> ServiceSpec {
    let port = ServicePort {
        name: None,
        protocol: Protocol::Tcp,
        port: PortRange::single(port).unwrap(),
        target: port,
        publish: None,
        proxy_protocol: false,
    };
    ServiceSpec { ports: vec![port], ..ServiceSpec::default() }
}

fn declared(name: &str, endpoints: &[&str]) -> LocalService {
    let spec = tcp(80);
    LocalService { declaration: Some((Origin::Cluster, Arc::new(spec))), ..service(name, tcp(80), endpoints) }
}

fn publish(port: u16) -> Publish {
    Publish {
        port: Some(PortRange::single(port).unwrap()),
        mode: PublishMode::Ingress,
        address: None,
        allow: vec![],
    }
}

#[tokio::test]
async fn endpoints_outlive_a_restart_and_declarations_are_the_clusters() {
    let dir = tempfile::tempdir().unwrap();
    let (api, writer, control) = start(Some(dir.path())).await;
    assert!(*writer.all_synced().borrow());
    api.apply(vec![declared("web", &["a"]), declared("db.shop", &[])]).await.unwrap();
    api.add_endpoint(&key("web"), endpoint("b")).await.unwrap();
    api.add_endpoint(&key("later"), endpoint("c")).await.unwrap();
    assert_eq!(control.lock().unwrap().shown().1, ["c", "a", "b"]);
    assert!(control.lock().unwrap().specs.contains_key(&(key("web"), Origin::Cluster)));
    drop(api);

    let (api, _writer, control) = start(Some(dir.path())).await;
    let held = control.lock().unwrap().shown();
    assert_eq!(held, (vec![], vec!["c".to_owned(), "a".into(), "b".into()]), "nothing is declared again");
    api.remove_endpoint(&key("web"), &Name::new("a").unwrap()).await.unwrap();
    let again = api.remove_endpoint(&key("web"), &Name::new("a").unwrap()).await.unwrap_err();
    assert_eq!(again.to_string(), "the API has added no endpoint a to web on this node");
    drop(api);
    let (_api, _writer, control) = start(Some(dir.path())).await;
    assert_eq!(control.lock().unwrap().shown().1, ["c", "b"]);
}

#[tokio::test]
async fn the_same_declaration_may_be_made_again_after_another_edited_it() {
    let (api, _writer, control) = start(None).await;
    api.apply(vec![declared("web", &[])]).await.unwrap();
    // Another node edits, as gossip would bring it.
    control.lock().unwrap().specs.insert((key("web"), Origin::Cluster), Arc::new(tcp(81)));
    api.apply(vec![declared("web", &[])]).await.unwrap();
    assert_eq!(*control.lock().unwrap().specs[&(key("web"), Origin::Cluster)], tcp(80));
}

#[tokio::test]
async fn a_declaration_is_changed_from_the_spec_in_force() {
    let (api, _writer, control) = start(None).await;
    let web = key("web");
    assert!(matches!(api.remove(&web).await, Err(ApiError::NoSuchService(_))));
    api.apply(vec![declared("web", &["a"])]).await.unwrap();
    let published = || control.lock().unwrap().specs[&(key("web"), Origin::Cluster)].ports[0].publish.clone();
    let with = |publish: Option<Publish>| {
        move |view: &ServiceView| {
            let mut spec = (*view.spec).clone();
            spec.ports[0].publish = publish;
            Ok::<_, ApiError>(spec)
        }
    };
    api.change(&web, with(Some(publish(8080)))).await.unwrap();
    assert_eq!(published(), Some(publish(8080)));
    api.change(&web, with(None)).await.unwrap();
    assert_eq!(published(), None);
    let refused: Result<(), ApiError> =
        api.change(&web, |_| Err(ApiError::NoSuchService(key("other")))).await;
    assert!(matches!(refused, Err(ApiError::NoSuchService(_))));
    let mut long = publish(1);
    long.port = Some("1-3".parse().unwrap());
    let bad = api.change(&web, with(Some(long))).await.unwrap_err();
    assert_eq!(bad.to_string(), "web: ports[0]: published 1-3 and port 80 differ in length");
    assert_eq!(published(), None);
    api.remove(&web).await.unwrap();
    assert_eq!(control.lock().unwrap().shown(), (vec![], vec![]));
}

#[tokio::test]
async fn what_the_api_may_not_do_is_refused_with_nothing_changed() {
    let (api, writer, control) = start(None).await;
    writer.replace(&source("file"), vec![service("web", tcp(80), &[])]).await.unwrap();
    let foreign = api.remove(&key("web")).await.unwrap_err();
    assert_eq!(foreign.to_string(), "the service web is declared by a file of n1: edit it there");
    let mut command = declared("x", &[]);
    command.exec_check = Some(crate::source::ExecCheck {
        command: vec!["x".into()],
        interval: std::time::Duration::from_secs(1),
        timeout: std::time::Duration::from_secs(1),
        rise: 1,
        fall: 1,
        start_period: std::time::Duration::ZERO,
    });
    let writes = control.lock().unwrap().writes;
    let e = api.apply(vec![declared("good", &[]), command]).await.unwrap_err();
    assert!(matches!(e, ApiError::Command(_)), "{e}");
    let mut nowhere = endpoint("a");
    nowhere.addresses = Default::default();
    let e = api.add_endpoint(&key("good"), nowhere).await.unwrap_err();
    assert_eq!(e.to_string(), "endpoint a of good: addresses: it has no address: give it one");
    assert_eq!(control.lock().unwrap().writes, writes);
    control.lock().unwrap().refuse.insert(key("web"));
    let e = api.apply(vec![declared("web", &[])]).await.unwrap_err();
    assert!(matches!(e, ApiError::Writer(WriterError::Refused { .. })), "{e}");
}

#[tokio::test]
async fn a_damaged_file_is_kept_aside_and_named() {
    for text in ["{", "{\"version\":9,\"services\":[]}", "\u{0}", "[]"] {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("api.json"), text).unwrap();
        let (api, writer, _control) = start(Some(dir.path())).await;
        until("the error", || writer.statuses()[0].errors.len() == 1).await;
        let error = writer.statuses()[0].errors[0].clone();
        assert!(error.contains("is damaged") && error.contains("it is kept as"), "{error}");
        let aside = fs::read_dir(dir.path()).unwrap().next().unwrap().unwrap().path();
        assert_eq!(fs::read_to_string(&aside).unwrap(), text);
        api.add_endpoint(&key("web"), endpoint("a")).await.unwrap();
        assert!(dir.path().join("api.json").exists() && aside.exists());
    }
}

#[tokio::test]
async fn what_cannot_be_kept_is_not_announced() {
    let dir = tempfile::tempdir().unwrap();
    let (api, _writer, control) = start(Some(dir.path())).await;
    // A folder in the file's place cannot be replaced, whoever runs the test.
    fs::create_dir(dir.path().join("api.json")).unwrap();
    fs::write(dir.path().join("api.json/x"), "").unwrap();
    let e = api.add_endpoint(&key("web"), endpoint("a")).await.unwrap_err();
    assert!(matches!(e, ApiError::Store(_)), "{e}");
    assert_eq!(control.lock().unwrap().shown().1, Vec::<String>::new());
}

/// hyper drops the answer's future when the client hangs up.
#[tokio::test]
async fn what_was_begun_is_done_though_the_client_hangs_up() {
    let dir = tempfile::tempdir().unwrap();
    let (api, _writer, control) = start(Some(dir.path())).await;
    let web = key("web");
    let mut asked = Box::pin(api.add_endpoint(&web, endpoint("a")));
    std::future::poll_fn(|context| {
        assert!(asked.as_mut().poll(context).is_pending());
        std::task::Poll::Ready(())
    })
    .await;
    drop(asked);
    until("announced", || control.lock().unwrap().shown().1 == ["a"]).await;
    // The next one starts from what was kept.
    api.add_endpoint(&key("web"), endpoint("b")).await.unwrap();
    let kept = super::store::load(&dir.path().join("api.json")).unwrap();
    assert_eq!(kept[&key("web")].len(), 2);
}

/// What the mesh would refuse must not be kept: all later changes of the service would be refused with it.
#[tokio::test]
async fn no_endpoint_is_kept_that_the_mesh_would_refuse() {
    let (api, _writer, control) = start(None).await;
    let mut many = endpoint("a");
    many.ports = (1..=1025).map(|port| (port, port)).collect();
    let mut nobody = endpoint("b");
    nobody.addresses = std::net::IpAddr::from([255; 4]).into();
    let names: Vec<String> = (0..=4096).map(|i| format!("e{i}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for (endpoint, problem) in [(many, "ports: 1025 ports"), (nobody, "addresses: 255.255.255.255")] {
        let e = api.add_endpoint(&key("web"), endpoint).await.unwrap_err().to_string();
        assert!(e.contains(problem), "{e}");
    }
    let e = api.apply(vec![declared("web", &names)]).await.unwrap_err().to_string();
    assert!(e.contains("at most 4096 endpoints"), "{e}");
    assert_eq!(control.lock().unwrap().writes, 0);
}

#[tokio::test]
async fn a_change_waits_for_the_one_before_though_that_client_hung_up() {
    let (writer, control, snapshot) = live_writer();
    let (slow, seen) = watch::channel(snapshot.borrow().clone());
    let api = ApiSource::start(None, writer, seen).await.unwrap();
    api.apply(vec![declared("web", &[])]).await.unwrap();
    slow.send_replace(snapshot.borrow().clone());
    let web = key("web");
    let label = |name: &'static str| {
        move |view: &ServiceView| {
            let mut spec = (*view.spec).clone();
            spec.labels.insert(name.into(), String::new());
            Ok::<_, ApiError>(spec)
        }
    };
    let mut gone = Box::pin(api.change(&web, label("first")));
    std::future::poll_fn(|context| {
        assert!(gone.as_mut().poll(context).is_pending());
        std::task::Poll::Ready(())
    })
    .await;
    drop(gone);
    // The snapshot shows the first change a little after the store has it.
    let labels = || control.lock().unwrap().specs[&(key("web"), Origin::Cluster)].labels.len();
    let show = async {
        until("the first is taken", || labels() == 1).await;
        slow.send_replace(snapshot.borrow().clone());
        until("the second is taken", || labels() == 2).await;
        slow.send_replace(snapshot.borrow().clone());
    };
    let (second, ()) = tokio::join!(api.change(&web, label("second")), show);
    second.unwrap();
}
