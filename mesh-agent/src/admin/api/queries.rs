//! Nodes, and questions: DNS, why, plan.

use super::services::protocol;
use crate::{
    admin::{
        call::{Call, Reply, Shared},
        error::ApiError,
        query::Query,
        wire::{DnsJson, ExplainJson, NodeDrain, NodesJson, OperationJson, PlanJson},
    },
    dataplane::Flow,
};
use hyper::StatusCode;
use mesh_control::model::{NodeName, Snapshot};
use mesh_dns::Lookup;
use std::net::{IpAddr, SocketAddr};

pub(super) fn nodes(shared: &Shared, call: &Call) -> Result<Reply, ApiError> {
    Query::parse(&call.query, &[])?;
    let nodes = NodesJson::new(&shared.operations.snapshot(), &shared.operations.peers());
    Ok(Reply::json(StatusCode::OK, &nodes))
}

pub(super) async fn drain_node(shared: &Shared, call: &Call) -> Result<Reply, ApiError> {
    Query::parse(&call.query, &[])?;
    let wanted = call.path.first().map_or("", String::as_str);
    let body: NodeDrain = call.json()?;
    let snapshot = shared.operations.snapshot();
    if !snapshot.local.as_str().eq_ignore_ascii_case(wanted) {
        let node = known(&snapshot, wanted)?;
        let problem = format!("only `{node}` itself can change its drain");
        return Err(ApiError::new(StatusCode::CONFLICT, problem).fix(format!("ask the agent on {node}")));
    }
    shared.operations.drain_node(body.draining).await?;
    let what = if body.draining { "drains" } else { "takes new flows again" };
    Ok(Reply::done(format!("node {} {what}", snapshot.local)))
}

pub(super) async fn forget_node(shared: &Shared, call: &Call) -> Result<Reply, ApiError> {
    Query::parse(&call.query, &[])?;
    let node = known(&shared.operations.snapshot(), call.path.first().map_or("", String::as_str))?;
    shared.operations.forget_node(node.clone()).await?;
    Ok(Reply::done(format!("node {node} is forgotten; should it come back, it says anew what it has")))
}

fn known(snapshot: &Snapshot, wanted: &str) -> Result<NodeName, ApiError> {
    let node = snapshot.nodes.keys().find(|n| n.as_str().eq_ignore_ascii_case(wanted));
    node.cloned().ok_or_else(|| {
        let short: String = wanted.chars().take(63).collect();
        ApiError::new(StatusCode::NOT_FOUND, format!("there is no node `{short}`"))
            .fix("`mesh-agent nodes` lists those there are")
    })
}

pub(super) async fn dns(shared: &Shared, call: &Call) -> Result<Reply, ApiError> {
    let query = Query::parse(&call.query, &["name", "type", "listen", "explain"])?;
    let name = query.need("name", "web.cluster")?.to_owned();
    // RFC 1035 section 2.3.4: a name has at most 255 bytes; escapes make the text longer, never that much.
    if name.len() > 1024 {
        return Err(ApiError::field("name", "the name is too long: at most 255 bytes"));
    }
    let record_type = query.get("type").unwrap_or("A").to_ascii_uppercase();
    if record_type.len() > 16 || !record_type.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return Err(ApiError::field("type", "no record type: use A, AAAA, SRV, PTR, TXT, SOA, NS or ANY"));
    }
    let explain = match query.get("explain") {
        None | Some("false") => false,
        Some("true") => true,
        Some(_) => return Err(ApiError::field("explain", "neither true nor false")),
    };
    let listen = query.get("listen").map(str::to_owned);
    let asked = Lookup { name: name.clone(), kind: record_type.clone(), listen, explain };
    let answer = shared.operations.dns_query(asked).await?;
    Ok(Reply::json(StatusCode::OK, &DnsJson::new(name, record_type, answer)))
}

pub(super) async fn explain(shared: &Shared, call: &Call) -> Result<Reply, ApiError> {
    let query = Query::parse(&call.query, &["destination", "protocol", "client"])?;
    let text = query.need("destination", "10.96.0.7:80")?;
    let destination: SocketAddr = text.parse().map_err(|_| {
        let short: String = text.chars().take(80).collect();
        ApiError::field("destination", format!("`{short}` is no address and port"))
            .fix("write 10.96.0.7:80 or [fd00::7]:80; `dns query` tells the address of a name")
    })?;
    if destination.port() == 0 {
        return Err(ApiError::field("destination", "port 0 is never listened on"));
    }
    let client: Option<IpAddr> = query
        .get("client")
        .map(str::parse)
        .transpose()
        .map_err(|_| ApiError::field("client", "no IP address: write 192.0.2.7 or 2001:db8::7"))?;
    let flow = Flow { client, destination, protocol: protocol("protocol", query.get("protocol"))? };
    let explanation = shared.operations.explain(flow).await?;
    let node = shared.operations.snapshot().local.to_string();
    Ok(Reply::json(StatusCode::OK, &ExplainJson::new(&node, &flow, explanation)))
}

pub(super) async fn plan(shared: &Shared, call: &Call) -> Result<Reply, ApiError> {
    Query::parse(&call.query, &[])?;
    let revision = shared.operations.snapshot().revision;
    let operations = shared.operations.plan().await?;
    let operations = operations.iter().map(OperationJson::new).collect();
    let overlay = shared.operations.overlay_plan().await?;
    Ok(Reply::json(StatusCode::OK, &PlanJson { revision, operations, overlay }))
}
