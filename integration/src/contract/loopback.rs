//! Real clients and real instances on loopback addresses, for planes that move packets there without privileges.
//!
//! An instance answers each line (TCP) or datagram (UDP) with its name, and the end of the client's direction with
//! its name once more before it closes.

use super::fixture::{Dialed, PlaneUnderTest, Said};
use mesh_agent::{
    dataplane::DataPlane,
    plan::{Backend, BackendId, BackendState},
};
use mesh_control::model::{Name, Protocol};
use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpSocket, TcpStream, UdpSocket},
    task::JoinSet,
    time::timeout,
};

/// How to make a plane that serves loopback addresses.
pub trait LoopbackPlane {
    /// The plane.
    type Plane: DataPlane;

    /// A new run of it.
    fn make() -> Self::Plane;

    /// See [`PlaneUnderTest::shards`].
    fn shards() -> u32;

    /// See [`PlaneUnderTest::rejects_udp_beside_old_flows`].
    fn rejects_udp_beside_old_flows() -> bool {
        true
    }
}

/// The fixture of a [`LoopbackPlane`].
#[derive(Debug)]
pub struct Loopback<L: LoopbackPlane> {
    plane: Option<L::Plane>,
    instances: JoinSet<()>,
}

/// The client's end of a flow.
#[derive(Debug)]
pub enum LoopbackFlow {
    /// A connection.
    Tcp(BufReader<TcpStream>),
    /// A connected socket.
    Udp(UdpSocket),
}

/// VIP ports handed out so far in this process; its id makes the address its own.
static PORTS: AtomicU16 = AtomicU16::new(0);

fn reset(e: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(e.kind(), ConnectionReset | BrokenPipe | ConnectionAborted | ConnectionRefused)
}

async fn answer(stream: TcpStream, name: &str) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let (mut line, reply) = (String::new(), format!("{name}\n"));
    loop {
        line.clear();
        let read = stream.read_line(&mut line).await?;
        stream.get_mut().write_all(reply.as_bytes()).await?;
        if read == 0 {
            return stream.get_mut().shutdown().await;
        }
    }
}

async fn serve_tcp(listener: TcpListener, name: Arc<str>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let name = Arc::clone(&name);
        connections.spawn(async move { answer(stream, &name).await });
        while connections.try_join_next().is_some() {}
    }
}

async fn serve_udp(socket: UdpSocket, name: Arc<str>) {
    let mut buffer = [0; 64];
    loop {
        // A client that is gone makes itself known as an error of a later call.
        if let Ok((_, client)) = socket.recv_from(&mut buffer).await {
            drop(socket.send_to(name.as_bytes(), client).await);
        }
    }
}

/// Listeners for as many ports in a row, TCP and UDP.
async fn ports_in_a_row(ip: IpAddr, count: u16) -> io::Result<Vec<(TcpListener, UdpSocket)>> {
    let first = TcpListener::bind((ip, 0)).await?;
    let port = first.local_addr()?.port();
    let mut all = vec![(first, UdpSocket::bind((ip, port)).await?)];
    for offset in 1..count {
        let next = port.checked_add(offset).ok_or(io::ErrorKind::AddrInUse)?;
        all.push((TcpListener::bind((ip, next)).await?, UdpSocket::bind((ip, next)).await?));
    }
    Ok(all)
}

async fn converse(flow: &mut LoopbackFlow) -> io::Result<Option<String>> {
    match flow {
        LoopbackFlow::Tcp(stream) => {
            // Past a half-close nothing can be written; what is left can be read.
            if let Err(e) = stream.get_mut().write_all(b"who\n").await
                && e.kind() != io::ErrorKind::BrokenPipe
            {
                return Err(e);
            }
            read(stream).await
        }
        LoopbackFlow::Udp(socket) => {
            let mut buffer = [0; 64];
            loop {
                socket.send(b"who").await?;
                // A datagram may be lost on the way, as anywhere: ask again.
                if let Ok(read) = timeout(Duration::from_secs(1), socket.recv(&mut buffer)).await {
                    return Ok(Some(String::from_utf8_lossy(&buffer[..read?]).into_owned()));
                }
            }
        }
    }
}

async fn read(stream: &mut BufReader<TcpStream>) -> io::Result<Option<String>> {
    let mut line = String::new();
    let read = stream.read_line(&mut line).await?;
    Ok((read > 0).then(|| line.trim_end().to_owned()))
}

async fn said(conversation: impl Future<Output = io::Result<Option<String>>>, patience: Duration) -> Said {
    match timeout(patience, conversation).await {
        Err(_) => Said::Silent,
        Ok(Ok(Some(name))) => Said::Answer(name),
        Ok(Ok(None)) => Said::Closed,
        Ok(Err(e)) if reset(&e) => Said::Reset,
        Ok(Err(e)) => panic!("unexpected: {e}"),
    }
}

async fn connect(client: IpAddr, to: SocketAddr, protocol: Protocol) -> io::Result<LoopbackFlow> {
    let from = SocketAddr::new(client, 0);
    if protocol == Protocol::Udp {
        let socket = UdpSocket::bind(from).await?;
        socket.connect(to).await?;
        return Ok(LoopbackFlow::Udp(socket));
    }
    let socket = TcpSocket::new_v4()?;
    socket.bind(from)?;
    Ok(LoopbackFlow::Tcp(BufReader::new(socket.connect(to).await?)))
}

impl<L: LoopbackPlane> PlaneUnderTest for Loopback<L> {
    type Plane = L::Plane;
    type Flow = LoopbackFlow;

    async fn start() -> Self {
        Loopback { plane: Some(L::make()), instances: JoinSet::new() }
    }

    fn plane(&mut self) -> &mut L::Plane {
        self.plane.get_or_insert_with(L::make)
    }

    async fn restart(&mut self) {
        // The old run ends before the next begins, as with a process.
        self.plane = None;
        self.plane = Some(L::make());
    }

    fn shards(&self) -> u32 {
        L::shards()
    }

    fn rejects_udp_beside_old_flows(&self) -> bool {
        L::rejects_udp_beside_old_flows()
    }

    fn vip(&mut self, ports: u16) -> SocketAddr {
        let [_, high, middle, low] = std::process::id().to_be_bytes();
        let ip = Ipv4Addr::new(127, 128 | (high & 0x3f), middle, low);
        SocketAddr::from((ip, 10_000 + PORTS.fetch_add(ports, Ordering::Relaxed)))
    }

    async fn serve(&mut self, instance: &str, ports: u16) -> Backend {
        let name = |text| Name::new(text).expect("scenarios use good names");
        let ip = IpAddr::from([127, 0, 2, 1]);
        let mut sockets = Err(io::ErrorKind::AddrInUse.into());
        for _ in 0..50 {
            sockets = ports_in_a_row(ip, ports).await;
            if sockets.is_ok() {
                break;
            }
        }
        let sockets = sockets.expect("free ports in a row");
        let port = sockets[0].0.local_addr().expect("a bound socket has an address").port();
        let shared: Arc<str> = instance.into();
        for (tcp, udp) in sockets {
            self.instances.spawn(serve_tcp(tcp, Arc::clone(&shared)));
            self.instances.spawn(serve_udp(udp, Arc::clone(&shared)));
        }
        Backend {
            id: BackendId { instance: name(instance), node: name("n2") },
            address: ip,
            port,
            weight: 100,
            state: BackendState::Active,
        }
    }

    fn client(&self, n: u16) -> IpAddr {
        let [high, low] = n.to_be_bytes();
        [127, 3, high, low].into()
    }

    async fn dial(
        &mut self,
        client: IpAddr,
        to: SocketAddr,
        protocol: Protocol,
        patience: Duration,
    ) -> Dialed<LoopbackFlow> {
        let mut flow = match timeout(patience, connect(client, to, protocol)).await {
            Err(_) => return Dialed::Silent,
            Ok(Ok(flow)) => flow,
            Ok(Err(e)) if reset(&e) => return Dialed::Refused,
            Ok(Err(e)) => panic!("{client} to {to}: {e}"),
        };
        match said(converse(&mut flow), patience).await {
            Said::Answer(name) => Dialed::Answered(flow, name),
            Said::Reset | Said::Closed => Dialed::Refused,
            Said::Silent if protocol == Protocol::Tcp => Dialed::Waiting(flow),
            Said::Silent => Dialed::Silent,
        }
    }

    async fn say(&mut self, flow: &mut LoopbackFlow, patience: Duration) -> Said {
        said(converse(flow), patience).await
    }

    async fn half_close(&mut self, flow: &mut LoopbackFlow, patience: Duration) -> Said {
        let LoopbackFlow::Tcp(stream) = flow else { return Said::Closed };
        let conversation = async {
            stream.get_mut().shutdown().await?;
            read(stream).await
        };
        said(conversation, patience).await
    }

    async fn hang_up(&mut self, flow: LoopbackFlow) {
        drop(flow);
    }

    fn now(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    async fn tick(&mut self) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
