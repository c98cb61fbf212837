//! The table of names and answers, and what it cannot say.

use crate::mesh;
use hickory_proto::{
    op::ResponseCode,
    rr::{DNSClass, Name, Record, RecordType},
};
use mesh_dns::{AnswerOptions, DnsView, Question, Zone, answer};
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

fn kind(text: &str) -> RecordType {
    if text == "IXFR" {
        // The library reads every other word.
        return RecordType::IXFR;
    }
    match text.strip_prefix("TYPE") {
        Some(number) => RecordType::from(number.parse::<u16>().unwrap()),
        None => text.parse().unwrap(),
    }
}

/// Each record as text, sorted, its TTL in front when it is not 5.
fn texts(records: &[Record]) -> Vec<String> {
    let mut all: Vec<String> = records
        .iter()
        .map(|r| {
            let ttl = if r.ttl == 5 { String::new() } else { format!("ttl={} ", r.ttl) };
            format!("{ttl}{}", r.data).trim().to_owned()
        })
        .collect();
    all.sort();
    all
}

fn code(rcode: ResponseCode) -> &'static str {
    match rcode {
        ResponseCode::NoError => "NOERROR",
        ResponseCode::NXDomain => "NXDOMAIN",
        ResponseCode::Refused => "REFUSED",
        other => panic!("{other:?}"),
    }
}

/// `ttl=N ` once in front of a section stands for all of it.
fn expected(section: &str) -> Vec<String> {
    let section = section.trim();
    let (ttl, list) = match section.strip_prefix("ttl=").and_then(|s| s.split_once(' ')) {
        Some((ttl, list)) => (format!("ttl={ttl} "), list),
        None => (String::new(), section),
    };
    let items = list.split(';').map(str::trim).filter(|item| !item.is_empty());
    let mut all: Vec<String> = items.map(|item| format!("{ttl}{item}")).collect();
    all.sort();
    all
}

#[test]
fn the_table_holds() {
    let view = DnsView::new(&mesh::example());
    let mut failures = Vec::new();
    let rows = include_str!("data/answers.txt").lines().map(str::trim);
    for row in rows.filter(|l| !l.is_empty() && !l.starts_with('#')) {
        let mut parts = row.splitn(2, char::is_whitespace);
        let name = parts.next().unwrap();
        let rest = parts.next().unwrap().trim_start();
        let (kind_text, rest) = rest.split_once(char::is_whitespace).unwrap();
        let (rcode, sections) =
            rest.trim_start().split_once(char::is_whitespace).unwrap_or((rest.trim(), ""));
        let (answers, additional) = sections.split_once(" + ").unwrap_or((sections, ""));
        let got = answer(&view, &question(name, kind(kind_text)), 0, &options());
        let Some(got) = got else {
            if rcode != "FORWARD" {
                failures.push(format!("{row}\n  got: forwarded"));
            }
            continue;
        };
        let negative = got.answers.is_empty() && got.rcode != ResponseCode::Refused;
        let soa = got.authority.iter().filter(|r| r.record_type() == RecordType::SOA).count();
        let mut additional = expected(additional);
        if sections.trim_start().starts_with("ttl=") {
            let ttl = sections.trim_start().split(' ').next().unwrap();
            additional = additional.iter().map(|a| format!("{ttl} {a}")).collect();
        }
        let same = code(got.rcode) == rcode
            && texts(&got.answers) == expected(answers)
            && texts(&got.additional) == additional
            && (soa, got.authority.len()) == if negative { (1, 1) } else { (0, 0) };
        if !same {
            failures.push(format!(
                "{row}\n  got: {} {:?} + {:?}, authority {:?}",
                code(got.rcode),
                texts(&got.answers),
                texts(&got.additional),
                texts(&got.authority)
            ));
        }
    }
    assert!(failures.is_empty(), "{} rows fail:\n{}", failures.len(), failures.join("\n"));
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
