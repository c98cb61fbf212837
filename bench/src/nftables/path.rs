//! A client, a node that forwards and a server behind it, and connections through them.
//!
//! ```text
//!   client 10.1.0.2 ── 10.1.0.1 node 10.2.0.1 ── 10.2.0.2 server, which has every endpoint's address too
//!   client, a container of node 1 ── node 1 ══ VXLAN ══ node 2 ── the same server, a container of node 2
//! ```

use super::{
    pair::{Laid, agents},
    pump::{self, Sample, Sink},
    rivals,
    services::{BACKENDS, TARGET, VIPS},
};
use crate::space::Space;
use anyhow::Context as _;
use mesh_agent::overlay::{OverlayConfig, plan::gateway};
use socket2::{Domain, Protocol, Socket, Type};
use std::{
    io::{self, Read as _},
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

/// The node, as the client sees it.
pub(super) const NODE: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
/// The server's own address.
pub(super) const SERVER: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 2);
/// Connections that the server lets wait (`net.core.somaxconn` of Linux 5.4 and later).
const BACKLOG: i32 = 4096;
/// Longest wait for a connection.
const PATIENCE: Duration = Duration::from_secs(5);

/// The three of them.
pub(crate) struct Path {
    pub(super) client: Space,
    /// The client's.
    pub(super) node: Space,
    /// The server's, where that is another.
    beyond: Option<Space>,
    _server: Space,
    listener: Socket,
}

impl Path {
    /// Lays it; the server listens at [`TARGET`] of all its addresses. The kernel alone answers: a thread that accepts
    /// would have to be woken within each connection, on this processor or another, and be measured with it.
    pub(crate) fn new() -> anyhow::Result<Path> {
        let (client, node, server) = (Space::new()?, Space::router()?, Space::new()?);
        node.cable(("c0", "10.1.0.1/24"), (&client, "eth0", "10.1.0.2/24"))?;
        node.cable(("s0", "10.2.0.1/24"), (&server, "eth0", "10.2.0.2/24"))?;
        client.ip("route add default via 10.1.0.1\n")?;
        node.ip(&format!("route add {BACKENDS} via 10.2.0.2\n"))?;
        server.ip(&format!("route add local {BACKENDS} dev lo\nroute add default via 10.2.0.1\n"))?;
        let listener = listen(&server)?;
        Ok(Path { client, node, beyond: None, _server: server, listener })
    }

    /// Lays it over the agent's overlay, between containers of two nodes. What those containers' addresses cannot be is
    /// routed as if it were: the endpoints' addresses, to the server.
    pub(super) fn across(returns: bool) -> anyhow::Result<Path> {
        let Laid { nodes: [node, beyond], containers: [client, server], to } = agents(returns)?;
        let (via, device) = (gateway(format!("{to}/24").parse()?), OverlayConfig::DEVICE);
        node.ip(&format!("route add {BACKENDS} via {via} dev {device} onlink\n"))?;
        beyond.ip(&format!("route add {BACKENDS} via {to}\n"))?;
        server.ip(&format!("route add local {BACKENDS} dev lo\n"))?;
        let listener = listen(&server)?;
        Ok(Path { client, node, beyond: Some(beyond), _server: server, listener })
    }

    /// The nodes there are, the client's first.
    pub(super) fn nodes(&self) -> impl Iterator<Item = &Space> {
        [&self.node].into_iter().chain(&self.beyond)
    }

    /// Makes the nodes keep track of connections, and nothing else.
    pub(super) fn track(&self) -> anyhow::Result<()> {
        self.nodes().try_for_each(track)
    }

    /// Makes the node translate what goes to any VIP by one rule, to one backend: what the kernel needs for that at least.
    pub(super) fn translate(&self) -> anyhow::Result<()> {
        let rules = format!(
            "table ip bare {{\n chain prerouting {{\n type nat hook prerouting priority -100;\n \
             ip daddr {VIPS} meta l4proto tcp dnat to {SERVER}:{TARGET}\n }}\n}}\n"
        );
        feed(&self.node, &rules).context("one rule")
    }

    /// Makes the nodes balance so many services by the smallest ruleset.
    pub(super) fn balance(&self, services: u32) -> anyhow::Result<()> {
        let rules = rivals::two_maps(services);
        self.nodes().try_for_each(|node| feed(node, &rules)).context("two maps")
    }

    /// Connects to each of these, one after the other, from the client: microseconds.
    pub(super) fn connects(&self, to: impl Iterator<Item = SocketAddr> + Send) -> anyhow::Result<Vec<f64>> {
        let times = self.client.inside(|| to.map(|to| connect(to).map(micros)).collect::<io::Result<_>>())?;
        self.hang_up();
        times.context("a connection failed")
    }

    /// Connects to each of these, one after the other, has the backend send a byte and hangs up when it is there: seconds
    /// for all. Both ends are of one thread, so that nobody but a proxy has to be woken.
    pub(crate) fn exchanges(&self, to: impl Iterator<Item = SocketAddr> + Send) -> anyhow::Result<f64> {
        let exchange = |to: SocketAddr| {
            let mut client = open(to)?;
            self.listener.accept()?.0.send(b"x")?;
            client.read_exact(&mut [0])
        };
        self.waiting(|| {
            self.client.inside(|| {
                let start = Instant::now();
                to.into_iter().try_for_each(exchange).context("a connection failed")?;
                Ok(start.elapsed().as_secs_f64())
            })?
        })
    }

    /// Sends from the client to `to` for half a second.
    pub(crate) fn stream(&self, to: SocketAddr) -> anyhow::Result<Sample> {
        self.waiting(|| pump::pump(&self.client, &Sink::from(self.listener.try_clone()?), to))
    }

    /// While the listener waits for connections that are under way.
    fn waiting<T>(&self, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
        self.hang_up();
        self.listener.set_nonblocking(false)?;
        let done = work();
        self.listener.set_nonblocking(true)?;
        done
    }

    /// Lets go what connected: at least once for each half of [`BACKLOG`] connections.
    pub(super) fn hang_up(&self) {
        while self.listener.accept().is_ok() {}
    }
}

/// Makes a node keep track of connections, and nothing else.
pub(super) fn track(node: &Space) -> anyhow::Result<()> {
    let rules = "table ip track {\n chain forward {\n type filter hook forward priority 0;\n \
                 ct state invalid drop\n }\n}\n";
    feed(node, rules).context("connection tracking alone")
}

/// Gives a node rules, as `nft` reads them.
fn feed(node: &Space, rules: &str) -> anyhow::Result<()> {
    node.run("nft", &["-f", "-"], rules).map(drop)
}

/// Listens at [`TARGET`] of all addresses of a server.
fn listen(server: &Space) -> anyhow::Result<Socket> {
    let listener = server.inside(|| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
        socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, TARGET)).into())?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        io::Result::Ok(socket)
    })??;
    Ok(listener)
}

/// Connects and resets, in the namespace of the calling thread; how long the connection took.
pub(super) fn connect(to: SocketAddr) -> io::Result<Duration> {
    let start = Instant::now();
    open(to).map(|_socket| start.elapsed())
}

/// A connection that is reset in the end: no port waits for the end of what nobody needs any more.
fn open(to: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_linger(Some(Duration::ZERO))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(&to.into())?;
    Ok(socket)
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
