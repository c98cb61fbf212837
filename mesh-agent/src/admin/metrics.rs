//! `/metrics`: what the parts registered, and what is counted at the moment of the scrape.
//!
//! The families made here are computed from the backend's answers at each scrape, so that nothing is counted twice
//! and a service that is gone leaves no series behind. A family that the registry has too is taken from there.

use super::{
    call::{Reply, Shared, whole},
    family::{Family, count, number},
    mesh_metrics::mesh,
    overlay_metrics::overlay,
    process::Process,
    state::Operations,
    wire::endpoint_counts,
};
use crate::dataplane::{BackendCounters, Counters};
use hyper::StatusCode;
use prometheus::{Encoder, TextEncoder, proto::MetricFamily};

pub(crate) async fn answer(shared: &Shared) -> Reply {
    // A data plane that does not answer takes its own series away, not all others.
    let counters = shared.operations.counters().await.unwrap_or_default();
    let mut families = shared.registry.gather();
    let known: Vec<String> = families.iter().map(|f| f.name().to_owned()).collect();
    let mut ours = agent(shared.operations.as_ref());
    ours.extend(mesh(shared.operations.as_ref()).into_iter().map(Family::build));
    ours.extend(overlay(shared.operations.as_ref()).into_iter().map(Family::build));
    ours.extend(plane(&counters));
    ours.extend(process(&Process::read()));
    families.extend(ours.into_iter().filter(|f| !known.iter().any(|k| k == f.name())));
    // The encoder refuses families without a metric.
    families.retain(|f| !f.get_metric().is_empty());
    families.sort_by(|a, b| a.name().cmp(b.name()));
    let mut body = Vec::new();
    match TextEncoder::new().encode(&families, &mut body) {
        Ok(()) => {
            Reply { status: StatusCode::OK, content_type: "text/plain; version=0.0.4", body: whole(body) }
        }
        Err(error) => {
            tracing::error!(%error, "metrics cannot be written");
            let body = whole(format!("# {error}\n"));
            Reply { status: StatusCode::INTERNAL_SERVER_ERROR, content_type: "text/plain", body }
        }
    }
}

/// The agent and its control plane.
fn agent(operations: &dyn Operations) -> Vec<MetricFamily> {
    let (snapshot, stats, status) = (operations.snapshot(), operations.control_stats(), operations.plane());
    let mut endpoints = Family::gauge(
        "mesh_endpoints",
        "Endpoints known on this node, by state; hidden ones belong to nodes that are down.",
        &["state"],
    );
    for (state, n) in endpoint_counts(&snapshot) {
        endpoints.add(&[&state], count(n));
    }
    let mut refused =
        Family::counter("mesh_gossip_refused_total", "Gossip packets refused, by reason.", &["reason"]);
    for (reason, n) in &stats.refused {
        refused.add(&[reason], number(*n));
    }
    let mut synced =
        Family::gauge("mesh_source_synced", "Whether the source told everything once.", &["source"]);
    let mut errors =
        Family::gauge("mesh_source_errors", "Problems in what the source reads now.", &["source"]);
    for source in operations.sources() {
        synced.add(&[&source.name], f64::from(u8::from(source.synced)));
        errors.add(&[&source.name], count(source.errors.len()));
    }
    let datagrams = [("sent", stats.udp_sent), ("received", stats.udp_received)];
    let mut packets =
        Family::counter("mesh_gossip_datagrams_total", "Gossip datagrams, by direction.", &["direction"]);
    let mut bytes = Family::counter(
        "mesh_gossip_bytes_total",
        "Bytes of gossip datagrams, by direction.",
        &["direction"],
    );
    for (direction, (n, size)) in datagrams {
        packets.add(&[direction], number(n));
        bytes.add(&[direction], number(size));
    }
    let (syncs, failed) = stats.syncs;
    let plane: &[&str] = &[&status.name];
    let mut families = vec![
        Family::gauge("mesh_build_info", "Always 1; the labels tell which build runs.", &["version", "node"])
            .with(&[env!("CARGO_PKG_VERSION"), snapshot.local.as_str()], 1.0),
        Family::gauge("mesh_services", "Services declared.", &[]).with(&[], count(snapshot.services.len())),
        endpoints,
        Family::gauge("mesh_snapshot_revision", "Revision of the newest merged state on this node.", &[])
            .with(&[], number(snapshot.revision)),
        Family::gauge("mesh_gossip_members", "Other nodes, by state.", &["state"])
            .with(&["up"], count(stats.members_up))
            .with(&["down"], count(stats.members_down)),
        packets,
        bytes,
        refused,
        Family::counter(
            "mesh_gossip_syncs_total",
            "Anti-entropy exchanges over TCP, by result.",
            &["result"],
        )
        .with(&["ok"], number(syncs.saturating_sub(failed)))
        .with(&["failed"], number(failed)),
        Family::gauge("mesh_store_records", "Records in the store, by kind.", &["kind"])
            .with(&["live"], count(stats.records))
            .with(&["tombstone"], count(stats.tombstones)),
        synced,
        errors,
    ];
    if let Some(since) = status.since_ok {
        families.push(
            Family::gauge(
                "mesh_plane_since_ok_seconds",
                "Time since the last reconcile or audit that succeeded.",
                &["plane"],
            )
            .with(plane, since.as_secs_f64()),
        );
    }
    families.into_iter().map(Family::build).collect()
}

/// Up to so many backends all have series from the start; of more only those that had a flow. So with frontends and what
/// they refused.
const MOST_IDLE_SERIES: usize = 2_000;

/// What the data plane counts.
fn plane(counters: &Counters) -> Vec<MetricFamily> {
    let mut active = Family::gauge(
        "mesh_backend_connections",
        "Flows open to the backend through this node.",
        &["service", "namespace", "backend", "node", "protocol", "backend_state"],
    );
    let mut total = Family::counter(
        "mesh_backend_connections_total",
        "Flows sent to the backend through this node, by result.",
        &["service", "namespace", "backend", "node", "protocol", "result"],
    );
    let mut bytes = Family::counter(
        "mesh_backend_bytes_total",
        "Bytes through this node: in is client to backend, out is backend to client.",
        &["service", "namespace", "backend", "node", "protocol", "direction"],
    );
    // Of very many backends most never see a flow through this node, and a scrape of zeros would be tens of megabytes.
    let all = counters.backends.len() <= MOST_IDLE_SERIES;
    let used = |c: &&BackendCounters| all || c.active + c.established + c.failed + c.reset > 0;
    for c in counters.backends.iter().filter(used) {
        let of = |last| {
            let (key, id) = (&c.service, &c.backend);
            let (service, namespace) = (key.name.as_str(), key.namespace.as_str());
            [service, namespace, id.instance.as_str(), id.node.as_str(), c.protocol.as_str(), last]
        };
        active.add(&of(c.state), number(c.active));
        for (result, n) in [("established", c.established), ("failed", c.failed), ("reset", c.reset)] {
            total.add(&of(result), number(n));
        }
        bytes.add(&of("in"), number(c.bytes_in));
        bytes.add(&of("out"), number(c.bytes_out));
    }
    let mut refused = Family::counter(
        "mesh_frontend_refused_total",
        "New flows that reached no backend, by reason.",
        &["service", "namespace", "reason"],
    );
    let all = counters.frontends.len() <= MOST_IDLE_SERIES;
    for c in counters.frontends.iter().filter(|c| all || c.no_backend + c.denied + c.limited > 0) {
        let reasons = [("no_backend", c.no_backend), ("denied", c.denied), ("limited", c.limited)];
        for (reason, n) in reasons {
            refused.add(&[c.service.name.as_str(), c.service.namespace.as_str(), reason], number(n));
        }
    }
    let mut drops = Family::counter(
        "mesh_plane_dropped_packets_total",
        "Packets that the data plane did not forward, by reason; those that were refused aloud among them.",
        &["reason"],
    );
    for (reason, n) in &counters.drops {
        drops.add(&[reason], number(*n));
    }
    let drops = Some(drops).filter(|_| !counters.drops.is_empty());
    [active, total, bytes, refused].into_iter().chain(drops).map(Family::build).collect()
}

/// The process, under the names that every Prometheus client library uses.
fn process(p: &Process) -> Vec<MetricFamily> {
    let gauge = |name, help, value: Option<f64>| {
        let family = Family::gauge(name, help, &[]);
        value.map(|v| family.with(&[], v))
    };
    let cpu = p.cpu_seconds.map(|v| {
        let help = "User and system CPU time spent.";
        Family::counter("process_cpu_seconds_total", help, &[]).with(&[], v)
    });
    let families = [
        cpu,
        gauge("process_resident_memory_bytes", "Resident memory.", p.resident_bytes.map(number)),
        gauge("process_virtual_memory_bytes", "Virtual memory.", p.virtual_bytes.map(number)),
        gauge("process_open_fds", "Open file descriptors.", p.open_fds.map(number)),
        gauge("process_max_fds", "Most file descriptors that may be open.", p.max_fds.map(number)),
        gauge("process_threads", "Threads.", p.threads.map(number)),
        gauge("process_start_time_seconds", "Start, Unix time.", p.start_time_seconds),
    ];
    families.into_iter().flatten().map(Family::build).collect()
}
