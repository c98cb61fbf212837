//! What users of other resolvers complained of, by the number of their report.

use crate::{
    answers::{options, question},
    mesh,
};
use hickory_proto::{op::ResponseCode, rr::RecordType};
use mesh_dns::{Answer, AnswerOptions, DnsView, Zone, answer};

fn ask(view: &DnsView, name: &str, kind: RecordType) -> Answer {
    answer(view, &question(name, kind), 0, &options()).unwrap()
}

fn data(view: &DnsView, name: &str, kind: RecordType) -> Vec<String> {
    let mut all: Vec<String> = ask(view, name, kind).answers.iter().map(|r| r.data.to_string()).collect();
    all.sort();
    all
}

/// moby#36797, moby#35548, moby#24800: tasks that are gone are answered on, by `tasks.` or by their address. Instances
/// come and go here for a while, each under a name and address of its own; only those of now may answer.
#[test]
fn moby_36797_35548_24800_stale_tasks() {
    for mode in ["vip=10.96.0.1", "mode=dnsrr"] {
        let mut snapshot = mesh::read("service other vip=10.96.0.2");
        let mut view = DnsView::new(&snapshot);
        for round in 0..50u8 {
            let alive = [round, round + 1, round + 2].map(|i| format!("10.0.0.{i}"));
            let text: String = (round..round + 3)
                .map(|i| format!("endpoint web web-{i} n{} 10.0.0.{i} ready\n", i % 3))
                .collect();
            mesh::change(&mut snapshot, &format!("service web {mode} ports=80/tcp>80\n{text}"));
            view = view.updated(&snapshot);
            let mut expected = alive.to_vec();
            expected.sort();
            assert_eq!(data(&view, "tasks.web.cluster", RecordType::A), expected, "{mode}, round {round}");
            let srv = ask(&view, "_80._tcp.tasks.web.cluster", RecordType::SRV);
            assert_eq!((srv.answers.len(), srv.additional.len()), (3, 3));
            if let Some(gone) = round.checked_sub(1) {
                let reverse = format!("{gone}.0.0.10.in-addr.arpa");
                assert!(answer(&view, &question(&reverse, RecordType::PTR), 0, &options()).is_none());
                let name = format!("web-{gone}.web.cluster");
                assert_eq!(ask(&view, &name, RecordType::A).rcode, ResponseCode::NXDomain);
            }
        }
        mesh::change(&mut snapshot, "remove web");
        view = view.updated(&snapshot);
        assert_eq!(ask(&view, "tasks.web.cluster", RecordType::A).rcode, ResponseCode::NXDomain, "{mode}");
    }
}

/// moby#28836: one address twice in an answer, as when two instances share their host's.
#[test]
fn moby_28836_duplicates() {
    let view = DnsView::new(&mesh::read(
        "service web mode=dnsrr ports=80/tcp>80\n\
         endpoint web a n1 192.0.2.1 ready port=80>8001\n\
         endpoint web b n1 192.0.2.1 ready port=80>8002\n\
         endpoint web same n1 192.0.2.1,fd00::1 ready\n\
         endpoint web same n2 192.0.2.1,fd00::1 ready\n",
    ));
    for name in ["web.cluster", "tasks.web.cluster", "same.web.cluster"] {
        assert_eq!(data(&view, name, RecordType::A), ["192.0.2.1"], "{name}");
    }
    assert_eq!(data(&view, "same.web.cluster", RecordType::AAAA), ["fd00::1"]);
    let srv = ask(&view, "_80._tcp.web.cluster", RecordType::SRV);
    for section in [&srv.answers, &srv.additional] {
        assert!((1..section.len()).all(|at| !section[..at].contains(&section[at])), "{section:?}");
    }
}

/// moby#36988: a service that goes from one mode to the other, and back, goes on answering as the old one.
#[test]
fn moby_36988_mode_switch() {
    let mut snapshot = mesh::read("");
    let mut view = DnsView::new(&snapshot);
    let endpoint = "endpoint web a n1 10.0.0.1 ready";
    for round in 0..3 {
        for (mode, expected, target) in
            [("vip=10.96.0.1", "10.96.0.1", "web.cluster."), ("mode=dnsrr", "10.0.0.1", "a.web.cluster.")]
        {
            mesh::change(&mut snapshot, &format!("service web {mode} ports=80/tcp>80 alias=www\n{endpoint}"));
            view = view.updated(&snapshot);
            for name in ["web.cluster", "www.cluster"] {
                assert_eq!(data(&view, name, RecordType::A), [expected], "round {round}, {mode}");
            }
            assert!(data(&view, "_80._tcp.web.cluster", RecordType::SRV)[0].ends_with(target), "{mode}");
            let vip = ask(&view, "1.0.96.10.in-addr.arpa", RecordType::PTR);
            assert_eq!(vip.answers.len(), usize::from(mode.starts_with("vip")), "{mode}");
        }
    }
}

/// aardvark-dns#679: AAAA of a name with IPv4 only must be an empty answer: NXDOMAIN says that there is no A either, and
/// resolvers that ask both at once believe it.
#[test]
fn aardvark_679_aaaa_is_not_nxdomain() {
    let view = DnsView::new(&mesh::read(
        "service web vip=10.96.0.1 alias=www\nendpoint web a n1 10.0.0.1 ready\n\
         service db mode=dnsrr\nendpoint db a n1 10.0.0.2 ready\n\
         service six vip=fd96::1\nservice none mode=dnsrr\nservice unclaimed ttl=5\n",
    ));
    for (name, kind) in [
        ("web", RecordType::AAAA),
        ("www", RecordType::AAAA),
        ("tasks.web", RecordType::AAAA),
        ("a.web", RecordType::AAAA),
        ("db", RecordType::AAAA),
        ("a.db", RecordType::AAAA),
        ("six", RecordType::A),
        ("none", RecordType::A),
        ("none", RecordType::AAAA),
        ("unclaimed", RecordType::AAAA),
    ] {
        let got = ask(&view, &format!("{name}.cluster"), kind);
        assert_eq!((got.rcode, got.answers.len()), (ResponseCode::NoError, 0), "{name} {kind}");
        assert_eq!(got.authority.len(), 1, "{name} {kind}: an SOA, or it is not kept");
    }
}

/// moby#28689: names are found whatever their case, and the case of the question comes back.
#[test]
fn moby_28689_case() {
    let view = DnsView::new(&mesh::read(
        "service MyWeb.Shop vip=10.96.0.1 ports=HTTP:80/tcp>80 alias=Www\nendpoint MyWeb.Shop Web-1 n1 10.0.0.1 ready",
    ));
    let options = AnswerOptions { kubernetes: Some(Zone::kubernetes("Cluster.LOCAL").unwrap()), ..options() };
    for (name, kind) in [
        ("myweb.shop.cluster", RecordType::A),
        ("wWW.shOP.CLUSTER", RecordType::A),
        ("TASKS.MyWeb.Shop.cluster", RecordType::A),
        ("WEB-1.myweb.SHOP.cluster", RecordType::A),
        ("_Http._TCP.MyWeb.Shop.Cluster", RecordType::SRV),
        ("MYWEB.shop.SVC.cluster.local", RecordType::A),
        ("1.0.96.10.In-Addr.ARPA", RecordType::PTR),
    ] {
        let got = answer(&view, &question(name, kind), 0, &options).unwrap();
        assert_eq!(got.answers.len(), 1, "{name}");
        assert_eq!(got.answers[0].name.to_string(), format!("{name}."));
    }
}
