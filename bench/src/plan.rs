//! What a change costs: compile and diff at 100, 1,000 and 10,000 services of 10 endpoints each.

use crate::table::{Table, median};
use mesh_agent::plan::{Desired, NodeFacts, Policy, compile, diff, diff_keys};
use mesh_control::model::{
    Addresses, Changes, Endpoint, EndpointView, Family, Name, PortRange, Protocol, Publish, PublishMode,
    PublishedView, ServiceKey, ServicePort, ServiceSpec, ServiceView, Snapshot,
};
use std::{
    hint::black_box,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::{Duration, Instant},
};

const ENDPOINTS: u32 = 10;
const SIZES: [u32; 3] = [100, 1_000, 10_000];
const ROUNDS: usize = 15;

fn name(text: &str) -> Name {
    Name::new(text).expect("the bench makes good names")
}

fn address(base: Ipv4Addr, n: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from(u32::from(base) + n))
}

/// Service `i`: one TCP port with a VIP and a published port, ten endpoints over ten nodes.
fn view(i: u32, ready: bool) -> ServiceView {
    let published = PortRange::single(1024 + u16::try_from(i).unwrap_or(0)).ok();
    let port = ServicePort {
        name: None,
        protocol: Protocol::Tcp,
        port: PortRange::single(80).expect("80 is a port"),
        target: 8080,
        publish: Some(Publish {
            port: published,
            mode: PublishMode::Ingress,
            address: None,
            allow: Vec::new(),
        }),
        proxy_protocol: false,
    };
    let endpoints = (0..ENDPOINTS).map(|e| {
        let at = address(Ipv4Addr::new(10, 0, 0, 1), i * ENDPOINTS + e);
        let mut endpoint = Endpoint::new(name(&format!("s{i}-{e}")), Addresses::from(at));
        endpoint.ready = ready || e > 0;
        EndpointView { node: name(&format!("node-{e}")), zone: None, endpoint }
    });
    ServiceView {
        key: ServiceKey::in_default(&format!("s{i}")).expect("the bench makes good names"),
        spec: Arc::new(ServiceSpec { ports: vec![port], ..ServiceSpec::default() }),
        origins: Vec::new(),
        conflict: None,
        vips: Addresses::from(address(Ipv4Addr::new(10, 96, 0, 1), i)),
        published: vec![PublishedView {
            index: 0,
            protocol: Protocol::Tcp,
            port: published,
            mode: PublishMode::Ingress,
            conflict: None,
        }],
        endpoints: endpoints.collect(),
        hidden_endpoints: 0,
    }
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let result = black_box(work());
    (result, start.elapsed())
}

/// Runs and prints; the sizes are interleaved in every round.
pub(crate) fn run(json: bool) {
    let node = NodeFacts { name: name("node-0"), zone: None };
    let policy = Policy { families: vec![Family::V4], ..Policy::default() };
    let mut cases: Vec<(u32, Snapshot, Desired, [Vec<f64>; 3])> = SIZES
        .iter()
        .map(|&size| {
            let mut snapshot = Snapshot::empty(node.name.clone());
            for i in 0..size {
                let view = view(i, true);
                snapshot.set_service(view.key.clone(), Some(Arc::new(view)));
            }
            let desired = compile(&snapshot, &node, &policy);
            (size, snapshot, desired, Default::default())
        })
        .collect();
    for round in 0..ROUNDS {
        for (size, snapshot, desired, times) in &mut cases {
            let (whole, full) = timed(|| compile(snapshot, &node, &policy));
            let (ops, first) = timed(|| diff(&mesh_agent::plan::Table::new(), &whole.table));
            assert_eq!(ops.len(), (*size * 2 * (1 + ENDPOINTS)) as usize, "two frontends a service");
            // One endpoint of one service in the middle changes its readiness.
            let before = (snapshot.revision, desired.table.clone());
            let changed = view(*size / 2, round % 2 == 1);
            let (ops, one) = timed(|| {
                snapshot.set_service(changed.key.clone(), Some(Arc::new(changed)));
                let Changes::Services(keys) = snapshot.changed_since(before.0) else { return Vec::new() };
                let touched = desired.update(snapshot, &keys, &node, &policy);
                diff_keys(&before.1, &desired.table, &touched)
            });
            assert_eq!(ops.len(), 2, "one backend behind two frontends");
            for (list, time) in times.iter_mut().zip([full, first, one]) {
                list.push(time.as_secs_f64());
            }
        }
    }
    let mut table = Table::new(
        "compile and diff, 10 endpoints a service (medians; ratio: time against the row above it)",
        &["services", "full compile", "full diff", "one endpoint changes", "ratio of that"],
    );
    let mut last = None;
    for (size, _, _, times) in &cases {
        let [full, first, one] = times.each_ref().map(|t| median(t));
        let ratio = last.map_or_else(|| "-".to_owned(), |last: f64| format!("{:.2}", one / last));
        table.row(&[
            size.to_string(),
            format!("{:.2} ms", full * 1e3),
            format!("{:.2} ms", first * 1e3),
            format!("{:.1} µs", one * 1e6),
            ratio,
        ]);
        last = Some(one);
    }
    table.print(json);
}
