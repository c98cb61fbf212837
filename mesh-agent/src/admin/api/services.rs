//! Services: list, inspect, apply, remove, publish.

use crate::admin::{
    call::{Call, Reply, Shared},
    error::ApiError,
    query::Query,
    state::{PublishRequest, UnpublishRequest},
    wire::{Applied, EndpointJson, PublishBody, ServiceDetail, ServiceJson, ServicesJson, checks, flows},
};
use hyper::StatusCode;
use mesh_control::model::{PortRange, Protocol, PublishMode, ServiceKey, Snapshot};

pub(super) fn list(shared: &Shared, call: &Call) -> Result<Reply, ApiError> {
    let query = Query::parse(&call.query, &["namespace"])?;
    let snapshot = shared.operations.snapshot();
    let wanted = |namespace: &str| query.get("namespace").is_none_or(|n| n == namespace);
    let services = snapshot.services.values().filter(|s| wanted(s.key.namespace.as_str()));
    let services = services.map(|s| ServiceJson::new(&snapshot, s)).collect();
    Ok(Reply::json(StatusCode::OK, &ServicesJson { revision: snapshot.revision, services }))
}

pub(super) async fn detail(shared: &Shared, call: &Call) -> Result<Reply, ApiError> {
    Query::parse(&call.query, &[])?;
    let key = call.service()?;
    let counters = shared.operations.counters().await?;
    let snapshot = shared.operations.snapshot();
    let view = snapshot.services.get(&key).ok_or_else(|| no_service(&key.to_string()))?;
    let results = shared.operations.health();
    let (flows, checks) = (flows(&counters), checks(&results));
    let endpoints = view.endpoints.iter();
    let detail = ServiceDetail {
        service: ServiceJson::new(&snapshot, view),
        endpoints: endpoints.map(|e| EndpointJson::new(&snapshot, &key, e, &flows, &checks)).collect(),
    };
    Ok(Reply::json(StatusCode::OK, &detail))
}

pub(super) fn no_service(name: &str) -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, format!("there is no service `{name}`"))
        .fix("`mesh-agent service ls` lists those there are")
}

pub(super) async fn apply(shared: &Shared, call: &Call) -> Result<Reply, ApiError> {
    let query = Query::parse(&call.query, &["dry_run"])?;
    let dry_run = match query.get("dry_run") {
        None | Some("false") => false,
        Some("true") => true,
        Some(other) => {
            return Err(ApiError::field("dry_run", format!("`{other}`: use true or false")));
        }
    };
    let Ok(text) = String::from_utf8(call.body.to_vec()) else {
        return Err(ApiError::field("body", "the services are not UTF-8 text"));
    };
    let applied = shared.operations.apply_compose(text, dry_run).await.map_err(|problems| {
        let first = problems.first().cloned().unwrap_or_else(|| "the services were refused".to_owned());
        let mut error = ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, first)
            .fix("nothing was changed: correct the text and apply it again");
        if problems.len() > 1 {
            error.body.details = problems;
        }
        error
    })?;
    let services = applied.iter().map(ToString::to_string).collect();
    Ok(Reply::json(StatusCode::OK, &Applied { services, dry_run }))
}

pub(super) async fn remove(shared: &Shared, call: &Call) -> Result<Reply, ApiError> {
    Query::parse(&call.query, &[])?;
    let key = call.service()?;
    shared.operations.remove_service(key.clone()).await?;
    Ok(Reply::done(format!("service {key} is withdrawn")))
}

pub(super) async fn publish(shared: &Shared, call: &Call) -> Result<Reply, ApiError> {
    Query::parse(&call.query, &[])?;
    let key = call.service()?;
    let body: PublishBody = call.json_or_default()?;
    let published: Option<PortRange> = body
        .published
        .as_deref()
        .map(str::parse)
        .transpose()
        .map_err(|e| ApiError::field("published", format!("{e}")))?;
    if body.target == Some(0) {
        return Err(ApiError::field("target", "0 is no port: use 1 to 65535"));
    }
    let mode = match body.mode.as_deref() {
        None | Some("ingress") => PublishMode::Ingress,
        Some("host") => PublishMode::Host,
        Some(_) => return Err(ApiError::field("mode", "use ingress or host")),
    };
    let protocol = protocol("protocol", body.protocol.as_deref())?;
    let request = PublishRequest { published, target: body.target, protocol, mode };
    shared.operations.publish(key.clone(), request).await?;
    let port = match published {
        Some(port) => port.to_string(),
        // Usually this node has claimed one by now.
        None => chosen(&shared.operations.snapshot(), &key, protocol)
            .map_or_else(|| "a port that the mesh chooses".to_owned(), |port| port.to_string()),
    };
    Ok(Reply::done(format!("service {key} is published on {port}/{protocol}")))
}

/// The newest port of the mesh's choice.
fn chosen(snapshot: &Snapshot, key: &ServiceKey, protocol: Protocol) -> Option<PortRange> {
    let view = snapshot.services.get(key)?;
    let by_mesh = |index: usize| {
        let port = view.spec.ports.get(index);
        port.is_some_and(|p| p.protocol == protocol && p.publish.as_ref().is_some_and(|p| p.port.is_none()))
    };
    view.published.iter().rev().find(|p| by_mesh(p.index)).and_then(|p| p.port)
}

pub(super) async fn unpublish(shared: &Shared, call: &Call) -> Result<Reply, ApiError> {
    let query = Query::parse(&call.query, &["port", "protocol"])?;
    let key = call.service()?;
    let port = query.need("port", "8080")?;
    let range: PortRange = port.parse().map_err(|e| ApiError::field("port", format!("{e}")))?;
    let protocol = protocol("protocol", query.get("protocol"))?;
    shared.operations.unpublish(key.clone(), UnpublishRequest { published: range.first(), protocol }).await?;
    Ok(Reply::done(format!("service {key} is no longer published on {range}/{protocol}")))
}

pub(super) fn protocol(field: &str, text: Option<&str>) -> Result<Protocol, ApiError> {
    text.map_or(Ok(Protocol::Tcp), |t| {
        t.parse().map_err(|e: String| ApiError::field(field, e.chars().take(120).collect::<String>()))
    })
}
