//! Namespaces on the overlay's bridge, through the command line and the API.

use crate::{
    cli_commands::line,
    world::{World, ask},
};
use serde_json::{Value, json};

#[tokio::test]
async fn namespaces_are_attached_listed_and_detached() {
    let world = World::start().await;
    assert_eq!(world.good("attach --netns /run/netns/web").await, "10.128.7.2\n");
    let attached = world.good("--json attach --netns 4711 --name eth1").await;
    let attached: Value = serde_json::from_str(&attached).unwrap();
    assert_eq!((&attached["netns"], &attached["name"]), (&json!("/proc/4711/ns/net"), &json!("eth1")));
    assert_eq!((&attached["gateways"], &attached["mtu"]), (&json!(["10.128.7.1"]), &json!(1450)));
    let list = world.good("attachments").await;
    assert_eq!(line(&list, "/run/netns/web")[1..3], ["eth0", "10.128.7.2"], "{list}");
    let taken = world.cli("attach --netns /run/netns/web --address 10.128.7.9").await;
    assert_eq!(taken.code, 1, "{taken:?}");
    assert!(taken.err.contains("belongs to another container"), "{taken:?}");
    assert!(taken.err.contains("mesh-agent attachments"), "{taken:?}");
    assert!(world.good("detach --netns /run/netns/web").await.contains("is detached"));
    assert!(world.good("detach --netns /run/netns/gone").await.contains("was not attached"));
    assert_eq!(
        world.fake.log(),
        [
            "attach /run/netns/web eth0",
            "attach /proc/4711/ns/net eth1",
            "detach /run/netns/web eth0",
            "detach /run/netns/gone eth0",
        ]
    );
    assert_eq!(world.cli("attach").await.code, 64);
    let status = world.good("status").await;
    assert!(status.contains("10.128.7.1/24, 0 peers") && status.contains("n9 has no IPv4"), "{status}");
}

#[tokio::test]
async fn who_proved_nothing_attaches_nothing() {
    let world = World::start().await;
    let body = r#"{"netns":"/run/netns/web"}"#;
    for (method, path, body) in
        [("POST", "/v1/attachments", body), ("DELETE", "/v1/attachments?netns=/run/netns/web", "")]
    {
        let heard = ask(world.tcp().await, method, path, "", body).await;
        assert_eq!(heard.status, 403, "{heard:?}");
    }
    assert_eq!(ask(world.tcp().await, "GET", "/v1/attachments", "", "").await.status, 200);
    assert_eq!(world.send("DELETE", "/v1/attachments", "").await.status, 400);
    assert!(world.fake.log().is_empty());
}
