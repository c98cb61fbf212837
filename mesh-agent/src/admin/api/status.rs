//! The agent as a whole.

use crate::{
    admin::{
        call::{Call, Reply, Shared},
        error::ApiError,
        probes,
        query::Query,
        state::{PlaneStatus, SourceStatus},
        wire::{
            ControlJson, LagJson, OverlayJson, PlaneJson, SourceJson, StatusJson, endpoint_counts,
            key_warnings, origin_text,
        },
    },
    events::own_clock,
};
use hyper::StatusCode;
use mesh_control::{ControlStats, Lag, PeerStats, model::Snapshot};
use std::time::Duration;

pub(super) fn status(shared: &Shared, call: &Call) -> Result<Reply, ApiError> {
    Query::parse(&call.query, &[])?;
    let operations = &shared.operations;
    let snapshot = operations.snapshot();
    let stats = operations.control_stats();
    let ready = probes::ready(operations.as_ref());
    let status = StatusJson {
        node: snapshot.local.to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        uptime_seconds: shared.started.elapsed().as_secs_f64(),
        revision: snapshot.revision,
        ready: ready.ready,
        missing: ready.missing,
        joined: operations.joined(),
        dns: operations.dns_address().map(|a| a.to_string()),
        plane: plane(operations.plane()),
        overlay: operations.overlay().as_deref().map(OverlayJson::from),
        sources: operations.sources().into_iter().map(source).collect(),
        control: control(stats, &operations.peers()),
        services: snapshot.services.len(),
        endpoints: endpoint_counts(&snapshot),
        conflicts: conflicts(&snapshot),
        warnings: key_warnings(&operations.keys()),
    };
    Ok(Reply::json(StatusCode::OK, &status))
}

fn control(stats: ControlStats, peers: &[PeerStats]) -> ControlJson {
    let seconds = |ms| Duration::from_millis(ms).as_secs_f64();
    let lag = |lag: Lag| LagJson {
        records: lag.records,
        median_seconds: seconds(lag.median),
        worst_seconds: seconds(lag.worst),
    };
    let future: u64 = stats.refused.iter().filter(|(reason, _)| *reason == "clock").map(|(_, n)| n).sum();
    let future = (future > 0).then(|| {
        format!("{future} records from more than 60 s ahead of this node's clock came since its start")
    });
    ControlJson {
        members_up: stats.members_up,
        members_down: stats.members_down,
        records: stats.records,
        tombstones: stats.tombstones,
        lag: stats.lag.map(lag),
        in_sync_seconds: stats.in_sync.map(seconds),
        silenced: stats.silenced,
        clock: own_clock(peers).into_iter().chain(future).collect(),
    }
}

fn plane(p: PlaneStatus) -> PlaneJson {
    PlaneJson {
        name: p.name,
        revision: p.revision,
        error: p.error,
        failed: p.failed,
        seconds_since_ok: p.since_ok.map(|d| d.as_secs_f64()),
        frontends: p.frontends,
        capabilities: serde_json::to_value(p.capabilities).unwrap_or_default(),
    }
}

fn source(s: SourceStatus) -> SourceJson {
    SourceJson { name: s.name, synced: s.synced, services: s.services, errors: s.errors }
}

fn conflicts(snapshot: &Snapshot) -> Vec<String> {
    let mut list = Vec::new();
    for s in snapshot.services.values() {
        if let Some(conflict) = &s.conflict {
            let who: Vec<String> = conflict.overruled.iter().map(origin_text).collect();
            let in_force = origin_text(&conflict.in_force);
            list.push(format!("{}: {in_force} is in force, {} differs", s.key, who.join(", ")));
        }
        for p in &s.published {
            if let Some(holder) = &p.conflict {
                let port = p.port.map_or_else(|| "its port".to_owned(), |p| p.to_string());
                list.push(format!("{}: {port}/{} is held by {holder}", s.key, p.protocol));
            }
        }
    }
    list
}
