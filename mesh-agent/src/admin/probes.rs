//! `/metrics`, `/livez`, `/readyz` and `/healthz`.
//!
//! - livez: the process's loop turns; a restart would help when it does not answer.
//! - readyz: every source told everything once, the data plane was brought to it, DNS listens, the overlay stands, and the
//!   mesh hears this node: one that keeps silent because another has its name announces nothing.
//! - healthz: the way from a declaration to the data plane works now. Peers that are away do not matter.

use super::{
    call::{Reply, Shared},
    metrics,
    routes::Action,
    state::Operations,
    wire::{HealthzJson, ReadyJson},
};
use hyper::StatusCode;

pub(crate) async fn answer(shared: &Shared, action: Action) -> Reply {
    match action {
        Action::Livez => Reply::json(StatusCode::OK, &serde_json::json!({"alive": true})),
        Action::Readyz => {
            let body = ready(shared.operations.as_ref());
            Reply::json(code(body.ready), &body)
        }
        Action::Healthz => {
            let body = healthy(shared.operations.as_ref());
            Reply::json(code(body.healthy), &body)
        }
        // Only the three probes and metrics come here.
        _ => metrics::answer(shared).await,
    }
}

fn code(good: bool) -> StatusCode {
    if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

/// What the node waits for before it should be sent traffic.
pub(crate) fn ready(operations: &dyn Operations) -> ReadyJson {
    let mut missing = Vec::new();
    // A refused file is an error of its own, in status and healthz; what the others say is served meanwhile.
    for source in operations.sources().iter().filter(|s| !s.synced && s.errors.is_empty()) {
        missing.push(format!("source {} has not told everything yet", source.name));
    }
    let plane = operations.plane();
    if plane.revision.is_none() {
        let reason = plane.error.map(|e| format!(": {e}")).unwrap_or_default();
        missing.push(format!("data plane {} was not reconciled yet{reason}", plane.name));
    }
    if operations.dns_wanted() && operations.dns_address().is_none() {
        missing.push("DNS does not listen".to_owned());
    }
    if let Some(overlay) = operations.overlay().filter(|overlay| overlay.plan.is_none()) {
        let reason = overlay.error.as_ref().map(|e| format!(": {e}")).unwrap_or_default();
        missing.push(format!("the overlay does not stand yet{reason}"));
    }
    if let Some(reason) = operations.control_stats().silenced {
        missing.push(format!("this node keeps silent: {reason}"));
    }
    ReadyJson { ready: missing.is_empty(), missing }
}

/// What is wrong with the way from a declaration to the data plane.
pub(crate) fn healthy(operations: &dyn Operations) -> HealthzJson {
    let plane = operations.plane();
    let mut problems = Vec::new();
    if let Some(error) = &plane.error {
        problems.push(format!("data plane {}: the last reconcile failed: {error}", plane.name));
    }
    match plane.since_ok {
        None => problems.push(format!("data plane {} was never reconciled", plane.name)),
        Some(since) if since > plane.stale_after => problems.push(format!(
            "data plane {}: the last good reconcile was {} s ago, more than {} s",
            plane.name,
            since.as_secs(),
            plane.stale_after.as_secs()
        )),
        Some(_) => {}
    }
    let mut degraded = plane.failed;
    for source in operations.sources() {
        degraded.extend(source.errors.iter().map(|e| format!("source {}: {e}", source.name)));
    }
    HealthzJson { healthy: problems.is_empty(), problems, degraded }
}
