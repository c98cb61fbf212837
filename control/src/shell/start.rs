//! Starting the control plane: everything that can be wrong is said here.

use super::{
    handle::{Clocks, ControlHandle, Shared},
    keeper::Keeper,
    stream::Streams,
    task::Task,
};
use crate::keyring::random;
use crate::{
    api::{ControlConfig, ControlError},
    keys::Keys,
    model::is_unicast,
    node::{Node, NodeConfig},
    token::is_seed,
};
use socket2::SockRef;
use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, atomic::AtomicU64},
};
use tokio::{
    net::{TcpListener, UdpSocket},
    sync::{mpsc, watch},
};

/// Commands that wait for the task.
const COMMANDS: usize = 64;
/// Bytes of the datagram socket's receive buffer, as far as the system allows.
const RECEIVE_BUFFER: usize = 1 << 20;
/// Tries to find a port that is free for TCP and UDP alike, when the configuration leaves it open.
const PORT_TRIES: usize = 16;

/// The control plane of one node.
#[derive(Debug)]
pub struct Control;

impl Control {
    /// Starts it on the current tokio runtime. Joining goes on in the background, for ever.
    ///
    /// # Errors
    /// [`ControlError`] naming the field, address or file, and the fix; then nothing runs.
    pub async fn start(config: ControlConfig) -> Result<ControlHandle, ControlError> {
        check(&config)?;
        let keys = Keys::new(&config.keys)?;
        let ring = keys.shared();
        let clocks = Clocks::start();
        let (keeper, records) = match &config.data_dir {
            Some(dir) => {
                let (keeper, records) = Keeper::open(dir, &config.node, clocks.now()).await?;
                (Some(keeper), records)
            }
            None => (None, Vec::new()),
        };
        let (listener, socket) = bind(config.bind).await?;
        let bound = listener.local_addr().map_err(|source| bind_error(config.bind, "tcp", source))?;
        let mut address = config.advertise;
        if address.port() == 0 {
            address.set_port(bound.port());
        }
        let now = clocks.now();
        let node = NodeConfig {
            name: config.node,
            addr: address,
            info: config.info,
            boot: now.wall,
            seeds: config.seeds,
            vip_cidrs: config.vip_cidrs,
            overlay: config.overlay,
            dynamic_ports: config.dynamic_ports,
            seed: u64::from_be_bytes(random()?),
            sender: random()?,
        };
        let node = Node::with_records(node, keys, records, now)?;
        let (publish, snapshots) = watch::channel(Arc::new(node.snapshot().clone()));
        let (joining, joined) = watch::channel(node.joined());
        let node = Shared::new(node);
        let (commands, received) = mpsc::channel(COMMANDS);
        let strangers = Arc::new(AtomicU64::new(0));
        let streams = Streams::start(listener, ring, Arc::clone(&strangers));
        tokio::spawn(
            Task {
                node: node.clone(),
                clocks,
                commands: received,
                socket,
                streams,
                publish,
                joining,
                keeper,
            }
            .run(),
        );
        Ok(ControlHandle { node, clocks, commands, snapshots, joined, address, strangers })
    }
}

fn check(config: &ControlConfig) -> Result<(), ControlError> {
    let fail = |field, problem: String| Err(ControlError::Config { field, problem });
    // A link-local address means nothing without the sender's interface, which the others do not have.
    let dialable = match config.advertise.ip() {
        IpAddr::V6(a) => is_unicast(a.into()) && !a.is_unicast_link_local(),
        a => is_unicast(a),
    };
    if !dialable {
        return fail(
            "advertise",
            format!("{} is no address that others can dial: name one of this host", config.advertise.ip()),
        );
    }
    for seed in &config.seeds {
        if !is_seed(seed) {
            return fail("seeds", format!("`{seed}`: write host:port, as in node1:7946 or [fd00::1]:7946"));
        }
    }
    for (i, network) in config.vip_cidrs.iter().enumerate() {
        if config.vip_cidrs[..i].iter().any(|other| other.is_ipv4() == network.is_ipv4()) {
            return fail("vip_cidrs", format!("{network}: at most one network per address family"));
        }
        let narrowest = if network.is_ipv4() { 30 } else { 126 };
        if network.prefix() > narrowest {
            return fail(
                "vip_cidrs",
                format!("{network} has no room for services: use /{narrowest} or wider"),
            );
        }
        if !is_unicast(network.network()) {
            return fail("vip_cidrs", format!("{network} holds no host addresses: use a private range"));
        }
    }
    for (i, overlay) in config.overlay.iter().enumerate() {
        if config.overlay[..i].iter().any(|other| other.family() == overlay.family()) {
            let problem = format!("{}: at most one network per address family", overlay.network);
            return fail("overlay", problem);
        }
        overlay.check(&config.vip_cidrs).or_else(|problem| fail("overlay", problem))?;
    }
    let name = config.node.as_str();
    if config.info.version.len() > 256 {
        return fail("info.version", format!("node {name}: longer than 256 bytes: shorten it"));
    }
    Ok(())
}

/// One port for TCP and UDP.
async fn bind(address: SocketAddr) -> Result<(TcpListener, UdpSocket), ControlError> {
    let mut tries = 0;
    loop {
        tries += 1;
        let listener =
            TcpListener::bind(address).await.map_err(|source| bind_error(address, "tcp", source))?;
        let bound = listener.local_addr().map_err(|source| bind_error(address, "tcp", source))?;
        match UdpSocket::bind(bound).await {
            Ok(socket) => {
                // Room for a burst while the task is busy; a smaller buffer only loses datagrams sooner.
                let _ = SockRef::from(&socket).set_recv_buffer_size(RECEIVE_BUFFER);
                return Ok((listener, socket));
            }
            Err(_) if address.port() == 0 && tries < PORT_TRIES => {}
            Err(source) => return Err(bind_error(address, "udp", source)),
        }
    }
}

fn bind_error(address: SocketAddr, protocol: &'static str, source: std::io::Error) -> ControlError {
    ControlError::Bind { address, protocol, source }
}
