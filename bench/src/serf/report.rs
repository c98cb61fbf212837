//! The two tables.

use super::{
    Plan,
    cluster::Cluster,
    measure::{Losses, Rest},
    watch::Kind,
};
use crate::table::{Table, median};

/// Bytes at rest, ours to serf's.
const GOAL_BYTES: f64 = 0.6;
/// Time until all see a crash, ours to serf's.
const GOAL_CRASH: f64 = 1.0;

/// Prints them; ours and serf's of one size follow each other in all lists.
pub(super) fn print(
    clusters: &[Cluster],
    plan: &Plan,
    rest: &[Rest],
    crashes: &[Vec<f64>],
    losses: &[Losses],
    json: bool,
) {
    let title = format!(
        "at rest for {} s, a node's mean; all encrypted, serf with its default LAN profile (goal: at most {GOAL_BYTES} \
         of serf's bytes)",
        plan.idle.as_secs()
    );
    let head = [
        "nodes",
        "agent",
        "IP bytes/s",
        "ours/serf",
        "goal",
        "busiest node",
        "datagrams/s",
        "TCP segments/s",
        "CPU ms/s",
        "RSS MiB",
    ];
    let mut table = Table::new(&title, &head);
    for (i, (cluster, r)) in clusters.iter().zip(rest).enumerate() {
        let [ratio, goal] = verdict(cluster.kind, r.bytes, rest.get(i + 1).map(|s| s.bytes), GOAL_BYTES);
        table.row(&[
            cluster.size().to_string(),
            cluster.kind.name().to_owned(),
            format!("{:.0}", r.bytes),
            ratio,
            goal,
            format!("{:.0}", r.most),
            format!("{:.2}", r.datagrams),
            format!("{:.2}", r.segments),
            format!("{:.2}", r.processor),
            format!("{:.1}", r.resident / f64::from(1 << 20)),
        ]);
    }
    table.print(json);

    let title = format!(
        "one of them killed, {} times: seconds until all others say so (goal: at most {GOAL_CRASH:.1} of serf's median); \
         living nodes said to be down in {} s of loss (goal: 0)",
        plan.crashes,
        plan.loss.as_secs()
    );
    let head = [
        "nodes",
        "agent",
        "seen by all",
        "worst",
        "ours/serf",
        "goal",
        "false failures",
        "of nodes",
        "goal",
        "UDP lost %",
    ];
    let mut table = Table::new(&title, &head);
    for (i, ((cluster, times), loss)) in clusters.iter().zip(crashes).zip(losses).enumerate() {
        let other = crashes.get(i + 1).map(|times| median(times));
        let [ratio, goal] = verdict(cluster.kind, median(times), other, GOAL_CRASH);
        let none = word(loss.false_failures == 0);
        table.row(&[
            cluster.size().to_string(),
            cluster.kind.name().to_owned(),
            format!("{:.2}", median(times)),
            format!("{:.2}", times.iter().copied().fold(0.0, f64::max)),
            ratio,
            goal,
            loss.false_failures.to_string(),
            loss.nodes.len().to_string(),
            if cluster.kind == Kind::Ours { none } else { dash() },
            format!("{:.1}", loss.lost),
        ]);
    }
    table.print(json);
}

/// The ratio and whether it is good enough; dashes in serf's rows.
fn verdict(kind: Kind, ours: f64, serf: Option<f64>, goal: f64) -> [String; 2] {
    match (kind, serf) {
        (Kind::Ours, Some(serf)) => [format!("{:.2}", ours / serf), word(ours <= goal * serf)],
        _ => [dash(), dash()],
    }
}

fn word(met: bool) -> String {
    if met { "met" } else { "MISSED" }.to_owned()
}

fn dash() -> String {
    "-".to_owned()
}
