//! How real clients and real instances talk, whatever namespace their sockets are in.
//!
//! An instance answers each line (TCP) or datagram (UDP) with its name, or with the client's address when it is asked
//! for that, and the end of the client's direction with its name once more before it closes.
//!
//! Sockets are opened by plain functions without waiting, so that a caller can open them inside a namespace; what
//! waits comes after and runs anywhere.

use super::fixture::{Dialed, Said};
use mesh_control::model::Protocol;
use socket2::{Domain, Socket, Type};
use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpSocket, TcpStream, UdpSocket},
    task::JoinSet,
    time::timeout,
};

/// Asks for the instance's name.
const WHO: &str = "who";
/// Asks for the client's address as the instance sees it.
const FROM: &str = "from";

/// The client's end of a flow.
#[derive(Debug)]
pub enum SocketFlow {
    /// A connection.
    Tcp(BufReader<TcpStream>),
    /// A connected socket, and where it connects again when the kernel parts it from a backend that is gone.
    Udp(UdpSocket, Option<SocketAddr>),
}

/// A bound socket that dials nobody yet; it does not block.
pub(super) fn client(from: IpAddr, protocol: Protocol) -> io::Result<Socket> {
    let from = SocketAddr::new(from, 0);
    let kind = if protocol == Protocol::Udp { Type::DGRAM } else { Type::STREAM };
    let socket = Socket::new(Domain::for_address(from), kind, None)?;
    socket.set_nonblocking(true)?;
    // An IPv6 address that is local by a route alone can be bound only so (ipv6(7), IPV6_FREEBIND).
    if from.is_ipv6() {
        socket.set_freebind_v6(true)?;
    }
    socket.bind(&from.into())?;
    Ok(socket)
}

async fn connect(socket: Socket, to: SocketAddr, protocol: Protocol) -> io::Result<SocketFlow> {
    if protocol == Protocol::Udp {
        let socket = UdpSocket::from_std(socket.into())?;
        socket.connect(to).await?;
        return Ok(SocketFlow::Udp(socket, None));
    }
    let socket = TcpSocket::from_std_stream(socket.into());
    Ok(SocketFlow::Tcp(BufReader::new(socket.connect(to).await?)))
}

/// The sockets of an instance: as many ports in a row, TCP and UDP on each.
#[derive(Debug)]
pub(super) struct Opened(Vec<(std::net::TcpListener, std::net::UdpSocket)>);

impl Opened {
    pub(super) fn at(ip: IpAddr, count: u16) -> io::Result<Opened> {
        let first = std::net::TcpListener::bind((ip, 0))?;
        let port = first.local_addr()?.port();
        let mut all = vec![(first, std::net::UdpSocket::bind((ip, port))?)];
        for offset in 1..count {
            let next = (ip, port.checked_add(offset).ok_or(io::ErrorKind::AddrInUse)?);
            all.push((std::net::TcpListener::bind(next)?, std::net::UdpSocket::bind(next)?));
        }
        Ok(Opened(all))
    }

    /// Answers on them from now on; gives the first port.
    pub(super) fn serve(self, instance: &str, tasks: &mut JoinSet<()>) -> io::Result<u16> {
        let name: Arc<str> = instance.into();
        let first = self.0[0].0.local_addr()?.port();
        for (tcp, udp) in self.0 {
            tcp.set_nonblocking(true)?;
            udp.set_nonblocking(true)?;
            tasks.spawn(serve_tcp(TcpListener::from_std(tcp)?, Arc::clone(&name)));
            tasks.spawn(serve_udp(UdpSocket::from_std(udp)?, Arc::clone(&name)));
        }
        Ok(first)
    }
}

async fn serve_tcp(listener: TcpListener, name: Arc<str>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, client)) = listener.accept().await {
        let name = Arc::clone(&name);
        connections.spawn(async move { answer(stream, &name, client.ip()).await });
        while connections.try_join_next().is_some() {}
    }
}

async fn answer(stream: TcpStream, name: &str, client: IpAddr) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    loop {
        line.clear();
        let read = stream.read_line(&mut line).await?;
        let reply = if line.trim_end() == FROM { format!("{client}\n") } else { format!("{name}\n") };
        stream.get_mut().write_all(reply.as_bytes()).await?;
        if read == 0 {
            return stream.get_mut().shutdown().await;
        }
    }
}

async fn serve_udp(socket: UdpSocket, name: Arc<str>) {
    let mut buffer = [0; 64];
    loop {
        // A client that is gone makes itself known as an error of a later call.
        if let Ok((read, client)) = socket.recv_from(&mut buffer).await {
            let from = (buffer[..read] == *FROM.as_bytes()).then(|| client.ip().to_string());
            drop(socket.send_to(from.as_deref().unwrap_or(&name).as_bytes(), client).await);
        }
    }
}

fn reset(e: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(e.kind(), ConnectionReset | BrokenPipe | ConnectionAborted | ConnectionRefused)
}

/// Connects and speaks once; each takes `patience` at most.
pub(super) async fn dial(
    socket: Socket,
    to: SocketAddr,
    protocol: Protocol,
    patience: Duration,
) -> Dialed<SocketFlow> {
    dial_again(socket, to, protocol, patience, None).await
}

/// As [`dial`], with where datagrams go when the kernel parts the socket from its backend.
pub(super) async fn dial_again(
    socket: Socket,
    to: SocketAddr,
    protocol: Protocol,
    patience: Duration,
    again: Option<SocketAddr>,
) -> Dialed<SocketFlow> {
    let mut flow = match timeout(patience, connect(socket, to, protocol)).await {
        Err(_) => return Dialed::Silent,
        Ok(Ok(SocketFlow::Udp(socket, _))) => SocketFlow::Udp(socket, again),
        Ok(Ok(flow)) => flow,
        Ok(Err(e)) if reset(&e) => return Dialed::Refused,
        Ok(Err(e)) => panic!("to {to}: {e}"),
    };
    match flow.say(patience).await {
        Said::Answer(name) => Dialed::Answered(flow, name),
        Said::Reset | Said::Closed => Dialed::Refused,
        Said::Silent if protocol == Protocol::Tcp => Dialed::Waiting(flow),
        Said::Silent => Dialed::Silent,
    }
}

impl SocketFlow {
    /// Speaks and waits for the answer.
    pub(super) async fn say(&mut self, patience: Duration) -> Said {
        said(self.converse(WHO), patience).await
    }

    /// Asks for the client's address as the instance sees it.
    pub async fn seen(&mut self, patience: Duration) -> Said {
        said(self.converse(FROM), patience).await
    }

    /// Ends the client's direction and waits for the answer.
    pub(super) async fn half_close(&mut self, patience: Duration) -> Said {
        let SocketFlow::Tcp(stream) = self else { return Said::Closed };
        let conversation = async {
            stream.get_mut().shutdown().await?;
            read(stream).await
        };
        said(conversation, patience).await
    }

    async fn converse(&mut self, word: &str) -> io::Result<Option<String>> {
        match self {
            SocketFlow::Tcp(stream) => {
                // Past a half-close nothing can be written; what is left can be read.
                if let Err(e) = stream.get_mut().write_all(format!("{word}\n").as_bytes()).await
                    && e.kind() != io::ErrorKind::BrokenPipe
                {
                    return Err(e);
                }
                read(stream).await
            }
            SocketFlow::Udp(socket, again) => loop {
                let asked = ask(socket, word).await;
                match (&asked, &again) {
                    (Err(error), Some(to)) if parted(error) => socket.connect(*to).await?,
                    _ => return asked,
                }
            },
        }
    }
}

/// Whether an error says that the socket is connected no more.
fn parted(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::ConnectionAborted || error.raw_os_error() == Some(libc::EDESTADDRREQ)
}

async fn ask(socket: &UdpSocket, word: &str) -> io::Result<Option<String>> {
    let mut buffer = [0; 64];
    loop {
        // What a filter drops of a process of its own host it tells that process; it is lost all the same.
        if let Err(e) = socket.send(word.as_bytes()).await
            && e.kind() != io::ErrorKind::PermissionDenied
        {
            return Err(e);
        }
        // A datagram may be lost on the way, as anywhere: ask again.
        if let Ok(read) = timeout(Duration::from_secs(1), socket.recv(&mut buffer)).await {
            return Ok(Some(String::from_utf8_lossy(&buffer[..read?]).into_owned()));
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
