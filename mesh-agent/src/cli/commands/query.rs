//! `nodes`, `why` and `plan`.

use super::format::{age, done, offset};
use crate::{
    admin::{
        encode,
        wire::{Done, ExplainJson, NodeDrain, NodesJson, PlanJson},
    },
    cli::{
        args::{NodesCommand, WhyArgs},
        client::Client,
        exit::{Code, Failure},
        output::{Output, Table, clean},
    },
};
use std::fmt::Write;

pub(super) async fn nodes(
    client: &Client,
    command: Option<NodesCommand>,
    output: Output,
) -> Result<(), Failure> {
    let (node, draining) = match command {
        None | Some(NodesCommand::Ls) => return list_nodes(client, output).await,
        Some(NodesCommand::Forget { node }) => {
            return done(
                output,
                &client.call("DELETE", &format!("/v1/nodes/{}", encode(&node)), None).await?,
            );
        }
        Some(NodesCommand::Drain { node }) => (node, true),
        Some(NodesCommand::Undrain { node }) => (node, false),
    };
    let path = format!("/v1/nodes/{}/drain", encode(&node));
    done(output, &client.send::<_, Done>("POST", &path, &NodeDrain { draining }).await?)
}

async fn list_nodes(client: &Client, output: Output) -> Result<(), Failure> {
    let list: NodesJson = client.get("/v1/nodes").await?;
    if output.json {
        return output.json(&list);
    }
    let mut table = Table::new(&[
        "NODE",
        "STATE",
        "ADDRESS",
        "GOSSIP",
        "SUBNET",
        "ZONE",
        "VERSION",
        "ENDPOINTS",
        "RTT",
        "CLOCK",
        "HEARD",
        "NOTE",
    ]);
    for n in &list.nodes {
        let mut notes = Vec::new();
        if n.name == list.local {
            notes.push("asked".to_owned());
        }
        if n.draining {
            notes.push("drained".to_owned());
        }
        notes.extend(n.trouble.clone());
        table.row(vec![
            n.name.clone(),
            n.state.clone(),
            n.addresses.join(","),
            n.gossip.clone().unwrap_or_default(),
            n.subnets.join(","),
            n.zone.clone().unwrap_or_default(),
            n.version.clone(),
            n.endpoints.to_string(),
            n.rtt_seconds.map(|s| format!("{:.1}ms", s * 1e3)).unwrap_or_default(),
            n.clock_offset_seconds.map(offset).unwrap_or_default(),
            n.heard_seconds.map(|s| format!("{} ago", age(s))).unwrap_or_default(),
            notes.join(", "),
        ]);
    }
    output.table(&table)
}

pub(super) async fn why(client: &Client, args: &WhyArgs, output: Output) -> Result<(), Failure> {
    let mut path = format!(
        "/v1/explain?destination={}&protocol={}",
        encode(&args.destination.to_string()),
        encode(&args.protocol)
    );
    if let Some(from) = args.from {
        let _ = write!(path, "&client={}", encode(&from.to_string()));
    }
    let e: ExplainJson = client.get(&path).await?;
    if output.json {
        output.json(&e)?;
    } else if let Some(frontend) = &e.frontend {
        let mut text = format!("{}/{} on node {}\n", e.destination, e.protocol, clean(&e.node));
        let _ = writeln!(text, "frontend  {}", clean(frontend));
        let _ = writeln!(text, "service   {}", clean(e.service.as_deref().unwrap_or("-")));
        if let Some(backend) = &e.affinity {
            let _ = writeln!(text, "affinity  this client goes to {}", clean(backend));
        }
        for object in &e.objects {
            let _ = writeln!(text, "by        {}", clean(object));
        }
        output.print(&format!("{text}\n"))?;
        let mut table = Table::new(&["BACKEND", "ADDRESS", "CHANCE", "NOT PICKED"]);
        for c in &e.candidates {
            table.row(vec![
                c.backend.clone(),
                c.address.clone(),
                format!("{:.1}%", c.probability * 100.0),
                c.excluded.clone().unwrap_or_default(),
            ]);
        }
        output.table(&table)?;
    }
    if e.frontend.is_none() {
        let text = format!("nothing of the mesh listens on {}/{}", e.destination, e.protocol);
        return Err(Failure::new(Code::NotFound, text).fix("`mesh-agent service ls` shows VIPs and ports"));
    }
    Ok(())
}

pub(super) async fn plan(client: &Client, output: Output) -> Result<(), Failure> {
    let plan: PlanJson = client.get("/v1/plan").await?;
    if output.json {
        return output.json(&plan);
    }
    if plan.operations.is_empty() && plan.overlay.is_empty() {
        return output.print(&format!("nothing to change at revision {}\n", plan.revision));
    }
    let steps: String = plan.overlay.iter().map(|step| format!("overlay: {}\n", clean(step))).collect();
    output.print(&steps)?;
    if plan.operations.is_empty() {
        return Ok(());
    }
    let mut table = Table::new(&["OPERATION", "FRONTEND", "BACKEND", "TO"]);
    for op in &plan.operations {
        let text = |o: &Option<String>| o.clone().unwrap_or_default();
        table.row(vec![op.op.clone(), op.frontend.clone(), text(&op.backend), text(&op.detail)]);
    }
    output.table(&table)
}
