//! Every route and its errors.

use crate::{fake::name, world::World};
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};

#[tokio::test]
async fn reads_show_the_snapshot() {
    let world = World::start().await;
    let get = async |path: &str| {
        let heard = world.get(path).await;
        assert_eq!(heard.status, 200, "{path}: {heard:?}");
        heard.json()
    };

    let status = get("/v1/status").await;
    assert_eq!(
        (&status["node"], &status["ready"], &status["services"], &status["endpoints"]["hidden"]),
        (&json!("n1"), &json!(true), &json!(2), &json!(2)),
        "{status}"
    );

    let services = get("/v1/services").await;
    let list = services["services"].as_array().unwrap();
    assert_eq!(list.iter().map(|s| s["service"].as_str().unwrap()).collect::<Vec<_>>(), ["web", "cart.shop"]);
    assert_eq!(get("/v1/services?namespace=shop").await["services"].as_array().unwrap().len(), 1);

    let web = get("/v1/services/web").await;
    assert_eq!(web["vips"], json!(["127.96.0.7"]));
    assert_eq!(web["ports"][0]["published"], json!({"port": "8080", "mode": "ingress", "conflict": null}));
    assert_eq!(web["origins"], json!(["cluster", "node:n1"]));
    assert_eq!((&web["endpoints_ready"], &web["endpoints_total"]), (&json!(1), &json!(2)));
    let first = &web["endpoints"][0];
    assert_eq!((&first["state"], &first["health"]["healthy"]), (&json!("ready"), &json!(true)));
    assert_eq!(first["connections"]["active"], json!(5), "3 active and 2 removed are one backend's");
    assert_eq!(web["endpoints"][1]["state"], "draining");
    assert_eq!(get("/v1/services/cart.shop").await["namespace"], "shop");

    let endpoints = async |query: &str| {
        let list = get(&format!("/v1/endpoints{query}")).await;
        list["endpoints"].as_array().unwrap().iter().map(|e| e["instance"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(endpoints("").await, ["web-1", "web-2"]);
    assert_eq!(endpoints("?service=web&node=n2").await, ["web-2"]);
    assert!(endpoints("?service=cart.shop").await.is_empty());

    let nodes = get("/v1/nodes").await;
    let state = |i: usize| (nodes["nodes"][i]["state"].clone(), nodes["nodes"][i]["endpoints"].clone());
    assert_eq!((state(0), state(2)), ((json!("alive"), json!(1)), (json!("down"), json!(0))));

    let dns = get("/v1/dns?name=web.cluster&type=a").await;
    assert_eq!((&dns["rcode"], &dns["records"][0]["data"]), (&json!("NOERROR"), &json!("127.96.0.7")));
    let why = get("/v1/explain?destination=127.96.0.7:80&client=192.0.2.1").await;
    assert_eq!((&why["frontend"], &why["service"]), (&json!("127.96.0.7:80/tcp"), &json!("web")));
    assert_eq!(get("/v1/explain?destination=%5B::1%5D:9&protocol=udp").await["frontend"], Value::Null);
    assert_eq!(get("/v1/plan").await["operations"][0]["op"], "remove-frontend");
    assert_eq!(get("/openapi.json").await["openapi"], "3.1.0");
}

#[tokio::test]
async fn writes_reach_the_backend() {
    let world = World::start().await;
    for (method, path, body, logged) in [
        ("PUT", "/v1/services", "services: {}", "apply 12 dry_run=false"),
        ("PUT", "/v1/services?dry_run=true", "services: {}", "apply 12 dry_run=true"),
        ("DELETE", "/v1/services/web", "", "remove web"),
        ("POST", "/v1/services/web/publish", "", "publish web None None tcp Ingress"),
        (
            "POST",
            "/v1/services/WEB/publish",
            r#"{"published":"90-91","target":80,"protocol":"udp","mode":"host"}"#,
            "publish web Some(90-91) Some(80) udp Host",
        ),
        ("DELETE", "/v1/services/cart.shop/publish?port=90&protocol=udp", "", "unpublish cart.shop 90/udp"),
        (
            "POST",
            "/v1/services/web/endpoints",
            r#"{"instance":"w9","addresses":["192.0.2.9"],"ports":{"80":81},"weight":7}"#,
            "add web w9 192.0.2.9 {80: 81} 7",
        ),
        ("DELETE", "/v1/services/web/endpoints/w9", "", "rm web w9"),
        ("POST", "/v1/services/web/endpoints/w9/drain", "", "drain web w9 Start(None)"),
        (
            "POST",
            "/v1/services/web/endpoints/w9/drain",
            r#"{"deadline_seconds":1.5}"#,
            "drain web w9 Start(Some(1.5s))",
        ),
        ("DELETE", "/v1/services/web/endpoints/w9/drain", "", "drain web w9 Undo"),
        ("POST", "/v1/nodes/n1/drain", r#"{"draining":true}"#, "drain node true"),
    ] {
        let heard = world.send(method, path, body).await;
        assert_eq!(heard.status, 200, "{method} {path}: {heard:?}");
        assert_eq!(world.fake.log().last().unwrap(), logged, "{method} {path}");
    }
}

#[tokio::test]
async fn errors_name_field_and_fix_and_change_nothing() {
    let world = World::start().await;
    for (method, path, body, status, field) in [
        ("GET", "/v1/services/none", "", 404, None),
        ("GET", "/v1/services/a.b.c", "", 400, Some("name")),
        ("GET", "/v1/services/tasks", "", 400, Some("name")),
        ("GET", "/v1/services?x=1", "", 400, Some("x")),
        ("GET", "/v1/endpoints?service=none", "", 404, None),
        ("GET", "/v1/dns", "", 400, Some("name")),
        ("GET", "/v1/dns?name=a&type=A%20B", "", 400, Some("type")),
        ("GET", "/v1/explain", "", 400, Some("destination")),
        ("GET", "/v1/explain?destination=web:80", "", 400, Some("destination")),
        ("GET", "/v1/explain?destination=1.2.3.4:0", "", 400, Some("destination")),
        ("GET", "/v1/explain?destination=1.2.3.4:1&protocol=sctp", "", 400, Some("protocol")),
        ("GET", "/v1/explain?destination=1.2.3.4:1&client=x", "", 400, Some("client")),
        ("GET", "/v1", "", 404, None),
        ("PUT", "/v1/services?dry_run=maybe", "", 400, Some("dry_run")),
        ("PUT", "/v1/services", "bad", 422, None),
        ("DELETE", "/v1/services/none", "", 404, None),
        ("DELETE", "/v1/services/cart.shop", "", 409, None),
        ("DELETE", "/v1/services/web/publish", "", 400, Some("port")),
        ("POST", "/v1/services/web/publish", "{", 400, Some("body")),
        ("POST", "/v1/services/web/publish", r#"{"publish":"1"}"#, 400, Some("body")),
        ("POST", "/v1/services/web/publish", r#"{"published":"0"}"#, 400, Some("published")),
        ("POST", "/v1/services/web/publish", r#"{"mode":"all"}"#, 400, Some("mode")),
        ("POST", "/v1/services/web/publish", r#"{"target":0}"#, 400, Some("target")),
        ("POST", "/v1/services/web/endpoints", "", 400, Some("body")),
        ("POST", "/v1/services/web/endpoints", r#"{"instance":"w","addresses":[]}"#, 400, Some("addresses")),
        ("DELETE", "/v1/services/web/endpoints/a.b", "", 400, Some("instance")),
        (
            "POST",
            "/v1/services/web/endpoints/w/drain",
            r#"{"deadline_seconds":-1}"#,
            400,
            Some("deadline_seconds"),
        ),
        ("POST", "/v1/nodes/n2/drain", r#"{"draining":true}"#, 409, None),
        ("POST", "/v1/nodes/n9/drain", r#"{"draining":true}"#, 404, None),
        ("POST", "/v1/nodes/n1/drain", "", 400, Some("body")),
    ] {
        let heard = world.send(method, path, body).await;
        assert_eq!(heard.status, status, "{method} {path}: {heard:?}");
        let json = heard.json();
        assert!(!json["error"].as_str().unwrap().is_empty());
        assert_eq!(json.get("field").and_then(Value::as_str), field, "{method} {path}: {json}");
    }
    assert!(world.fake.log().is_empty(), "{:?}", world.fake.log());
    let refused = world.send("PUT", "/v1/services", "bad").await.json();
    assert_eq!(refused["details"], json!(["line 1: bad", "line 2: worse"]));
}

#[tokio::test]
async fn a_wrong_method_names_the_right_ones() {
    let world = World::start().await;
    let heard = world.send("PATCH", "/v1/services", "").await;
    assert_eq!(heard.status, 405);
    assert!(heard.head.contains("allow: get, head, put"), "{heard:?}");
    let head = world.send("HEAD", "/v1/services", "").await;
    assert_eq!((head.status, head.body.as_str()), (200, ""));
}

#[tokio::test]
async fn probes_tell_the_truth() {
    let world = World::start().await;
    let probe = async |path: &str| {
        let heard = world.get(path).await;
        (heard.status, heard.json())
    };
    for path in ["/livez", "/readyz", "/healthz"] {
        // n3 is down all the while.
        assert_eq!(probe(path).await.0, 200, "{path}");
    }
    world.fake.turn(|k| {
        k.synced = false;
        k.dns = None;
        k.plane.revision = None;
        k.plane.since_ok = None;
    });
    let (code, ready) = probe("/readyz").await;
    let missing = ready["missing"].to_string();
    assert_eq!(code, 503);
    for part in ["source file", "data plane userspace", "DNS"] {
        assert!(missing.contains(part), "{missing}");
    }
    assert_eq!(probe("/healthz").await.0, 503);
    assert_eq!(probe("/livez").await.0, 200);

    world.fake.turn(|k| k.plane.since_ok = Some(Duration::from_secs(59)));
    assert_eq!(probe("/healthz").await.0, 200);
    world.fake.turn(|k| k.plane.failed = vec!["0.0.0.0:8080/tcp: address in use".into()]);
    let (code, health) = probe("/healthz").await;
    assert_eq!((code, health["degraded"].as_array().unwrap().len()), (200, 1));
    world.fake.turn(|k| k.plane.error = Some("observe: broken".into()));
    let (code, health) = probe("/healthz").await;
    assert!(code == 503 && health["problems"][0].as_str().unwrap().contains("observe: broken"), "{health}");
    world.fake.turn(|k| {
        k.plane.error = None;
        k.plane.since_ok = Some(Duration::from_secs(61));
    });
    assert_eq!(probe("/healthz").await.0, 503, "stale");
}

#[tokio::test]
async fn a_drained_node_drains_its_endpoints() {
    let world = World::start().await;
    world.fake.turn(|k| {
        let mut snapshot = (*k.snapshot).clone();
        let mut node = (**snapshot.nodes.get(&name("n1")).unwrap()).clone();
        node.info.draining = true;
        snapshot.set_node(name("n1"), Some(Arc::new(node)));
        k.snapshot = Arc::new(snapshot);
    });
    let web = world.get("/v1/services/web").await.json();
    assert_eq!((&web["endpoints"][0]["state"], &web["endpoints_ready"]), (&json!("draining"), &json!(0)));
}
