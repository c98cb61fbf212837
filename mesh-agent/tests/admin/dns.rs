//! `dns query`: what the API and the command make of an explanation.

use crate::{cli_commands::line, world::World};
use mesh_dns::{
    Cached, Candidate, Explanation, ForwardPath, Origin, Outcome, Step, TtlOrigin, UpstreamState,
};
use serde_json::json;

/// One with something in every field.
pub(crate) fn explanation(asked: &str, listen: Option<String>) -> Explanation {
    let candidate = Candidate {
        name: "web-1".into(),
        node: Some("n1".into()),
        addresses: vec![std::net::Ipv4Addr::new(10, 0, 0, 1).into()],
        answered: true,
        why: "ready, on this node".into(),
    };
    let upstream = UpstreamState {
        address: "192.0.2.53:53".into(),
        state: "failing".into(),
        failures: 3,
        rtt_seconds: Some(0.0123),
    };
    Explanation {
        revision: 7,
        listen,
        namespaces: Some(vec!["shop".into()]),
        default_namespace: "shop".into(),
        completed: Some("it has no dot".into()),
        steps: vec![Step {
            name: asked.into(),
            origin: Origin::Mesh,
            zone: Some("cluster.".into()),
            meaning: "service `web`".into(),
            service: Some("web".into()),
            outcome: Outcome::Answer,
            reasons: vec!["endpoint_mode is dnsrr".into()],
            nearest: vec!["www.cluster.".into()],
            ttl: Some(TtlOrigin { seconds: 5, from: "dns.ttl".into() }),
            candidates: vec![candidate],
            more_candidates: 3,
            hidden_endpoints: 2,
        }],
        forward: Some(ForwardPath {
            domain: Some("corp.example.".into()),
            upstreams: vec![upstream],
            cached: Some(Cached { fresh: false, seconds: 9, rcode: "NOERROR".into() }),
            answered_by: Some("stale cache".into()),
            problem: Some("no time left".into()),
        }),
    }
}

#[tokio::test]
async fn an_explanation_is_shown_whole() {
    let world = World::start().await;
    let text = world.good("dns query web.cluster --explain --listen 127.0.0.1:53").await;
    assert_eq!(line(&text, "web.cluster"), ["web.cluster", "5", "A", "127.96.0.7"]);
    for part in [
        "asked as     a client of 127.0.0.1:53: sees shop; a name alone is of `shop`\n",
        "from         revision 7 of this node's state\n",
        "name         it has no dot\n",
        "zone         the mesh's zone cluster.\n",
        "is           service `web`\n",
        "outcome      answered\n",
        "because      endpoint_mode is dnsrr\n",
        "nearest      www.cluster.\n",
        "ttl          5 s, by dns.ttl\n",
        "hidden       2 endpoints, whose node is down\n",
        "and 3 more\n",
        "upstreams    dns.domains: corp.example.\n",
        "cache        had NOERROR, stale for 9 s\n",
        "answered by  stale cache\n",
        "problem      no time left\n",
    ] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    assert_eq!(line(&text, "web-1")[..4], ["web-1", "n1", "10.0.0.1", "yes"], "{text}");
    assert_eq!(line(&text, "192.0.2.53:53"), ["192.0.2.53:53", "failing", "3", "12.3ms"]);
    assert!(!world.good("dns query web.cluster --listen 127.0.0.1:53").await.contains("revision"));
    let none = world.cli("dns query none.cluster --explain").await;
    assert_eq!(none.code, 2, "{none:?}");
    assert!(
        none.out.starts_with("NXDOMAIN for none.cluster A\n") && none.out.contains("because"),
        "{none:?}"
    );
}

#[tokio::test]
async fn the_type_may_stand_behind_the_name() {
    let world = World::start().await;
    for args in ["dns query web.cluster AAAA", "dns query web.cluster --type aaaa"] {
        assert!(world.good(args).await.contains("web.cluster exists and has no AAAA"), "{args}");
    }
    assert_eq!(world.cli("dns query web.cluster A --type AAAA").await.code, 64);
}

#[tokio::test]
async fn the_api_explains_when_it_is_asked_to() {
    let world = World::start().await;
    let plain = world.get("/v1/dns?name=web.cluster&explain=false").await;
    assert_eq!(plain.json().get("explanation"), None);
    let told = world.get("/v1/dns?name=web.cluster&explain=true&listen=127.0.0.1").await.json();
    assert_eq!(
        told["explanation"],
        serde_json::to_value(explanation("web.cluster", Some("127.0.0.1".into()))).unwrap()
    );
    assert_eq!(told["explanation"]["steps"][0]["outcome"], json!("answer"));
    let bad = world.get("/v1/dns?name=web.cluster&explain=yes").await;
    assert_eq!((bad.status, bad.json()["field"].clone()), (400, json!("explain")));
}
