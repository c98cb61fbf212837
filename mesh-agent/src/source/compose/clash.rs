//! Declarations that cannot stand side by side: one service twice, one published port twice.

use super::declared::{Declared, PublishedAt};
use crate::config::yaml::Problem;
use mesh_control::model::{Protocol, ServiceKey};
use std::{collections::HashMap, net::IpAddr};

/// As many problems as anybody reads. Without a bound one port that n services claim would make n² of them.
const MOST: usize = 100;

/// What keeps `new` from standing beside `old`, and its members beside each other; each problem lies in `new` and
/// names both places; at most 100 are told. `old` must be free of clashes. Costs O(n log n) for the usual case of few overlaps.
pub fn clashes<'a>(old: impl Iterator<Item = &'a Declared>, new: &'a [Declared]) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut all: Vec<(bool, &Declared)> = old.map(|d| (false, d)).collect();
    all.extend(new.iter().map(|d| (true, d)));

    let mut places: HashMap<&ServiceKey, &Declared> = HashMap::with_capacity(all.len());
    for (_, declared) in &all {
        if problems.len() >= MOST {
            break;
        }
        if let Some(first) = places.insert(&declared.service.key, declared) {
            problems.push(Problem {
                file: declared.file.clone(),
                line: declared.line,
                key: format!("services.{}", declared.service.key.name),
                message: format!(
                    "the service {} is declared already, at {}:{}: keep one",
                    declared.service.key, first.file, first.line
                ),
            });
        }
    }

    // A sweep over the ports in order: only ranges that reach into each other meet.
    let mut ports: Vec<(usize, bool, &Declared, &PublishedAt)> = all
        .iter()
        .enumerate()
        .flat_map(|(i, (is_new, d))| d.published.iter().map(move |p| (i, *is_new, *d, p)))
        .collect();
    ports.sort_by_key(|(i, _, _, p)| (p.protocol, p.ports.first(), *i));
    let mut open: Vec<(usize, bool, &Declared, &PublishedAt)> = Vec::new();
    let mut last: Option<Protocol> = None;
    for entry in ports {
        if problems.len() >= MOST {
            break;
        }
        let (i, is_new, declared, port) = entry;
        if last.replace(port.protocol) != Some(port.protocol) {
            open.clear();
        }
        open.retain(|(_, _, _, p)| p.ports.last() >= port.ports.first());
        for (j, other_new, other, held) in &open {
            // Two ports of one service were compared by its own validation.
            if *j == i || !(is_new || *other_new) || !meet(port.address, held.address) {
                continue;
            }
            // Blame what is new, and of two that are new the later one.
            let blame_other = !is_new || (*other_new && *j > i);
            let ((d, p), (by, at)) = if blame_other {
                ((*other, *held), (declared, port))
            } else {
                ((declared, port), (*other, *held))
            };
            problems.push(Problem {
                file: d.file.clone(),
                line: p.line,
                key: p.key.clone(),
                message: format!(
                    "published port {}/{} is taken by {} at {}:{}: use another",
                    p.ports, p.protocol, by.service.key, by.file, at.line
                ),
            });
        }
        open.push(entry);
    }
    problems.sort();
    problems.truncate(MOST);
    problems
}

fn meet(a: Option<IpAddr>, b: Option<IpAddr>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => a == b,
        _ => true,
    }
}
