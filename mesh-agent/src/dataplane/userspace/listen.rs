//! Listening sockets: one per worker and port, shared between agents of one machine by SO_REUSEPORT.
//!
//! A socket outlives its frontend when another frontend wants the same address and port: it only changes owner, so
//! the port is never closed in between.

use super::view::{FrontendState, Gate};
use crate::plan::{FrontendKey, Listen};
use arc_swap::ArcSwap;
use mesh_control::model::{Family, Protocol};
use rustix::net::{Shutdown, connect_unspec, shutdown};
use socket2::{Domain, SockFilter, Socket, Type};
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsRawFd, RawFd},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
};
use tokio::sync::{Notify, oneshot};

/// The addresses that a frontend's sockets are bound to, one per port.
pub(super) fn addresses(key: FrontendKey) -> impl Iterator<Item = SocketAddr> {
    let address = match key.listen {
        Listen::Vip(address) | Listen::Address(address) => address,
        Listen::AnyLocal(Family::V4) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        Listen::AnyLocal(Family::V6) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    key.ports.iter().map(move |port| SocketAddr::new(address, port))
}

/// A bound socket of one worker. It closes when the last reference to it goes.
#[derive(Debug)]
pub(super) struct ListenSocket {
    pub(super) socket: Socket,
    pub(super) address: SocketAddr,
    pub(super) protocol: Protocol,
    /// The frontend that new flows belong to.
    pub(super) owner: ArcSwap<FrontendState>,
    /// Wakes the task that serves it: the gate changed, or it is to close.
    pub(super) wake: Notify,
    closing: AtomicBool,
    gate: Mutex<Gate>,
    backlog: i32,
    /// Its drop tells the plane that the descriptor is closed.
    _closed: oneshot::Sender<()>,
}

impl AsRawFd for ListenSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// What the plane keeps of a socket that a worker serves.
#[derive(Debug)]
pub(super) struct SocketHandle {
    socket: Weak<ListenSocket>,
    closed: oneshot::Receiver<()>,
}

impl ListenSocket {
    /// Binds; the gate is [`Gate::Refuse`] for TCP (bound, not listening) and open for UDP.
    ///
    /// # Errors
    /// What the system says, such as an address in use or a privileged port.
    pub(super) fn bind(
        address: SocketAddr,
        owner: Arc<FrontendState>,
        backlog: i32,
    ) -> io::Result<(Arc<ListenSocket>, SocketHandle)> {
        let protocol = owner.key.protocol;
        let kind = match protocol {
            Protocol::Tcp => Type::STREAM,
            Protocol::Udp => Type::DGRAM,
        };
        let socket = Socket::new(Domain::for_address(address), kind.nonblocking().cloexec(), None)?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        let gate = match protocol {
            Protocol::Tcp => {
                // Accepted sockets inherit both. Keep-alive finds peers that vanished.
                socket.set_tcp_nodelay(true)?;
                socket.set_keepalive(true)?;
                Gate::Refuse
            }
            Protocol::Udp => {
                // As much as `net.core.rmem_max` allows; less is no error.
                let _ = socket.set_recv_buffer_size(4 << 20);
                let _ = socket.set_send_buffer_size(4 << 20);
                Gate::Open
            }
        };
        socket.bind(&address.into())?;
        let (sender, closed) = oneshot::channel();
        let socket = Arc::new(ListenSocket {
            socket,
            address,
            protocol,
            owner: ArcSwap::new(owner),
            wake: Notify::new(),
            closing: AtomicBool::new(false),
            gate: Mutex::new(gate),
            backlog,
            _closed: sender,
        });
        let handle = SocketHandle { socket: Arc::downgrade(&socket), closed };
        Ok((socket, handle))
    }

    /// Lets the kernel treat new flows as said. Established TCP connections have sockets of their own and stay.
    ///
    /// - TCP refuse: `shutdown(SHUT_RD)` takes a socket out of LISTEN and leaves it bound; a SYN is answered by RST.
    /// - TCP silence: a socket filter that passes nothing drops the SYN.
    /// - UDP refuse: connected to itself, the socket matches no other sender, which the kernel answers by ICMP port
    ///   unreachable. The bind stays.
    ///
    /// # Errors
    /// What the system says; the gate is then unchanged and setting it again is safe.
    pub(super) fn set_gate(&self, gate: Gate) -> io::Result<()> {
        let mut current = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
        if *current == gate && (self.protocol == Protocol::Udp || self.listens() != (gate == Gate::Refuse)) {
            return Ok(());
        }
        match self.protocol {
            Protocol::Tcp => {
                if *current == Gate::Silent && gate != Gate::Silent {
                    match self.socket.detach_filter() {
                        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                        _ => {}
                    }
                }
                match gate {
                    Gate::Refuse => {
                        if self.listens() {
                            shutdown(&self.socket, Shutdown::Read)?;
                        }
                    }
                    Gate::Silent => {
                        // One instruction: BPF_RET|BPF_K with 0 bytes to keep (uapi linux/bpf_common.h).
                        self.socket.attach_filter(&[SockFilter::new(0x06, 0, 0, 0)])?;
                        self.socket.listen(self.backlog)?;
                    }
                    Gate::Open => self.socket.listen(self.backlog)?,
                }
            }
            Protocol::Udp => match gate {
                Gate::Refuse => {
                    let mut own = self.address;
                    if own.ip().is_unspecified() {
                        own.set_ip(match own {
                            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
                        });
                    }
                    self.socket.connect(&own.into())?;
                }
                // Silence is to read and answer nothing, which the session table does.
                Gate::Open | Gate::Silent => {
                    if *current == Gate::Refuse {
                        connect_unspec(&self.socket)?;
                    }
                }
            },
        }
        *current = gate;
        drop(current);
        self.wake.notify_one();
        Ok(())
    }

    /// Asks the kernel whether a TCP socket takes connections.
    pub(super) fn listens(&self) -> bool {
        self.socket.is_listener().unwrap_or(false)
    }

    /// Whether it is to be closed.
    pub(super) fn closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }
}

impl SocketHandle {
    /// The socket, while a worker serves it.
    pub(super) fn get(&self) -> Option<Arc<ListenSocket>> {
        self.socket.upgrade()
    }

    /// Stops new flows at once and has the worker close it; the answer resolves when it is closed.
    pub(super) fn close(self) -> oneshot::Receiver<()> {
        if let Some(socket) = self.get() {
            socket.closing.store(true, Ordering::Release);
            if socket.protocol == Protocol::Tcp && socket.listens() {
                // At worst it goes on listening until the worker closes it.
                let _ = shutdown(&socket.socket, Shutdown::Read);
            }
            socket.wake.notify_one();
        }
        self.closed
    }
}
