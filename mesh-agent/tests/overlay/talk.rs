//! Packets between namespaces.

use mesh_agent::sys::netns::Netns;
use socket2::{Domain, Protocol, Socket, Type};
use std::{
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

const WITHIN: Duration = Duration::from_secs(5);
/// Between two tries of something that may get lost.
const TRY: Duration = Duration::from_millis(200);

fn any(like: IpAddr) -> IpAddr {
    if like.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
}

/// Sends `bytes` over TCP from `client` to `address` in `server`; returns whom the server saw.
pub(crate) fn tcp(client: &Netns, server: &Netns, address: IpAddr, bytes: usize) -> io::Result<IpAddr> {
    tcp_through(address, client, server, address, bytes)
}

/// As [`tcp`], but the client dials the same port of `door`.
pub(crate) fn tcp_through(
    door: IpAddr,
    client: &Netns,
    server: &Netns,
    address: IpAddr,
    bytes: usize,
) -> io::Result<IpAddr> {
    let listener = server.run(|| TcpListener::bind((address, 0)))??;
    let at = SocketAddr::new(door, listener.local_addr()?.port());
    let sent: Vec<u8> = (0..bytes).map(|i| u8::try_from(i % 251).unwrap()).collect();
    std::thread::scope(|scope| {
        let served = scope.spawn(|| -> io::Result<(IpAddr, Vec<u8>)> {
            listener.set_nonblocking(true)?;
            let until = Instant::now() + WITHIN;
            let (mut stream, from) = loop {
                match listener.accept() {
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock && Instant::now() < until => {
                        std::thread::park_timeout(Duration::from_millis(2));
                    }
                    result => break result?,
                }
            };
            stream.set_nonblocking(false)?;
            stream.set_read_timeout(Some(WITHIN))?;
            let mut got = Vec::new();
            stream.read_to_end(&mut got)?;
            Ok((from.ip(), got))
        });
        client.run(|| {
            let mut stream = TcpStream::connect_timeout(&at, WITHIN)?;
            stream.set_write_timeout(Some(WITHIN))?;
            stream.write_all(&sent)
        })??;
        let (from, got) = served.join().unwrap()?;
        assert!(got == sent, "{} of {} bytes arrived whole", got.len(), sent.len());
        Ok(from)
    })
}

/// Sends a datagram of `bytes` from `client` to `address` in `server` until it comes back; returns whom the server saw.
pub(crate) fn udp(client: &Netns, server: &Netns, address: IpAddr, bytes: usize) -> io::Result<IpAddr> {
    let there = server.run(|| UdpSocket::bind((address, 0)))??;
    let here = client.run(|| UdpSocket::bind((any(address), 0)))??;
    for socket in [&there, &here] {
        socket.set_read_timeout(Some(TRY))?;
    }
    here.connect(there.local_addr()?)?;
    let until = Instant::now() + WITHIN;
    let mut buffer = vec![0; 65_536];
    loop {
        here.send(&vec![7; bytes])?;
        let answered = there.recv_from(&mut buffer).and_then(|(length, from)| {
            there.send_to(&buffer[..length], from)?;
            let back = here.recv(&mut buffer)?;
            assert_eq!((length, back), (bytes, bytes));
            Ok(from.ip())
        });
        match answered {
            Err(_) if Instant::now() < until => {}
            result => return result,
        }
    }
}

/// Asks `address` for an echo from `client` (ICMP, RFC 792; ICMPv6, RFC 4443).
pub(crate) fn ping(client: &Netns, address: IpAddr) -> io::Result<()> {
    let (domain, protocol, kind, answer) = match address {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, 8, 0),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, 128, 129),
    };
    let socket = client.run(|| Socket::new(domain, Type::RAW, Some(protocol)))??;
    socket.set_read_timeout(Some(TRY))?;
    socket.connect(&SocketAddr::new(address, 0).into())?;
    let mut request = [kind, 0, 0, 0, 0x4d, 0x45, 0, 1];
    let words = request.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum: u32 = words.sum();
    let check = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    // The kernel writes ICMPv6's, which covers addresses too.
    request[2..4].copy_from_slice(&check.to_be_bytes());
    let until = Instant::now() + WITHIN;
    loop {
        socket.send(&request)?;
        let mut buffer = [0; 256];
        let tried = Instant::now();
        while tried.elapsed() < TRY {
            let Ok(length) = (&socket).read(&mut buffer) else { break };
            let start = if address.is_ipv4() { 20 } else { 0 };
            let got = &buffer[start.min(length)..length];
            if got.first() == Some(&answer) && got.get(4..8) == Some(&request[4..8]) {
                return Ok(());
            }
        }
        if Instant::now() > until {
            return Err(io::Error::new(io::ErrorKind::TimedOut, format!("{address} answers no echo")));
        }
    }
}

/// Waits until `true`, at most for long.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < end, "not within 20 s: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
