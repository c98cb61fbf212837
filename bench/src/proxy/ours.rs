//! Our proxy as a process of its own, so that its processor time can be told from the load's.

use super::{
    load::Backends,
    peers::{Peer, free_ports, ready},
};
use anyhow::{Context as _, bail};
use clap::Args;
use mesh_agent::{
    dataplane::{
        DataPlane as _,
        userspace::{UserspaceConfig, UserspacePlane},
    },
    plan::{Backend, BackendId, BackendState, Frontend, FrontendKey, Listen, Op},
};
use mesh_control::model::{NoBackend, PortRange, Protocol, Scheduler};
use std::{io::Read as _, net::SocketAddr, process::Stdio, sync::Arc};

/// What the child is told: pairs of listening address and backend.
#[derive(Args, Debug)]
pub(crate) struct Serve {
    /// `tcp` or `udp`, listening address, backend; as often as wanted.
    #[arg(long, num_args = 3)]
    route: Vec<String>,
}

/// Starts the child.
pub(super) fn start(backends: &Backends) -> anyhow::Result<Peer> {
    let [tcp_bulk, tcp_short, udp] = free_ports()?;
    let routes =
        [("tcp", tcp_bulk, backends.bulk), ("tcp", tcp_short, backends.short), ("udp", udp, backends.udp)];
    let mut command = crate::cores::pinned(&std::env::current_exe()?.to_string_lossy());
    command.arg("serve-proxy").stdin(Stdio::piped());
    for (protocol, listen, backend) in routes {
        command.args(["--route", protocol, &listen.to_string(), &backend.to_string()]);
    }
    let child = command.spawn().context("mesh-bench serve-proxy")?;
    let peer = Peer { name: "mesh-agent", child, tcp_bulk, tcp_short, udp, has_udp: true };
    ready(&peer)?;
    Ok(peer)
}

/// The child's part: serves until its stdin ends.
pub(crate) fn serve(serve: &Serve) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut plane = UserspacePlane::start(UserspaceConfig { workers: 1, ..UserspaceConfig::default() })?;
    let mut ops = Vec::new();
    for route in serve.route.chunks(3) {
        let [protocol, listen, backend] = route else { bail!("--route takes three values") };
        let (listen, backend): (SocketAddr, SocketAddr) = (listen.parse()?, backend.parse()?);
        let protocol: Protocol = protocol.parse().map_err(anyhow::Error::msg)?;
        let key = FrontendKey {
            listen: Listen::Vip(listen.ip()),
            ports: PortRange::single(listen.port())?,
            protocol,
        };
        ops.push(Op::PutFrontend(Arc::new(Frontend {
            key,
            service: "bench".parse()?,
            scheduler: Scheduler::Rr,
            affinity: None,
            no_backend: NoBackend::Reject,
            proxy_protocol: false,
            idle_timeout: None,
            max_connections: None,
            allow: Vec::new(),
        })));
        let id = BackendId { instance: "b".parse()?, node: "n".parse()? };
        let (address, port) = (backend.ip(), backend.port());
        let backend = Backend { id, address, port, weight: 1, state: BackendState::Active };
        ops.push(Op::PutBackend { frontend: key, backend });
    }
    let report = runtime.block_on(plane.apply(&ops));
    if let Some((_, e)) = report.failed.into_iter().next() {
        return Err(e.into());
    }
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
