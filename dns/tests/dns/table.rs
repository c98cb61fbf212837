//! Tables of questions and answers: one row a question.
//!
//! `NAME TYPE RCODE [ANSWER; ANSWER …] [+ ADDITIONAL; …] [=> REST]`, in any order; TTLs are 5 unless written as `ttl=N`
//! in front of the answers. RCODE `FORWARD` is a name that is not ours; REST is where a CNAME leads out of ours. Every
//! reply without answers must carry exactly one SOA unless it is REFUSED, and no other may carry any.

use crate::answers::question;
use hickory_proto::{
    op::ResponseCode,
    rr::{Record, RecordType},
};
use mesh_control::model::Snapshot;
use mesh_dns::{AnswerOptions, DnsView, Scope, answer};
use std::sync::Arc;

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

/// Asks every row of `rows` and panics with all that fail.
pub(crate) fn check(snapshot: &Snapshot, rows: &str, options: &AnswerOptions, scope: &Scope) {
    let (view, scope) = (DnsView::new(snapshot), Arc::new(scope.clone()));
    let rows = rows.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#'));
    let mut asked = 0;
    let failures: Vec<String> =
        rows.inspect(|_| asked += 1).filter_map(|row| failure(&view, row, options, &scope)).collect();
    assert!(asked > 0 && failures.is_empty(), "{} of {asked} fail:\n{}", failures.len(), failures.join("\n"));
}

/// The first word, and what follows.
fn word(text: &str) -> (&str, &str) {
    let (first, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    (first, rest.trim_start())
}

/// What is wrong with one row.
fn failure(view: &DnsView, row: &str, options: &AnswerOptions, scope: &Arc<Scope>) -> Option<String> {
    let (name, rest) = word(row);
    let (kind_text, rest) = word(rest);
    let (rcode, sections) = word(rest);
    let (sections, leads) = sections.split_once("=>").unwrap_or((sections, ""));
    let (answers, additional) = sections.split_once("+ ").unwrap_or((sections, ""));
    let asked = question(name, kind(kind_text)).within(Arc::clone(scope));
    let Some(got) = answer(view, &asked, 0, options) else {
        return (rcode != "FORWARD").then(|| format!("{row}\n  got: forwarded"));
    };
    let negative = got.answers.is_empty() && got.rcode != ResponseCode::Refused;
    let soa = got.authority.iter().filter(|r| r.record_type() == RecordType::SOA).count();
    let ttl = answers.trim().split_once(' ').filter(|(ttl, _)| ttl.starts_with("ttl="));
    let mut additional = expected(additional);
    if let Some((ttl, _)) = ttl {
        additional = additional.iter().map(|item| format!("{ttl} {item}")).collect();
    }
    let same = code(got.rcode) == rcode
        && texts(&got.answers) == expected(answers)
        && texts(&got.additional) == additional
        && got.rest.as_ref().map_or_else(String::new, ToString::to_string) == leads.trim()
        && (soa, got.authority.len()) == if negative { (1, 1) } else { (0, 0) };
    (!same).then(|| {
        let (rcode, authority, rest) = (code(got.rcode), texts(&got.authority), got.rest);
        let (answers, additional) = (texts(&got.answers), texts(&got.additional));
        format!("{row}\n  got: {rcode} {answers:?} + {additional:?} => {rest:?}, authority {authority:?}")
    })
}
