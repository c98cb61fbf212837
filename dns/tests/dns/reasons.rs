//! Where an answer comes from, in words: every reason there is.

use crate::{answers::question, mesh, properties::options_of_all};
use hickory_proto::{op::ResponseCode, rr::RecordType};
use mesh_control::model;
use mesh_dns::{DnsView, Explanation, Origin, Outcome, Scope, Step, explain};
use std::sync::Arc;

fn told(text: &str, asked: &str, kind: RecordType) -> Explanation {
    let view = DnsView::new(&mesh::read(text));
    explain(&view, &question(asked, kind), 0, &options_of_all()).1
}

/// The last step in few words: meaning, reasons, nearest, TTL, candidates.
fn line(step: &Step) -> String {
    let ttl = step.ttl.as_ref().map_or_else(String::new, |t| format!("{} by {}", t.seconds, t.from));
    let candidates: Vec<String> = step
        .candidates
        .iter()
        .map(|c| format!("{}{}: {}", if c.answered { "+" } else { "-" }, c.name, c.why))
        .collect();
    [&step.meaning, &step.reasons.join("; "), &step.nearest.join(" "), &ttl, &candidates.join("; ")]
        .map(String::as_str)
        .join(" | ")
}

const MESH: &str = "
service  web        vip=10.96.0.1 ports=http:80/tcp>8080 alias=www ttl=30
endpoint web web-1 n1 10.0.0.1 ready
endpoint web web-2 n2 10.0.0.2 unready
service  db         mode=dnsrr locality=prefer-local negative-ttl=9
endpoint db db-1 n1 10.0.2.1 ready
endpoint db db-2 n2 10.0.2.2 ready
endpoint db db-3 n2 10.0.2.3 ready weight=0
endpoint db db-4 n2 fd00::4 ready
service  near       mode=dnsrr locality=local-only
endpoint near near-2 n2 10.0.3.2 ready
service  api.shop   vip=10.96.0.2
service  mail       external=mail.example.org ttl=7
service  self       external=www.cluster
service  later
";

#[test]
fn every_reason_is_told() {
    for (asked, kind, expected) in [
        (
            "www.cluster",
            RecordType::A,
            &[
                "service `web` in namespace `default`, by its alias `www` | endpoint_mode is vip: the answer is its VIP;",
                "30 by the service's x-mesh.ttl",
                "+VIP: claimed for this service; -web-1: ready: the VIP leads to it; -web-2: not ready",
            ][..],
        ),
        (
            "web.cluster",
            RecordType::AAAA,
            &[
                "the name exists and has no AAAA; the service has no VIP of that family",
                "5 by dns.negative_ttl",
                "-VIP: not of the family asked",
            ],
        ),
        ("later.cluster", RecordType::A, &["no VIP is claimed for the service yet"]),
        ("web.cluster", RecordType::MX, &["the name exists and has no MX"]),
        (
            "db.cluster",
            RecordType::A,
            &[
                "every ready endpoint of weight above 0, rotated; locality is prefer-local: those of this node n1 come first",
                "5 by dns.ttl",
                "+db-1: ready, on this node; +db-2: ready, after those of this node (prefer-local); -db-3: its weight is 0; -db-4: has no IPv4 address",
            ],
        ),
        ("db.cluster", RecordType::TXT, &["the record describes the service"]),
        ("db.cluster", RecordType::MX, &["9 by the service's x-mesh.negative_ttl"]),
        ("near.cluster", RecordType::A, &["-near-2: on another node (local-only)"]),
        ("tasks.near.cluster", RecordType::A, &["every instance of service `near`", "+near-2: ready"]),
        ("tasks.web.cluster", RecordType::AAAA, &["-web-1: has no IPv6 address; -web-2: not ready"]),
        (
            "web-2.web.cluster",
            RecordType::A,
            &["instance `web-2` of service `web`", "the instance is not ready"],
        ),
        ("_http._tcp.web.cluster", RecordType::SRV, &["port 80 (target 8080) of service `web`", "+VIP"]),
        ("_tcp.web.cluster", RecordType::SRV, &["nothing itself", "because names below it do"]),
        ("shop.cluster", RecordType::A, &["because names below it do"]),
        ("cluster", RecordType::SOA, &["the zone itself", "an SOA and an NS"]),
        ("web.cluster", RecordType::AXFR, &["AXFR is refused"]),
        // What does not exist, and what was perhaps meant.
        (
            "wbe.cluster",
            RecordType::A,
            &["namespace `default` has no service, and no alias of one, called `wbe` | web.cluster."],
        ),
        ("api.cluster", RecordType::A, &["called `api` | api.shop.cluster."]),
        (
            "api.sop.cluster",
            RecordType::A,
            &["there is no namespace `sop`, and no service `sop` with an instance `api` | api.shop.cluster."],
        ),
        (
            "apu.shop.cluster",
            RecordType::A,
            &["namespace `shop` has no service, and no alias of one, called `apu` | api.shop.cluster."],
        ),
        ("web-9.web.cluster", RecordType::A, &["service `web` has no instance `web-9` | web-1 web-2"]),
        ("web-9.web.default.cluster", RecordType::A, &["service `web` has no instance `web-9`"]),
        ("tasks.wbe.cluster", RecordType::A, &["called `wbe`"]),
        (
            "_https._tcp.web.cluster",
            RecordType::SRV,
            &["service `web` has no port `https` of tcp; it has http (80/tcp)"],
        ),
        ("_udp.web.cluster", RecordType::SRV, &["service `web` has no port of udp"]),
        ("_http._sctp.web.cluster", RecordType::SRV, &["`_sctp` is no protocol"]),
        ("a.b.c.d.cluster", RecordType::A, &["too many labels: the longest is INSTANCE.NAME.NAMESPACE"]),
        ("a.b.tasks.web.cluster", RecordType::A, &["too many labels"]),
        // Kubernetes' names.
        ("api.shop.svc.cluster.local", RecordType::A, &["service `api` in namespace `shop`", "+VIP"]),
        ("apu.shop.svc.cluster.local", RecordType::A, &["called `apu` | api.shop.svc.cluster.local."]),
        ("later.default.svc.cluster.local", RecordType::A, &["no VIP is claimed"]),
        (
            "near.default.svc.cluster.local",
            RecordType::A,
            &["headless (dnsrr) and no endpoint may be answered"],
        ),
        ("_80._tcp.web.default.svc.cluster.local", RecordType::SRV, &["only a port's name names it here"]),
        (
            "10-9-9-9.shop.pod.cluster.local",
            RecordType::A,
            &["no ready endpoint in namespace `shop` has the address"],
        ),
        ("x.cluster.local", RecordType::A, &["below `cluster.local.` there are"]),
        ("shp.svc.cluster.local", RecordType::A, &["there is no namespace `shp` | shop"]),
        // Reverse names, and somebody else's.
        (
            "1.0.96.10.in-addr.arpa",
            RecordType::PTR,
            &[
                "address 10.96.0.1 | services in sight",
                "30 by the service's x-mesh.ttl",
                "+web: the service's VIP",
            ],
        ),
        ("1.2.0.10.in-addr.arpa", RecordType::PTR, &["+db-1.db: a ready endpoint's address"]),
        (
            "9.9.96.10.in-addr.arpa",
            RecordType::PTR,
            &["no VIP and no ready endpoint in sight has the address; all names of 10.96.0.0/16"],
        ),
        ("9.96.10.in-addr.arpa", RecordType::PTR, &["network 10.96.9.0/24 | the name exists and has no PTR"]),
        (
            "9.9.9.10.in-addr.arpa",
            RecordType::PTR,
            &["neither below `cluster.` or `cluster.local.` nor of an address of the mesh"],
        ),
        ("tasks.web", RecordType::A, &["not the mesh's | it is neither", " | tasks.web.cluster. | "]),
        ("example.org", RecordType::A, &["a name that is not the mesh's"]),
    ] {
        let told = told(MESH, asked, kind);
        let got = line(told.steps.last().unwrap());
        for part in expected {
            assert!(got.contains(part), "{asked} {kind}: `{part}` is not in\n{got}");
        }
    }
}

#[test]
fn a_chain_is_told_step_by_step() {
    let all = told(MESH, "self.cluster", RecordType::A);
    let outcomes: Vec<_> = all.steps.iter().map(|s| (s.name.as_str(), s.outcome)).collect();
    assert_eq!(outcomes, [("self.cluster.", Outcome::Alias), ("www.cluster.", Outcome::Answer)]);
    assert!(all.steps[0].reasons[0].contains("external_name `www.cluster`"), "{all:?}");
    assert!(all.steps[0].candidates.is_empty() && all.steps[1].candidates[0].answered);
    let out = told(MESH, "mail.cluster", RecordType::A);
    let outcomes: Vec<_> = out.steps.iter().map(|s| (s.name.as_str(), s.outcome, s.origin)).collect();
    assert_eq!(
        outcomes,
        [
            ("mail.cluster.", Outcome::Alias, Origin::Mesh),
            ("mail.example.org.", Outcome::Forwarded, Origin::Forwarded)
        ]
    );
    assert_eq!(out.steps[0].ttl.as_ref().map(|t| t.seconds), Some(7));
    let only = told(MESH, "mail.cluster", RecordType::CNAME);
    assert_eq!((only.steps.len(), only.steps[0].outcome), (1, Outcome::Answer));
    let round =
        told("service a external=b.cluster\nservice b external=a.cluster", "a.cluster", RecordType::A);
    assert_eq!(round.steps.len(), 9);
    assert!(round.steps[8].reasons.iter().any(|r| r.contains("followed no further")), "{:?}", round.steps[8]);
}

#[test]
fn who_else_claims_a_name_is_told() {
    let mesh = "service a alias=x\nservice b alias=x,a\nservice c.shop alias=x";
    for (name, rule) in [
        ("x.cluster", "`b` have `x` as alias too: the one whose name sorts first has it"),
        ("tasks.x.cluster", "`b` have `x` as alias too"),
        ("a.cluster", "`b` have `a` as alias too: a service's own name goes first"),
        ("x.default.svc.cluster.local", "`b` have `x` as alias too"),
    ] {
        let got = line(&told(mesh, name, RecordType::A).steps[0]);
        assert!(got.contains(rule) && !got.contains("c.shop"), "{name}: {got}");
    }
}

#[test]
fn what_would_have_to_be_set_is_told() {
    let view = DnsView::new(&mesh::read(MESH));
    let bare = Scope { bare_names: true, ..Scope::default() };
    let asked = question("wbe", RecordType::A).within(Arc::new(bare));
    let told = explain(&view, &asked, 0, &options_of_all()).1;
    assert!(line(&told.steps[0]).contains("only services of namespace `default` are answered"), "{told:?}");
    let asked = question("web.default.svc.cluster.local", RecordType::A);
    let told = explain(&view, &asked, 0, &crate::answers::options()).1;
    assert!(line(&told.steps[0]).contains("answered with dns.kubernetes only"), "{told:?}");
}

#[test]
fn an_expired_state_is_said_to_be() {
    let view = DnsView::new(&mesh::read(MESH)).expired();
    for (name, outcome) in [("web.cluster", Outcome::Failed), ("nobody.cluster", Outcome::Failed)] {
        let told = explain(&view, &question(name, RecordType::A), 0, &options_of_all()).1;
        assert_eq!(told.steps[0].outcome, outcome);
        assert!(line(&told.steps[0]).contains("too old to be told"), "{told:?}");
    }
}

#[test]
fn both_readings_of_a_name_are_told() {
    let told = told(
        "service web\nendpoint web blue n1 10.0.0.9 ready\nservice blue.web vip=10.96.0.7",
        "blue.web.cluster",
        RecordType::A,
    );
    let last = told.steps.last().unwrap();
    assert_eq!(last.service.as_deref(), Some("blue.web"));
    let other = "instance `blue` of service `web` is blue.web.default.cluster.";
    assert!(last.reasons.iter().any(|r| r == other), "{last:?}");
}

#[test]
fn shared_and_left_out_addresses_are_told() {
    let shared = "service db mode=dnsrr
endpoint db a n1 10.0.0.1 ready
endpoint db b n1 10.0.0.1 unready";
    let got = line(&told(shared, "db.cluster", RecordType::A).steps[0]);
    assert!(got.ends_with("+a: ready; +b: not ready, but its address is another's too"), "{got}");
    let mut many = "service db mode=dnsrr\n".to_owned();
    for i in 0..1200 {
        many += &format!("endpoint db e{i} n1 10.1.{}.{} ready\n", i / 250, i % 250 + 1);
    }
    let told = told(&many, "db.cluster", RecordType::A);
    let step = &told.steps[0];
    assert_eq!((step.candidates.len(), step.more_candidates), (1000, 200));
    assert!(step.candidates.iter().all(|c| c.answered), "those that are answered come first");
}

#[test]
fn what_is_out_of_sight_is_said_to_be() {
    let view = DnsView::new(&mesh::read(MESH));
    let scope = Scope { namespaces: Some(vec![model::Name::new("shop").unwrap()]), ..Scope::default() };
    let asked = question("web.default.cluster", RecordType::A).within(Arc::new(scope));
    let (got, told) = explain(&view, &asked, 0, &options_of_all());
    assert_eq!(got.unwrap().rcode, ResponseCode::NXDomain);
    let step = &told.steps[0];
    assert!(step.reasons[0].contains("`default` is out of sight"), "{step:?}");
    assert_eq!(told.namespaces.as_deref(), Some(&["shop".to_owned()][..]));
    assert_eq!(told.default_namespace, "shop");
    assert!(step.nearest.iter().all(|name| name.ends_with("shop.cluster.")), "{step:?}");
}
