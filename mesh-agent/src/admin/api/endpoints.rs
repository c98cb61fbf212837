//! Endpoints: list, add, remove, drain.

use super::services::no_service;
use crate::admin::{
    call::{Call, Reply, Shared, service_key},
    error::ApiError,
    query::Query,
    state::Drain,
    wire::{AddEndpoint, DrainBody, EndpointJson, EndpointsJson, checks, flows},
};
use hyper::StatusCode;
use mesh_control::model::{Addresses, Endpoint, Family, Name};
use std::time::Duration;

pub(super) async fn list(shared: &Shared, call: &Call) -> Result<Reply, ApiError> {
    let query = Query::parse(&call.query, &["service", "node"])?;
    let only = query.get("service").map(|text| service_key("service", text)).transpose()?;
    let node = query.get("node");
    let counters = shared.operations.counters().await?;
    let snapshot = shared.operations.snapshot();
    if let Some(key) = &only
        && !snapshot.services.contains_key(key)
    {
        return Err(no_service(&key.to_string()));
    }
    let results = shared.operations.health();
    let (flows, checks) = (flows(&counters), checks(&results));
    let services = snapshot.services.iter().filter(|(key, _)| only.as_ref().is_none_or(|o| o == *key));
    let endpoints = services
        .flat_map(|(key, view)| view.endpoints.iter().map(move |e| (key, e)))
        .filter(|(_, e)| node.is_none_or(|n| n == e.node.as_str()))
        .map(|(key, e)| EndpointJson::new(&snapshot, key, e, &flows, &checks))
        .collect();
    Ok(Reply::json(StatusCode::OK, &EndpointsJson { revision: snapshot.revision, endpoints }))
}

pub(super) async fn add(shared: &Shared, call: &Call) -> Result<Reply, ApiError> {
    Query::parse(&call.query, &[])?;
    let key = call.service()?;
    let endpoint = endpoint(call.json()?)?;
    let text = format!("endpoint {} of {key} is announced", endpoint.instance);
    shared.operations.add_endpoint(key, endpoint).await?;
    Ok(Reply::done(text))
}

/// Checks what the types do not.
fn endpoint(body: AddEndpoint) -> Result<Endpoint, ApiError> {
    let instance = Name::new(&body.instance).map_err(|e| ApiError::field("instance", format!("{e}")))?;
    let mut addresses = Addresses::default();
    for address in body.addresses {
        let address = address.to_canonical();
        if address.is_unspecified() || address.is_multicast() {
            return Err(ApiError::field("addresses", format!("{address} is no address of one host")));
        }
        if addresses.get(Family::of(&address)).is_some() {
            return Err(ApiError::field("addresses", format!("{address} is a second one of its family")));
        }
        addresses.set(address);
    }
    if addresses.is_empty() {
        return Err(ApiError::field("addresses", "an endpoint needs at least one address"));
    }
    if body.ports.len() > 1024 || body.ports.iter().any(|(target, own)| *target == 0 || *own == 0) {
        return Err(ApiError::field("ports", "at most 1024 pairs target → port, each from 1 to 65535"));
    }
    let mut endpoint = Endpoint::new(instance, addresses);
    endpoint.ports = body.ports;
    endpoint.weight = body.weight.unwrap_or(Endpoint::DEFAULT_WEIGHT);
    Ok(endpoint)
}

pub(super) async fn remove(shared: &Shared, call: &Call) -> Result<Reply, ApiError> {
    Query::parse(&call.query, &[])?;
    let (key, instance) = (call.service()?, call.instance()?);
    shared.operations.remove_endpoint(key.clone(), instance.clone()).await?;
    Ok(Reply::done(format!("endpoint {instance} of {key} is withdrawn")))
}

pub(super) async fn drain(shared: &Shared, call: &Call) -> Result<Reply, ApiError> {
    Query::parse(&call.query, &[])?;
    let (key, instance) = (call.service()?, call.instance()?);
    let body: DrainBody = call.json_or_default()?;
    let deadline = body.deadline_seconds.map(seconds).transpose()?;
    shared.operations.drain_endpoint(key.clone(), instance.clone(), Drain::Start(deadline)).await?;
    Ok(Reply::done(format!("endpoint {instance} of {key} drains")))
}

fn seconds(value: f64) -> Result<Duration, ApiError> {
    const DAY: f64 = 86_400.0;
    if (0.0..=DAY).contains(&value) {
        return Ok(Duration::from_secs_f64(value));
    }
    Err(ApiError::field("deadline_seconds", format!("{value}: use 0 to {DAY} seconds")))
}

pub(super) async fn undrain(shared: &Shared, call: &Call) -> Result<Reply, ApiError> {
    Query::parse(&call.query, &[])?;
    let (key, instance) = (call.service()?, call.instance()?);
    shared.operations.drain_endpoint(key.clone(), instance.clone(), Drain::Undo).await?;
    Ok(Reply::done(format!("endpoint {instance} of {key} takes new flows again")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_checked() {
        let body = |json: &str| endpoint(serde_json::from_str(json).unwrap());
        let good = body(r#"{"instance":"W1","addresses":["192.0.2.1","::ffff:192.0.2.1"]}"#);
        assert!(good.is_err(), "a mapped address is an IPv4 address");
        let good = body(r#"{"instance":"W1","addresses":["192.0.2.1","2001:db8::1"],"ports":{"80":8080}}"#);
        let good = good.unwrap();
        assert_eq!((good.instance.as_str(), good.weight, good.port_for(80)), ("w1", 100, 8080));
        for bad in [
            r#"{"instance":"w","addresses":[]}"#,
            r#"{"instance":"w.x","addresses":["192.0.2.1"]}"#,
            r#"{"instance":"w","addresses":["0.0.0.0"]}"#,
            r#"{"instance":"w","addresses":["224.0.0.1"]}"#,
            r#"{"instance":"w","addresses":["192.0.2.1"],"ports":{"80":0}}"#,
        ] {
            assert!(body(bad).is_err(), "{bad}");
        }
        for bad in [-1.0, f64::NAN, f64::INFINITY, 1e9] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }
}
