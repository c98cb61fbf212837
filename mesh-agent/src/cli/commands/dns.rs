//! `dns query`.

use crate::{
    admin::{encode, wire::DnsJson},
    cli::{
        args::DnsCommand,
        client::Client,
        exit::{Code, Failure},
        output::{Output, Table, clean},
    },
};
use mesh_dns::{Explanation, ForwardPath, Origin, Outcome, Step};
use std::fmt::Write;

pub(super) async fn run(client: &Client, command: DnsCommand, output: Output) -> Result<(), Failure> {
    let DnsCommand::Query(args) = command;
    let name = &args.name;
    let kind = args.record_type.as_ref().unwrap_or(&args.kind);
    let mut path = format!("/v1/dns?name={}&type={}", encode(name), encode(kind));
    if let Some(listen) = &args.listen {
        let _ = write!(path, "&listen={}", encode(listen));
    }
    if args.explain {
        path += "&explain=true";
    }
    let answer: DnsJson = client.get(&path).await?;
    if output.json {
        output.json(&answer)?;
    } else {
        if answer.rcode == "NOERROR" && !answer.records.is_empty() {
            let mut table = Table::new(&["NAME", "TTL", "TYPE", "DATA"]);
            for r in &answer.records {
                table.row(vec![r.name.clone(), r.ttl.to_string(), r.record_type.clone(), r.data.clone()]);
            }
            output.table(&table)?;
        } else if answer.rcode == "NOERROR" {
            output.print(&format!("{} exists and has no {}\n", clean(name), clean(&answer.record_type)))?;
        } else if args.explain {
            output.print(&format!(
                "{} for {} {}\n",
                clean(&answer.rcode),
                clean(name),
                clean(&answer.record_type)
            ))?;
        }
        if let Some(explanation) = &answer.explanation {
            explained(explanation, output)?;
        }
    }
    match answer.rcode.as_str() {
        "NOERROR" => Ok(()),
        "NXDOMAIN" => Err(Failure::new(Code::NotFound, format!("{} does not exist (NXDOMAIN)", clean(name)))),
        other => Err(Failure::new(Code::Failure, format!("{}: {}", clean(name), clean(other)))),
    }
}

fn explained(e: &Explanation, output: Output) -> Result<(), Failure> {
    let mut text = String::from("\n");
    let namespaces = e.namespaces.as_ref().map_or_else(|| "every namespace".to_owned(), |all| all.join(", "));
    let who = match &e.listen {
        Some(listen) => format!("a client of {listen}"),
        None => "the host".to_owned(),
    };
    line(
        &mut text,
        "asked as",
        &format!("{who}: sees {namespaces}; a name alone is of `{}`", e.default_namespace),
    );
    line(&mut text, "from", &format!("revision {} of this node's state", e.revision));
    if let Some(completed) = &e.completed {
        line(&mut text, "name", completed);
    }
    output.print(&text)?;
    for step in &e.steps {
        told(step, output)?;
    }
    e.forward.as_ref().map_or(Ok(()), |path| forwarded(path, output))
}

/// A head and what there is to say.
fn line(text: &mut String, head: &str, what: &str) {
    let _ = writeln!(text, "{head:<13}{}", clean(what));
}

fn told(step: &Step, output: Output) -> Result<(), Failure> {
    let mut text = format!("\n{}\n", clean(&step.name));
    let whose = match step.origin {
        Origin::Mesh => "the mesh's zone",
        Origin::Bare => "the mesh's, asked without the zone (bare_names)",
        Origin::Kubernetes => "the mesh's zone of Kubernetes' names",
        Origin::Reverse => "reverse zone",
        Origin::Forwarded => "not the mesh's",
    };
    let zone = step.zone.as_ref().filter(|_| step.origin != Origin::Bare);
    let zone = zone.map_or_else(String::new, |zone| format!(" {zone}"));
    line(&mut text, "zone", &format!("{whose}{zone}"));
    line(&mut text, "is", &step.meaning);
    let outcome = match step.outcome {
        Outcome::Answer => "answered",
        Outcome::Alias => "goes on with the next name",
        Outcome::NoData => "no data (NOERROR without an answer)",
        Outcome::NoSuchName => "does not exist (NXDOMAIN)",
        Outcome::Refused => "refused",
        Outcome::Failed => "failed (SERVFAIL)",
        Outcome::Forwarded => "forwarded",
    };
    line(&mut text, "outcome", outcome);
    for reason in &step.reasons {
        line(&mut text, "because", reason);
    }
    if !step.nearest.is_empty() {
        line(&mut text, "nearest", &step.nearest.join(", "));
    }
    if let Some(ttl) = &step.ttl {
        line(&mut text, "ttl", &format!("{} s, by {}", ttl.seconds, ttl.from));
    }
    if step.hidden_endpoints > 0 {
        line(&mut text, "hidden", &format!("{} endpoints, whose node is down", step.hidden_endpoints));
    }
    output.print(&text)?;
    if step.candidates.is_empty() {
        return Ok(());
    }
    let mut table = Table::new(&["CANDIDATE", "NODE", "ADDRESS", "ANSWERED", "WHY"]);
    for c in &step.candidates {
        let addresses: Vec<String> = c.addresses.iter().map(ToString::to_string).collect();
        table.row(vec![
            c.name.clone(),
            c.node.clone().unwrap_or_default(),
            addresses.join(","),
            if c.answered { "yes" } else { "no" }.to_owned(),
            c.why.clone(),
        ]);
    }
    output.print("\n")?;
    output.table(&table)?;
    if step.more_candidates > 0 {
        output.print(&format!("and {} more\n", step.more_candidates))?;
    }
    Ok(())
}

fn forwarded(path: &ForwardPath, output: Output) -> Result<(), Failure> {
    let mut text = String::from("\n");
    let route = path.domain.as_ref().map_or_else(
        || "dns.upstreams: it is in no domain of dns.domains".to_owned(),
        |domain| format!("dns.domains: {domain}"),
    );
    line(&mut text, "upstreams", &route);
    let cached = path.cached.as_ref().map_or_else(
        || "did not have it".to_owned(),
        |c| {
            let state = if c.fresh { "fresh for" } else { "stale for" };
            format!("had {}, {state} {} s", c.rcode, c.seconds)
        },
    );
    line(&mut text, "cache", &cached);
    if let Some(by) = &path.answered_by {
        line(&mut text, "answered by", by);
    }
    if let Some(problem) = &path.problem {
        line(&mut text, "problem", problem);
    }
    output.print(&text)?;
    if path.upstreams.is_empty() {
        return output.print("there is no upstream for it\n");
    }
    let mut table = Table::new(&["UPSTREAM", "STATE", "FAILURES", "RTT"]);
    for u in &path.upstreams {
        let rtt = u.rtt_seconds.map(|s| format!("{:.1}ms", s * 1e3)).unwrap_or_default();
        table.row(vec![u.address.clone(), u.state.clone(), u.failures.to_string(), rtt]);
    }
    output.print("\n")?;
    output.table(&table)
}
