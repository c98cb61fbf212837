//! `status`.

use super::format::age;
use crate::{
    admin::wire::{ControlJson, ReadyJson, StatusJson},
    cli::{
        args::StatusArgs,
        client::Client,
        exit::{Code, Failure},
        output::{Output, clean},
    },
};
use std::{fmt::Write, time::Duration};
use tokio::time::{Instant, sleep};

pub(super) async fn run(client: &Client, args: &StatusArgs, output: Output) -> Result<(), Failure> {
    if let Some(limit) = args.wait {
        wait(client, limit).await?;
    }
    let status: StatusJson = client.get("/v1/status").await?;
    if output.json {
        output.json(&status)?;
    } else {
        output.print(&describe(&status, output))?;
    }
    if status.ready { Ok(()) } else { Err(Failure::silent(Code::Failure)) }
}

/// Asks until the agent is ready; one that does not answer yet is asked again.
async fn wait(client: &Client, limit: Duration) -> Result<(), Failure> {
    let end = Instant::now() + limit;
    loop {
        let why = match client.exchange("GET", "/readyz", None).await {
            Ok((status, _)) if status.is_success() => return Ok(()),
            Ok((status, body)) => match serde_json::from_slice::<ReadyJson>(&body) {
                Ok(ready) => ready.missing.join("; "),
                Err(_) => format!("it answered {status}"),
            },
            Err(failure) if failure.code == Code::NotAllowed => return Err(failure),
            Err(failure) => failure.message,
        };
        if Instant::now() >= end {
            let limit = humantime::format_duration(limit);
            return Err(Failure::new(Code::TryAgain, format!("not ready after {limit}: {}", clean(&why))));
        }
        sleep(Duration::from_millis(200).min(end - Instant::now())).await;
    }
}

fn convergence(c: &ControlJson) -> String {
    if c.members_up + c.members_down == 0 {
        return "no other node is known".to_owned();
    }
    let lag = match &c.lag {
        None => "no news in the last minute".to_owned(),
        Some(lag) => format!(
            "lag {:.3} s median, {:.3} s worst of {} records in the last minute",
            lag.median_seconds, lag.worst_seconds, lag.records
        ),
    };
    let sync = match c.in_sync_seconds {
        None => "not in sync with a peer yet".to_owned(),
        Some(since) => format!("in sync with a peer {} ago", age(since)),
    };
    format!("{lag}; {sync}")
}

fn describe(s: &StatusJson, output: Output) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "{name:<11} {value}");
    };
    line(
        "node",
        format!("{} (mesh-agent {}, up {})", clean(&s.node), clean(&s.version), age(s.uptime_seconds)),
    );
    line("ready", output.paint(if s.ready { "yes" } else { "no" }));
    for missing in &s.missing {
        line("", format!("waits: {}", clean(missing)));
    }
    let joined = if s.joined { "" } else { ", not joined yet" };
    let c = &s.control;
    line(
        "mesh",
        format!("{} other nodes up, {} down{joined}; {} records", c.members_up, c.members_down, c.records),
    );
    line("convergence", convergence(c));
    for warning in &c.clock {
        line("", format!("{}: {}", output.alarm("clock", true), clean(warning)));
    }
    let revision = s.plane.revision.map_or("never reconciled".to_owned(), |r| format!("at revision {r}"));
    line(
        "data plane",
        format!("{}, {revision} of {}, {} frontends", clean(&s.plane.name), s.revision, s.plane.frontends),
    );
    for problem in s.plane.error.iter().chain(&s.plane.failed) {
        line("", format!("failed: {}", clean(problem)));
    }
    if let Some(overlay) = &s.overlay {
        let state = if overlay.up {
            let gateways = clean(&overlay.gateways.join(", "));
            let sealed = if overlay.keys.is_empty() { "" } else { ", encrypted" };
            format!("{gateways}, {} peers, mtu {}{sealed}", overlay.peers, overlay.mtu)
        } else {
            "no subnet yet".to_owned()
        };
        line("overlay", state);
        for problem in &overlay.problems {
            line("", format!("failed: {}", clean(problem)));
        }
    }
    line("dns", s.dns.as_deref().map_or("does not listen".to_owned(), clean));
    for (i, source) in s.sources.iter().enumerate() {
        let state = output.paint(if source.synced { "synced" } else { "waiting" });
        let text = format!("{}: {state}, {} services", clean(&source.name), source.services);
        line(if i == 0 { "sources" } else { "" }, text);
        for error in &source.errors {
            line("", format!("  error: {}", clean(error)));
        }
    }
    let count = |state: &str| s.endpoints.get(state).copied().unwrap_or(0);
    line("services", s.services.to_string());
    line(
        "endpoints",
        format!(
            "{} ready, {} draining, {} not ready, {} hidden with their nodes",
            count("ready"),
            count("draining"),
            count("not-ready"),
            count("hidden")
        ),
    );
    for (i, conflict) in s.conflicts.iter().enumerate() {
        line(if i == 0 { "conflicts" } else { "" }, clean(conflict));
    }
    for (i, warning) in s.warnings.iter().enumerate() {
        line(if i == 0 { "warnings" } else { "" }, clean(warning));
    }
    text
}
