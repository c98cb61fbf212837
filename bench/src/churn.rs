//! How long one change takes to be everywhere on a node that holds 100, 1,000 or 10,000 services: from submitting that
//! one endpoint is (not) ready until the snapshot with it is published, DNS answers it, and the data plane has it.
//!
//! The parts are those of the agent, put together as the agent does, in this process: control plane, DNS server on a
//! real socket, reconciler, userspace plane with one worker and a listening socket a service. The sizes take turns.

use crate::{
    agent::Network,
    table::{Table, median},
};
use anyhow::{Context as _, ensure};
use clap::Args;
use mesh_agent::{
    dataplane::{
        AnyDataPlane,
        userspace::{UserspaceConfig, UserspacePlane},
    },
    plan::{NodeFacts, Policy},
    reconcile::{self, ReconcileConfig, ReconcileHandle, ReconcileMetrics},
};
use mesh_control::{
    Control, ControlConfig, ControlHandle, LocalChange,
    model::{
        Addresses, Endpoint, Family, Name, NodeInfo, Origin, PortRange, Protocol, ServiceKey, ServicePort,
        ServiceSpec,
    },
};
use mesh_dns::{DnsConfig, DnsHandle, DnsServer, Upstreams};
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{net::UdpSocket, sync::watch, time::timeout};

const SIZES: [u16; 3] = [100, 1_000, 10_000];
const ENDPOINTS: u8 = 10;
/// No step takes longer, or the run fails.
const BOUND: Duration = Duration::from_secs(60);

/// How often to change something.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// Rounds; every round changes one endpoint at each size.
    #[arg(long, default_value_t = 101)]
    rounds: u16,
}

impl Default for Options {
    fn default() -> Self {
        Options { rounds: 101 }
    }
}

/// The parts of one agent.
struct Parts {
    services: u16,
    control: ControlHandle,
    reconcile: ReconcileHandle,
    dns: SocketAddr,
    _dns: DnsHandle,
    _synced: watch::Sender<bool>,
    _network: Network,
}

/// Milliseconds from the submission to each station, and what the plane's own pass took of that.
#[derive(Default)]
struct Times {
    snapshot: Vec<f64>,
    dns: Vec<f64>,
    plane: Vec<f64>,
    pass: Vec<f64>,
}

/// Measures and prints.
pub(crate) fn run(options: &Options, json: bool) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let cases = runtime.block_on(measure(options))?;
    let mut table = Table::new(
        "one endpoint changes: time until it is everywhere on the node, ms (medians; ratio: against the row above)",
        &[
            "services",
            "snapshot",
            "DNS answers",
            "ratio",
            "plane has it",
            "ratio",
            "of that compile and apply",
        ],
    );
    let mut before: Option<(f64, f64)> = None;
    for (size, times) in &cases {
        let [snapshot, dns, plane, pass] =
            [&times.snapshot, &times.dns, &times.plane, &times.pass].map(|t| median(t));
        let ratio = |now: f64, then: Option<f64>| then.map_or("-".to_owned(), |t| format!("{:.2}", now / t));
        table.row(&[
            size.to_string(),
            format!("{snapshot:.2}"),
            format!("{dns:.2}"),
            ratio(dns, before.map(|b| b.0)),
            format!("{plane:.2}"),
            ratio(plane, before.map(|b| b.1)),
            format!("{pass:.3}"),
        ]);
        before = Some((dns, plane));
    }
    table.print(json);
    Ok(())
}

async fn measure(options: &Options) -> anyhow::Result<Vec<(u16, Times)>> {
    let mut meshes = Vec::new();
    for size in SIZES {
        let parts = timeout(BOUND, start(size)).await.with_context(|| format!("{size} services"))??;
        meshes.push((parts, Times::default()));
    }
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    for round in 0..options.rounds.max(1) {
        for (parts, times) in &mut meshes {
            // Another service each time, so that every change takes something away.
            let service = (round.wrapping_mul(37)) % parts.services;
            let ready = round / parts.services % 2 == 1;
            timeout(BOUND, parts.change(&socket, service, ready, times)).await.context("one change")??;
        }
    }
    Ok(meshes.into_iter().map(|(parts, times)| (parts.services, times)).collect())
}

fn key(service: u16) -> anyhow::Result<ServiceKey> {
    Ok(ServiceKey::in_default(&format!("service-{service}"))?)
}

/// All endpoints of a service; the first is ready or not.
fn announce(service: u16, ready: bool) -> anyhow::Result<LocalChange> {
    let [high, low] = service.to_be_bytes();
    let endpoints = (0..ENDPOINTS).map(|e| {
        let address = IpAddr::from(Ipv4Addr::new(10, e, high, low));
        let mut endpoint =
            Endpoint::new(Name::new(&format!("service-{service}-{e}"))?, Addresses::from(address));
        endpoint.ready = ready || e > 0;
        anyhow::Ok(endpoint)
    });
    Ok(LocalChange::PutEndpoints { key: key(service)?, endpoints: endpoints.collect::<Result<_, _>>()? })
}

async fn start(services: u16) -> anyhow::Result<Parts> {
    let network = Network::take()?;
    let node = Name::new("bench")?;
    let bind = SocketAddr::from((network.node(1), 0));
    let vips = network.vips().parse()?;
    let control = Control::start(ControlConfig {
        node: node.clone(),
        info: NodeInfo::default(),
        bind,
        advertise: bind,
        seeds: Vec::new(),
        keys: vec![mesh_control::generate_key()?],
        vip_cidrs: vec![vips],
        overlay: vec![],
        dynamic_ports: PortRange::new(30_000, 32_767)?,
        data_dir: None,
    })
    .await?;
    let registry = prometheus::Registry::new();
    let userspace = UserspaceConfig { workers: 1, ..UserspaceConfig::default() };
    let plane = AnyDataPlane::from(UserspacePlane::start(userspace)?);
    let (synced, is_synced) = watch::channel(true);
    let policy = Policy { families: vec![Family::V4], ..Policy::default() };
    let config = ReconcileConfig::new(NodeFacts { name: node.clone(), zone: None }, policy);
    let metrics = ReconcileMetrics::new(&registry)?;
    let reconcile = reconcile::spawn(plane, control.snapshots(), is_synced, config, metrics);
    let config = DnsConfig { listen: vec![bind], upstreams: Upstreams::None, ..DnsConfig::default() };
    let dns = DnsServer::start(config, control.snapshots(), &registry).await?;
    let port = ServicePort {
        name: None,
        protocol: Protocol::Tcp,
        port: PortRange::single(80)?,
        target: 8080,
        publish: None,
        proxy_protocol: false,
    };
    let spec = Arc::new(ServiceSpec { ports: vec![port], ..ServiceSpec::default() });
    let mut revision = 0;
    for service in 0..services {
        let declare = LocalChange::PutService {
            origin: Origin::Node(node.clone()),
            key: key(service)?,
            spec: Arc::clone(&spec),
        };
        revision = control.submit(vec![declare, announce(service, true)?]).await?;
    }
    reconcile.wait_reconciled(revision).await?;
    let status = reconcile.status();
    ensure!(
        status.frontends == usize::from(services) && status.errors.is_empty(),
        "{} of {services} frontends stand: {:?}; raise the descriptor limit (ulimit -n)",
        status.frontends,
        status.errors.first()
    );
    let address = *dns.addresses().first().context("DNS listens")?;
    Ok(Parts { services, control, reconcile, dns: address, _dns: dns, _synced: synced, _network: network })
}

impl Parts {
    /// Makes one change and waits for it at every station.
    async fn change(
        &self,
        socket: &UdpSocket,
        service: u16,
        ready: bool,
        times: &mut Times,
    ) -> anyhow::Result<()> {
        let mut snapshots = self.control.snapshots();
        let change = announce(service, ready)?;
        let wanted = u16::from(ENDPOINTS) - u16::from(!ready);
        let start = Instant::now();
        let millis = || start.elapsed().as_secs_f64() * 1e3;
        let revision = self.control.submit(vec![change]).await?;
        let snapshot = async {
            snapshots.wait_for(|s| s.revision >= revision).await?;
            anyhow::Ok(millis())
        };
        let dns = async {
            while answers(socket, self.dns, service).await? != wanted {}
            anyhow::Ok(millis())
        };
        let plane = async {
            self.reconcile.wait_reconciled(revision).await?;
            anyhow::Ok(millis())
        };
        let (snapshot, dns, plane) = tokio::try_join!(snapshot, dns, plane)?;
        let pass = self.reconcile.status().last_sync.context("a pass")?;
        ensure!(pass.ops == 1, "{} operations for one backend", pass.ops);
        times.snapshot.push(snapshot);
        times.dns.push(dns);
        times.plane.push(plane);
        times.pass.push(pass.duration.as_secs_f64() * 1e3);
        Ok(())
    }
}

/// Asks for the A records of `tasks.service-N.cluster` and counts them (RFC 1035 section 4.1).
async fn answers(socket: &UdpSocket, server: SocketAddr, service: u16) -> anyhow::Result<u16> {
    let mut query = vec![0x12, 0x34, 0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in ["tasks", &format!("service-{service}"), "cluster", ""] {
        query.push(u8::try_from(label.len())?);
        query.extend_from_slice(label.as_bytes());
    }
    query.extend_from_slice(&[0, 1, 0, 1]);
    socket.send_to(&query, server).await?;
    let mut answer = [0; 1024];
    let (length, _) = socket.recv_from(&mut answer).await?;
    ensure!(length > 12 && answer[3] & 0x0f == 0, "{service}: no answer but {:?}", &answer[..length]);
    Ok(u16::from_be_bytes([answer[6], answer[7]]))
}
