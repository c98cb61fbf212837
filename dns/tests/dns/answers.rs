//! The table of names and answers, and what it cannot say.

use crate::{mesh, table};
use hickory_proto::{
    op::ResponseCode,
    rr::{DNSClass, Name, RecordType},
};
use mesh_dns::{AnswerOptions, DnsView, Question, Scope, Zone, answer};
use std::collections::{BTreeSet, HashMap};

pub(crate) fn options() -> AnswerOptions {
    AnswerOptions {
        zone: Zone::new("cluster").unwrap(),
        ttl: 5,
        negative_ttl: 5,
        name_servers: vec!["127.0.0.53".parse().unwrap(), "::1".parse().unwrap()],
        local_reverse: vec!["10.96.0.0/16".parse().unwrap()],
        kubernetes: None,
    }
}

pub(crate) fn question(name: &str, kind: RecordType) -> Question {
    let mut name = Name::from_ascii(name).unwrap();
    name.set_fqdn(true);
    Question::new(name, kind)
}

#[test]
fn the_table_holds() {
    table::check(&mesh::example(), include_str!("data/answers.txt"), &options(), &Scope::default());
}

#[test]
fn the_questions_case_is_echoed_and_soa_owners_are_ancestors() {
    let view = DnsView::new(&mesh::example());
    let got = answer(&view, &question("WeB.cLuStEr", RecordType::A), 0, &options()).unwrap();
    assert_eq!(got.answers[0].name.to_string(), "WeB.cLuStEr.");
    let owner = |name: &str| {
        let got = answer(&view, &question(name, RecordType::TXT), 0, &options()).unwrap();
        got.authority[0].name.to_string()
    };
    assert_eq!(owner("nothing.cluster"), "cluster.");
    assert_eq!(owner("200.0.96.10.in-addr.arpa"), "96.10.in-addr.arpa.");
    assert_eq!(owner("1.0.0.10.in-addr.arpa"), "1.0.0.10.in-addr.arpa.");
}

#[test]
fn other_classes_are_refused() {
    let view = DnsView::new(&mesh::example());
    for class in [DNSClass::CH, DNSClass::HS, DNSClass::ANY, DNSClass::NONE, DNSClass::Unknown(4242)] {
        for name in ["web.cluster", "version.bind", "example.org"] {
            let asked = question(name, RecordType::TXT).in_class(class);
            let got = answer(&view, &asked, 0, &options()).expect("not forwarded");
            assert_eq!(got.rcode, ResponseCode::Refused, "{name} {class:?}");
        }
    }
}

#[test]
fn labels_that_are_no_text_are_absent() {
    let view = DnsView::new(&mesh::example());
    let name = Name::from_labels(vec![&b"\xff\x00\xfe"[..], b"cluster"]).unwrap();
    let got = answer(&view, &Question::new(name, RecordType::A), 0, &options()).unwrap();
    assert_eq!(got.rcode, ResponseCode::NXDomain);
}

#[test]
fn every_endpoint_comes_first_for_its_share_of_seeds() {
    let view = DnsView::new(&mesh::example());
    let mut firsts: HashMap<String, usize> = HashMap::new();
    for seed in 0..300 {
        let got = answer(&view, &question("tasks.web.cluster", RecordType::A), seed, &options()).unwrap();
        let all: BTreeSet<String> = got.answers.iter().map(|r| r.data.to_string()).collect();
        assert_eq!(all.len(), 3, "rotation neither loses nor repeats");
        *firsts.entry(got.answers[0].data.to_string()).or_default() += 1;
    }
    assert_eq!(firsts.into_values().collect::<Vec<_>>(), [100, 100, 100]);
}

#[test]
fn local_endpoints_come_first_where_asked() {
    let view = DnsView::new(&mesh::read(
        "service db mode=dnsrr locality=prefer-local\n\
         endpoint db a n2 10.0.0.1 ready\n\
         endpoint db b n1 10.0.0.2 ready\n\
         endpoint db c n1 10.0.0.3 ready\n",
    ));
    for seed in 0..20 {
        let got = answer(&view, &question("db.cluster", RecordType::A), seed, &options()).unwrap();
        assert_eq!(got.answers.len(), 3);
        assert_eq!(got.answers[2].data.to_string(), "10.0.0.1", "seed {seed}");
    }
}

#[test]
fn a_giant_service_answers_a_bounded_part() {
    let mut text = String::from("service big mode=dnsrr ports=80/tcp>80\n");
    for i in 0..1500 {
        text += &format!("endpoint big i-{i} n1 10.1.{}.{} ready\n", i / 250, i % 250);
    }
    let view = DnsView::new(&mesh::read(&text));
    let mut seen = BTreeSet::new();
    for seed in [0, 700, 1400] {
        let got = answer(&view, &question("tasks.big.cluster", RecordType::A), seed, &options()).unwrap();
        assert_eq!(got.answers.len(), 1000);
        seen.extend(got.answers.iter().map(|r| r.data.to_string()));
        let got =
            answer(&view, &question("_80._tcp.big.cluster", RecordType::SRV), seed, &options()).unwrap();
        assert_eq!(got.answers.len(), 1000);
    }
    assert_eq!(seen.len(), 1500, "in turn all are seen");
}
