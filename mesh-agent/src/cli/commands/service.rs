//! `service …`.

use super::format::{age, done, port};
use crate::{
    admin::{
        encode,
        wire::{Applied, Done, PublishBody, ServiceDetail, ServicesJson},
    },
    cli::{
        args::{ApplyArgs, ServiceCommand},
        client::Client,
        exit::{Code, Failure},
        input,
        output::{Output, Table, clean},
    },
};
use std::{fmt::Write as _, path::Path};

pub(super) async fn run(client: &Client, command: ServiceCommand, output: Output) -> Result<(), Failure> {
    match command {
        ServiceCommand::Ls => list(client, output).await,
        ServiceCommand::Inspect { name } => inspect(client, &name, output).await,
        ServiceCommand::Apply(args) => apply(client, &args, output).await,
        ServiceCommand::Rm { name } => {
            let path = format!("/v1/services/{}", encode(&name));
            done(output, &client.call::<Done>("DELETE", &path, None).await?)
        }
        ServiceCommand::Publish(args) => {
            let path = format!("/v1/services/{}/publish", encode(&args.name));
            let body = PublishBody {
                published: args.port.published,
                target: args.port.target,
                protocol: Some(args.port.protocol),
                mode: Some(args.mode),
            };
            done(output, &client.send::<_, Done>("POST", &path, &body).await?)
        }
        ServiceCommand::Unpublish(args) => {
            let Some(published) = &args.port.published else {
                let text = "`auto` names no port that could be closed";
                return Err(Failure::new(Code::Usage, text).fix("`service inspect` shows the port"));
            };
            let path = format!(
                "/v1/services/{}/publish?port={}&protocol={}",
                encode(&args.name),
                encode(published),
                args.port.protocol
            );
            done(output, &client.call::<Done>("DELETE", &path, None).await?)
        }
    }
}

async fn list(client: &Client, output: Output) -> Result<(), Failure> {
    let list: ServicesJson = client.get("/v1/services").await?;
    if output.json {
        return output.json(&list);
    }
    let mut table = Table::new(&["SERVICE", "VIP", "PORTS", "READY", "SCHEDULER", "DECLARED BY"]);
    for s in &list.services {
        let vips = if s.endpoint_mode == "dnsrr" { "dnsrr".to_owned() } else { s.vips.join(",") };
        let conflict = if s.overruled.is_empty() { "" } else { " (conflict)" };
        table.row(vec![
            s.service.clone(),
            vips,
            s.ports.iter().map(port).collect::<Vec<_>>().join(", "),
            format!("{}/{}", s.endpoints_ready, s.endpoints_total),
            s.scheduler.clone(),
            format!("{}{conflict}", declared_by(&s.origins)),
        ]);
    }
    output.table(&table)
}

/// Short enough for a table: a service that every node's file declares would fill the line with their names.
fn declared_by(origins: &[String]) -> String {
    match origins {
        [one] => one.clone(),
        _ => {
            let cluster = origins.iter().any(|o| o == "cluster");
            let nodes = origins.len() - usize::from(cluster);
            let plural = if nodes == 1 { "" } else { "s" };
            format!("{}{nodes} node{plural}", if cluster { "cluster, " } else { "" })
        }
    }
}

async fn inspect(client: &Client, name: &str, output: Output) -> Result<(), Failure> {
    let detail: ServiceDetail = client.get(&format!("/v1/services/{}", encode(name))).await?;
    if output.json {
        return output.json(&detail);
    }
    output.print(&describe(&detail))?;
    output.print("\n")?;
    output.table(&super::endpoint::table(&detail.endpoints, false))
}

fn describe(detail: &ServiceDetail) -> String {
    let s = &detail.service;
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        if !value.is_empty() {
            let _ = writeln!(text, "{name:<13} {}", clean(value));
        }
    };
    line("service", &s.service);
    line("mode", &s.endpoint_mode);
    line("vip", &s.vips.join(", "));
    for p in &s.ports {
        let name = p.name.as_ref().map(|n| format!(" ({n})")).unwrap_or_default();
        let proxy = if p.proxy_protocol { ", PROXY protocol" } else { "" };
        line("port", &format!("{}{name}{proxy}", port(p)));
    }
    line("scheduler", &s.scheduler);
    line("affinity", &s.affinity_seconds.map(age).unwrap_or_default());
    line("locality", &s.locality);
    line("no backend", &s.no_backend);
    line("drain", &age(s.drain_seconds));
    line("health", s.health.as_deref().unwrap_or("not checked"));
    line("connections", &s.max_connections.map(|n| format!("at most {n} a backend")).unwrap_or_default());
    line("aliases", &s.aliases.join(", "));
    for (key, value) in &s.labels {
        line("label", &format!("{key}={value}"));
    }
    line("declared by", &s.origins.join(", "));
    if !s.overruled.is_empty() {
        line("conflict", &format!("the declarations of {} differ and are overruled", s.overruled.join(", ")));
    }
    if s.endpoints_hidden > 0 {
        line("hidden", &format!("{} endpoints of nodes that are down", s.endpoints_hidden));
    }
    text
}

/// As much as the agent takes.
const MOST: u64 = 1 << 20;

async fn apply(client: &Client, args: &ApplyArgs, output: Output) -> Result<(), Failure> {
    let text = read(&args.file)?;
    let path = if args.dry_run { "/v1/services?dry_run=true" } else { "/v1/services" };
    let body = Some(("application/yaml", text.into()));
    let applied: Applied = client.call("PUT", path, body).await.map_err(|mut failure| {
        if failure.code == Code::Data {
            failure.message = named(&args.file, &failure.message);
        }
        failure
    })?;
    if output.json {
        return output.json(&applied);
    }
    let verb = if applied.dry_run { "is right" } else { "is declared" };
    let lines = applied.services.iter().map(|s| format!("service {} {verb}\n", clean(s)));
    output.print(&lines.collect::<String>())
}

/// The agent knows the text as `request`; its author knows it as a file.
fn named(file: &Path, message: &str) -> String {
    let file = if file == Path::new("-") { "stdin".into() } else { file.display().to_string() };
    let line = |line: &str| match line.strip_prefix("request:") {
        Some(rest) => format!("{file}:{rest}"),
        None => format!("{file}: {line}"),
    };
    message.lines().map(line).collect::<Vec<_>>().join("\n")
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    input::read(path, MOST).map_err(|failure| match failure.code {
        Code::Data => failure.fix("apply the services in several files"),
        _ => failure,
    })
}
