use super::{
    testing::{key, service, source, until, writer},
    writer::WriterError,
};
use mesh_control::model::ServiceSpec;
use std::time::Duration;

fn draining(millis: u64) -> ServiceSpec {
    ServiceSpec { drain: Duration::from_millis(millis), ..ServiceSpec::default() }
}

#[tokio::test]
async fn drained_endpoints_go_without_another_word() {
    let (writer, control, _snapshots) = writer(&["file"]);
    let file = source("file");
    writer.upsert(&file, service("web", draining(300), &["a", "b"])).await.unwrap();
    writer.upsert(&file, service("web", draining(300), &["b"])).await.unwrap();
    let count = || control.lock().unwrap().endpoints[&key("web")].len();
    assert_eq!((count(), control.lock().unwrap().shown().1), (2, vec!["b".to_owned()]));
    until("a is gone", || count() == 1).await;
}

#[tokio::test]
async fn a_refusal_is_told_repeated_and_holds_nobody_up() {
    let (writer, control, _snapshots) = writer(&["file"]);
    control.lock().unwrap().refuse.insert(key("bad"));
    let all = ["bad", "good"].map(|n| service(n, draining(0), &["a"])).to_vec();
    let refused = writer.replace(&source("file"), all).await.unwrap_err();
    assert_eq!(refused, WriterError::Refused { service: key("bad"), reason: "refused by the test".into() });
    assert_eq!(control.lock().unwrap().shown().0, ["good"]);
    // What others say meanwhile is not their fault.
    writer.upsert(&source("file"), service("more", draining(0), &[])).await.unwrap();
    control.lock().unwrap().refuse.clear();
    until("bad is taken", || control.lock().unwrap().shown().0 == ["bad", "good", "more"]).await;
}

#[tokio::test]
async fn all_are_synced_when_each_is() {
    let (writer, _control, _snapshots) = writer(&["api", "file"]);
    let synced = writer.all_synced();
    writer.synced(&source("file")).await.unwrap();
    assert!(!*synced.borrow());
    writer.synced(&source("api")).await.unwrap();
    assert!(*synced.borrow());
    assert!(writer.statuses().iter().all(|s| s.synced));
    let (none, ..) = super::testing::writer(&[]);
    assert!(*none.all_synced().borrow());
}

#[tokio::test]
async fn leftovers_of_an_earlier_run_are_withdrawn() {
    let (writer, control, _snapshots) = writer(&["file"]);
    writer.upsert(&source("file"), service("web", draining(0), &["a"])).await.unwrap();
    let before = control.lock().unwrap().writes;
    writer.withdraw_leftovers(vec![key("web"), key("old")]).await.unwrap();
    assert_eq!(control.lock().unwrap().writes - before, 2, "a delete and an empty list, for old alone");
    assert_eq!(control.lock().unwrap().shown(), (vec!["web".to_owned()], vec!["a".to_owned()]));
}

#[tokio::test]
async fn a_refusal_of_the_node_is_told_to_who_asked_and_to_nobody_else() {
    let (writer, control, _snapshots) = writer(&["file"]);
    control.lock().unwrap().refuse_node = true;
    let refused = writer.drain_node(true).await.unwrap_err();
    assert_eq!(refused, WriterError::NodeRefused { reason: "refused by the test".into() });
    // More services than one batch has room for: what is not refused is told all the same.
    let names: Vec<String> = (0..300).map(|i| format!("s{i:03}")).collect();
    let all = names.iter().map(|n| service(n, draining(0), &[])).collect();
    writer.replace(&source("file"), all).await.unwrap();
    assert_eq!(control.lock().unwrap().shown().0, names);
    control.lock().unwrap().refuse_node = false;
    until("the drain is taken", || control.lock().unwrap().info.draining).await;
}
