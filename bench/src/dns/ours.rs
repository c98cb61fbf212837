//! Our server and the floor as processes of their own, so that their processor time can be told from the load's.

use super::{
    floor,
    peers::{Server, free_port},
    zone::Zone,
};
use crate::cores::{self, pinned};
use anyhow::Context as _;
use clap::Args;
use mesh_control::model::{Addresses, Name, ServiceKey, ServiceSpec, ServiceView, Snapshot};
use mesh_dns::{DnsConfig, DnsHandle, DnsServer, Limits, Upstreams};
use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// What the child is told.
#[derive(Args, Debug)]
pub(crate) struct Serve {
    /// Where to answer.
    #[arg(long)]
    listen: SocketAddr,
    /// Only echo.
    #[arg(long)]
    floor: bool,
    /// Services to have.
    #[arg(long, default_value_t = 0)]
    names: usize,
    /// Services to change a second.
    #[arg(long, default_value_t = 0)]
    updates: u32,
    /// Where other names are asked.
    #[arg(long)]
    upstream: Vec<SocketAddr>,
    /// Send every reply by itself.
    #[arg(long)]
    apart: bool,
    /// UDP workers of each address; as many as there are cores without it.
    #[arg(long)]
    workers: Option<usize>,
    /// Writes what the changes took to this file in the end, one line of microseconds for each.
    #[arg(long)]
    times: Option<PathBuf>,
}

/// How a child of ours is started.
#[derive(Clone, Debug, Default)]
pub(crate) struct Plan {
    /// Services to change a second.
    pub(crate) updates: u32,
    /// Where other names are asked.
    pub(crate) upstreams: Vec<SocketAddr>,
    /// Send every reply by itself.
    pub(crate) apart: bool,
    /// UDP workers; more than one run on all cores.
    pub(crate) workers: usize,
    /// Where the times of the changes go.
    pub(crate) times: Option<PathBuf>,
}

/// Our server with one worker and the zone's names.
pub(crate) fn ours(zone: &Zone, _: &Path) -> anyhow::Result<Server> {
    planned(zone, &Plan { workers: 1, ..Plan::default() })
}

/// The same, sending every reply by itself, as to clients with one question each.
pub(crate) fn apart(zone: &Zone, _: &Path) -> anyhow::Result<Server> {
    let plan = Plan { workers: 1, apart: true, ..Plan::default() };
    let mut server = planned(zone, &plan)?;
    server.name = "mesh-agent, one by one";
    Ok(server)
}

/// Our server as planned.
pub(crate) fn planned(zone: &Zone, plan: &Plan) -> anyhow::Result<Server> {
    let (this, address) = (std::env::current_exe()?, free_port()?);
    let mut command =
        if plan.workers > 1 { std::process::Command::new(&this) } else { pinned(&this.to_string_lossy()) };
    command.args(["serve-dns", "--listen", &address.to_string(), "--names", &zone.names().to_string()]);
    command.args(["--updates", &plan.updates.to_string(), "--workers", &plan.workers.to_string()]);
    for upstream in &plan.upstreams {
        command.args(["--upstream", &upstream.to_string()]);
    }
    if plan.apart {
        command.arg("--apart");
    }
    if let Some(times) = &plan.times {
        command.arg("--times").arg(times);
    }
    // It ends when this process does.
    command.stdin(Stdio::piped());
    Server::start("mesh-agent", address, &mut command, &zone.present(0))
}

/// The floor.
pub(crate) fn echo(zone: &Zone, _: &Path) -> anyhow::Result<Server> {
    let (this, address) = (std::env::current_exe()?, free_port()?);
    let mut command = pinned(&this.to_string_lossy());
    command.args(["serve-dns", "--floor", "--listen", &address.to_string()]).stdin(Stdio::piped());
    Server::start("echo (floor)", address, &mut command, &zone.present(0))
}

/// The child's part: serves until its stdin ends.
pub(crate) fn serve(serve: &Serve) -> anyhow::Result<()> {
    if serve.floor {
        let address = serve.listen;
        std::thread::spawn(move || floor::serve(address));
        std::io::stdin().read_to_end(&mut Vec::new())?;
        return Ok(());
    }
    let workers = serve.workers.unwrap_or(1).max(1);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build()?;
    let mut snapshot = Snapshot::empty(Name::new("bench")?);
    for i in 0..serve.names {
        put(&mut snapshot, i, 0)?;
    }
    let (sender, receiver) = watch::channel(Arc::new(snapshot.clone()));
    let config = DnsConfig {
        listen: vec![serve.listen],
        upstreams: Upstreams::List(serve.upstream.iter().copied().map(Into::into).collect()),
        limits: Limits { udp_workers: workers, udp_gso: !serve.apart, ..Limits::default() },
        ..DnsConfig::default()
    };
    let registry = prometheus::Registry::new();
    let handle = runtime.block_on(DnsServer::start(config, receiver, &registry))?;
    if serve.updates > 0 {
        let (rate, names, times) = (serve.updates, serve.names, serve.times.clone());
        std::thread::spawn(move || change(&handle, &sender, snapshot, rate, names, times.as_deref()));
        std::io::stdin().read_to_end(&mut Vec::new())?;
    } else {
        std::io::stdin().read_to_end(&mut Vec::new())?;
        drop((handle, sender));
    }
    let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather())?;
    anyhow::ensure!(text.contains("\nmesh_dns_panics_total 0\n"), "a query brought out a defect");
    Ok(())
}

/// Puts service `i`; another `version` is another address.
fn put(snapshot: &mut Snapshot, i: usize, version: u32) -> anyhow::Result<()> {
    let address = Ipv4Addr::from_bits(Zone::address(i).to_bits() ^ (version & 0xff) << 24);
    let key = ServiceKey::in_default(&format!("service-{i}"))?;
    let view = ServiceView {
        key: key.clone(),
        spec: Arc::new(ServiceSpec::default()),
        origins: Vec::new(),
        conflict: None,
        vips: Addresses::from(IpAddr::V4(address)),
        published: Vec::new(),
        endpoints: Arc::new([]),
        hidden_endpoints: 0,
    };
    snapshot.set_service(key, Some(Arc::new(view)));
    Ok(())
}

/// Changes `rate` services a second, for ever, and notes how long each takes until the next query is answered by it.
#[expect(clippy::disallowed_methods, reason = "the changes come at a rate")]
fn change(
    handle: &DnsHandle,
    sender: &watch::Sender<Arc<Snapshot>>,
    mut snapshot: Snapshot,
    rate: u32,
    names: usize,
    times: Option<&Path>,
) -> anyhow::Result<()> {
    cores::leave_the_first();
    // It only looks on; what it waits for shall not be its own turn.
    cores::go_first();
    let mut file = times.map(std::fs::File::create).transpose()?;
    let (start, mut took) = (Instant::now(), String::new());
    for n in 0_u32.. {
        let due = start + Duration::from_secs(1) * n / rate;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let i = usize::try_from(n)? * 31 % names.max(1);
        put(&mut snapshot, i, n / u32::try_from(names.max(1))? + 1)?;
        let begun = Instant::now();
        let revision = snapshot.revision;
        sender.send(Arc::new(snapshot.clone())).ok().context("the server is gone")?;
        while handle.revision() < revision {
            std::thread::sleep(Duration::from_micros(200));
        }
        took.push_str(&format!("{}\n", begun.elapsed().as_micros()));
        if let Some(file) = &mut file
            && n % 100 == 99
        {
            file.write_all(std::mem::take(&mut took).as_bytes())?;
        }
    }
    Ok(())
}
