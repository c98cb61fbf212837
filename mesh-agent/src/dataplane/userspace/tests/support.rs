//! A plane under test, with backends, on an address of the test's own.

use crate::{
    dataplane::{
        BackendCounters, DataPlane,
        userspace::{UserspaceConfig, UserspacePlane},
    },
    plan::{Backend, BackendId, BackendState, Frontend, FrontendKey, Listen, Op},
};
use mesh_control::model::{NoBackend, PortRange, Protocol, Scheduler};
use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream, UdpSocket},
};

/// Longest wait for anything; only a failing test waits that long.
pub(super) const DEADLINE: Duration = Duration::from_secs(20);

/// A loopback address that no other test uses at the time.
pub(super) fn own_address() -> IpAddr {
    static COUNT: AtomicU32 = AtomicU32::new(1);
    let pid = std::process::id();
    let byte = |n: u32| u8::try_from(n % 256).unwrap();
    let last = byte(COUNT.fetch_add(1, Ordering::Relaxed) % 250 + 1);
    Ipv4Addr::new(127, 100 + byte(pid / 256 % 128), byte(pid), last).into()
}

/// A plane and the policy of the frontends it is given.
pub(super) struct Rig {
    pub(super) plane: UserspacePlane,
    pub(super) vip: IpAddr,
}

impl Rig {
    pub(super) fn start() -> Rig {
        Rig::with(UserspaceConfig::default())
    }

    pub(super) fn with(mut config: UserspaceConfig) -> Rig {
        (config.workers, config.seed) = (2, Some(7));
        Rig { plane: UserspacePlane::start(config).unwrap(), vip: own_address() }
    }

    pub(super) fn frontend(&self, port: u16, protocol: Protocol) -> Frontend {
        Frontend {
            key: FrontendKey {
                listen: Listen::Vip(self.vip),
                ports: PortRange::single(port).unwrap(),
                protocol,
            },
            service: "web".parse().unwrap(),
            scheduler: Scheduler::Rr,
            affinity: None,
            no_backend: NoBackend::Reject,
            proxy_protocol: false,
            idle_timeout: None,
            max_connections: None,
            allow: Vec::new(),
        }
    }

    pub(super) fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.vip, port)
    }

    /// Applies and asserts that all went well.
    pub(super) async fn apply(&mut self, ops: &[Op]) {
        let report = self.plane.apply(ops).await;
        assert!(report.failed.is_empty(), "{:?}", report.failed);
        assert_eq!(report.applied, ops.len());
    }

    /// Puts a frontend with active backends, named a, b, c …
    pub(super) async fn serve(&mut self, frontend: &Frontend, backends: &[SocketAddr]) {
        let mut ops = vec![Op::PutFrontend(Arc::new(frontend.clone()))];
        for (name, address) in ('a'..).zip(backends) {
            ops.push(put(frontend.key, backend(&name.to_string(), *address)));
        }
        self.apply(&ops).await;
    }

    pub(super) fn counters(&self, name: &str, protocol: Protocol) -> BackendCounters {
        let all = self.plane.counters();
        let found = all.backends.into_iter().find(|b| b.backend == id(name) && b.protocol == protocol);
        found.unwrap_or_else(|| panic!("no counters of {name}"))
    }
}

pub(super) fn id(name: &str) -> BackendId {
    BackendId { instance: name.parse().unwrap(), node: "n1".parse().unwrap() }
}

pub(super) fn backend(name: &str, address: SocketAddr) -> Backend {
    Backend {
        id: id(name),
        address: address.ip(),
        port: address.port(),
        weight: 1,
        state: BackendState::Active,
    }
}

pub(super) fn put(frontend: FrontendKey, backend: Backend) -> Op {
    Op::PutBackend { frontend, backend }
}

pub(super) fn in_state(name: &str, address: SocketAddr, state: BackendState) -> Backend {
    Backend { state, ..backend(name, address) }
}

/// A backend that sends its name to whoever connects, then echoes until the end.
pub(super) async fn tcp_backend(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                stream.write_all(name.as_bytes()).await?;
                let (mut read, mut write) = stream.split();
                tokio::io::copy(&mut read, &mut write).await?;
                write.shutdown().await
            });
        }
    });
    address
}

/// A backend that answers each datagram by its name, a colon and the datagram.
pub(super) async fn udp_backend(name: &'static str) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = vec![0; 65_536];
        while let Ok((n, from)) = socket.recv_from(&mut buffer).await {
            let answer = [name.as_bytes(), b":", &buffer[..n]].concat();
            let _ = socket.send_to(&answer, from).await;
        }
    });
    address
}

/// Connects from a local address.
pub(super) async fn connect_from(from: IpAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(from, 0))?;
    within(socket.connect(to)).await
}

/// Connects and reads the backend's name.
pub(super) async fn open(to: SocketAddr) -> io::Result<(TcpStream, String)> {
    named(within(TcpStream::connect(to)).await?).await
}

pub(super) async fn named(mut stream: TcpStream) -> io::Result<(TcpStream, String)> {
    let mut name = [0];
    within(stream.read_exact(&mut name)).await?;
    Ok((stream, char::from(name[0]).to_string()))
}

/// Sends a datagram and waits for the answer.
pub(super) async fn ask(socket: &UdpSocket, to: SocketAddr, text: &str) -> io::Result<String> {
    socket.send_to(text.as_bytes(), to).await?;
    let mut buffer = vec![0; 65_536];
    let (n, from) = within(socket.recv_from(&mut buffer)).await?;
    assert_eq!(from, to, "the answer comes from the address that was asked");
    Ok(String::from_utf8_lossy(&buffer[..n]).into_owned())
}

/// Fails loudly instead of hanging.
pub(super) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.expect("it took longer than the deadline")
}

/// Polls until the condition holds.
pub(super) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < DEADLINE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Asserts that a connection is reset, be it so early that connecting says so.
pub(super) async fn assert_turned_away(attempt: io::Result<TcpStream>) {
    match attempt {
        Ok(mut stream) => assert_reset(&mut stream).await,
        Err(e) => assert_eq!(e.kind(), io::ErrorKind::ConnectionReset),
    }
}

/// Asserts that the other side resets the connection.
pub(super) async fn assert_reset(stream: &mut TcpStream) {
    let mut buffer = vec![0; 4096];
    loop {
        match within(stream.read(&mut buffer)).await {
            Ok(0) => panic!("an orderly end instead of a reset"),
            Ok(_) => {}
            Err(e) => return assert_eq!(e.kind(), io::ErrorKind::ConnectionReset),
        }
    }
}
