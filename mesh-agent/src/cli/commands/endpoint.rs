//! `endpoint …`.

use super::format::{bytes, done};
use crate::{
    admin::{
        encode,
        wire::{AddEndpoint, Done, DrainBody, EndpointJson, EndpointsJson, StatusJson},
    },
    cli::{
        args::{DrainArgs, EndpointCommand},
        client::Client,
        exit::{Code, Failure},
        output::{Output, Table},
    },
};
use std::time::Duration;
use tokio::time::{Instant, sleep};

pub(super) async fn run(client: &Client, command: EndpointCommand, output: Output) -> Result<(), Failure> {
    match command {
        EndpointCommand::Ls { service } => {
            let query = service.map(|s| format!("?service={}", encode(&s))).unwrap_or_default();
            let list: EndpointsJson = client.get(&format!("/v1/endpoints{query}")).await?;
            if output.json { output.json(&list) } else { output.table(&table(&list.endpoints, true)) }
        }
        EndpointCommand::Add(args) => {
            let path = format!("/v1/services/{}/endpoints", encode(&args.service));
            let body = AddEndpoint {
                instance: args.name,
                addresses: args.addresses,
                ports: args.ports.into_iter().collect(),
                weight: args.weight,
            };
            done(output, &client.send::<_, Done>("POST", &path, &body).await?)
        }
        EndpointCommand::Rm(args) => {
            let path = path(&args.service, &args.name);
            done(output, &client.call::<Done>("DELETE", &path, None).await?)
        }
        EndpointCommand::Drain(args) => drain(client, &args, output).await,
    }
}

fn path(service: &str, instance: &str) -> String {
    format!("/v1/services/{}/endpoints/{}", encode(service), encode(instance))
}

/// A table of endpoints, with or without the service's column.
pub(super) fn table(endpoints: &[EndpointJson], with_service: bool) -> Table {
    let heads =
        ["SERVICE", "ENDPOINT", "NODE", "ADDRESS", "STATE", "WEIGHT", "CONNS", "TOTAL", "IN", "OUT", "CHECK"];
    let mut table = Table::new(&heads[usize::from(!with_service)..]);
    for e in endpoints {
        let c = &e.connections;
        let ports: Vec<String> = e.ports.iter().map(|(target, port)| format!("{target}:{port}")).collect();
        let ports = if ports.is_empty() { String::new() } else { format!(" ({})", ports.join(",")) };
        let mut row = vec![
            e.service.clone(),
            e.instance.clone(),
            e.node.clone(),
            format!("{}{ports}", e.addresses.join(",")),
            e.state.clone(),
            e.weight.to_string(),
            c.active.to_string(),
            (c.established + c.failed).to_string(),
            bytes(c.bytes_in),
            bytes(c.bytes_out),
            e.health.as_ref().map(|h| h.detail.clone()).unwrap_or_default(),
        ];
        if !with_service {
            row.remove(0);
        }
        table.row(row);
    }
    table
}

async fn drain(client: &Client, args: &DrainArgs, output: Output) -> Result<(), Failure> {
    let path = format!("{}/drain", path(&args.service, &args.name));
    if args.undo {
        return done(output, &client.call::<Done>("DELETE", &path, None).await?);
    }
    let body = DrainBody { deadline_seconds: args.deadline.map(|d| d.as_secs_f64()) };
    let started: Done = client.send("POST", &path, &body).await?;
    let Some(limit) = args.wait else { return done(output, &started) };
    if !output.json {
        done(output, &started)?;
    }
    wait(client, args, limit, output).await
}

/// Shows how many connections are left until there are none.
async fn wait(client: &Client, args: &DrainArgs, limit: Duration, output: Output) -> Result<(), Failure> {
    let end = Instant::now() + limit;
    // Only this node's endpoints can be drained here; another node may have one of the same name.
    let node = client.get::<StatusJson>("/v1/status").await?.node;
    let list = format!("/v1/endpoints?service={}&node={}", encode(&args.service), encode(&node));
    let mut shown = None;
    loop {
        let endpoints: EndpointsJson = match client.get(&list).await {
            // The service went meanwhile, and its endpoints with it.
            Err(failure) if failure.code == Code::NotFound => EndpointsJson::default(),
            other => other?,
        };
        let mut same = endpoints.endpoints.iter().filter(|e| e.instance.eq_ignore_ascii_case(&args.name));
        let left = same.next().map_or(0, |e| e.connections.active);
        if left == 0 {
            let text = format!("endpoint {} of {} is drained on {node}", args.name, args.service);
            return done(output, &Done { done: text });
        }
        if shown != Some(left) && !output.json {
            output.print(&format!("{left} connections left through {node}\n"))?;
            shown = Some(left);
        }
        if Instant::now() >= end {
            let limit = humantime::format_duration(limit);
            let text = format!("{left} connections are left through {node} after {limit}");
            return Err(Failure::new(Code::TryAgain, text).fix("wait longer, or drain with a --deadline"));
        }
        sleep(Duration::from_millis(250).min(end - Instant::now())).await;
    }
}
