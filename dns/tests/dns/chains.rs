//! Where one name leads to another, and how long "there is nothing" is kept.

use crate::{
    answers::{options, question},
    mesh,
};
use hickory_proto::{
    op::ResponseCode,
    rr::{RData, Record, RecordType},
};
use mesh_dns::{Answer, AnswerOptions, DnsView, Zone, answer};

const MESH: &str = "service web vip=10.96.0.1 ttl=30
service one external=two.cluster ttl=7
service two external=WEB.cluster.
service lost external=nobody.cluster
service family external=web.cluster
service ring external=chain.cluster
service chain external=ring.cluster
service out external=away.cluster
service away external=www.example.org
service slow vip=10.96.0.2 negative-ttl=60
service quick vip=10.96.0.3 negative-ttl=0";

fn ask(name: &str, kind: RecordType) -> Answer {
    let view = DnsView::new(&mesh::read(MESH));
    answer(&view, &question(name, kind), 0, &options()).unwrap()
}

fn texts(records: &[Record]) -> Vec<String> {
    records.iter().map(|r| format!("{} {} {}", r.name, r.ttl, r.data)).collect()
}

#[test]
fn names_of_ours_are_followed_to_the_end() {
    let got = ask("One.cluster", RecordType::A);
    let chain = ["One.cluster. 7 two.cluster.", "two.cluster. 5 WEB.cluster.", "WEB.cluster. 30 10.96.0.1"];
    assert_eq!(
        (got.rcode, texts(&got.answers), got.rest),
        (ResponseCode::NoError, chain.map(Into::into).into(), None)
    );
    // The code is that of the last name (RFC 6604), and the SOA says how long.
    let got = ask("lost.cluster", RecordType::A);
    assert_eq!((got.rcode, got.answers.len(), got.authority.len()), (ResponseCode::NXDomain, 1, 1));
    let got = ask("family.cluster", RecordType::AAAA);
    assert_eq!((got.rcode, got.answers.len(), got.authority.len()), (ResponseCode::NoError, 1, 1));
    let got = ask("out.cluster", RecordType::A);
    assert_eq!((got.answers.len(), got.rest.unwrap().to_string()), (2, "www.example.org.".into()));
}

#[test]
fn a_ring_of_names_ends() {
    let got = ask("ring.cluster", RecordType::A);
    assert!((2..=10).contains(&got.answers.len()), "{:?}", texts(&got.answers));
    assert!(got.answers.iter().all(|r| r.record_type() == RecordType::CNAME));
}

#[test]
fn a_service_says_how_long_nothing_is_kept() {
    for (name, kind, ttl) in [
        ("slow.cluster", RecordType::AAAA, 60),
        ("tasks.slow.cluster", RecordType::A, 60),
        ("quick.cluster", RecordType::AAAA, 0),
        ("web.cluster", RecordType::AAAA, 5),
        // What does not exist belongs to no service.
        ("x.slow.cluster", RecordType::A, 5),
        ("nobody.cluster", RecordType::A, 5),
    ] {
        let got = ask(name, kind);
        let [soa] = &got.authority[..] else { panic!("{name}: {:?}", got.authority) };
        let RData::SOA(data) = &soa.data else { panic!("{soa:?}") };
        assert_eq!((soa.ttl, data.minimum), (ttl, ttl), "{name} {kind}");
    }
}

/// Of two zones one within the other the deeper has its names, and the other goes on around it.
#[test]
fn the_deeper_zone_has_the_name() {
    let view = DnsView::new(&mesh::read("service web vip=10.96.0.1\nservice k8s vip=10.96.0.2"));
    for (mesh, kubernetes, asked) in [
        (
            "cluster",
            "k8s.cluster",
            [("web.default.svc.k8s.cluster", 1), ("web.cluster", 1), ("web.k8s.cluster", 0)],
        ),
        (
            "mesh.cluster.local",
            "cluster.local",
            [
                ("web.default.svc.cluster.local", 1),
                ("web.mesh.cluster.local", 1),
                ("web.default.svc.mesh.cluster.local", 0),
            ],
        ),
    ] {
        let kubernetes = Some(Zone::kubernetes(kubernetes).unwrap());
        let options = AnswerOptions { zone: Zone::new(mesh).unwrap(), kubernetes, ..options() };
        for (name, answers) in asked {
            let got = answer(&view, &question(name, RecordType::A), 0, &options).unwrap();
            assert_eq!(got.answers.len(), answers, "{name} of {mesh}");
        }
    }
}
