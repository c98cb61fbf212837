//! Backends and clients. Both are plain blocking threads: what is measured is the proxy between them.

use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

const BLOCK: usize = 256 << 10;
const FLOWS: usize = 4;
const CLIENTS: usize = 8;
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n";
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
/// Datagrams a client has on the way.
const WINDOW: usize = 32;
const DATAGRAM: usize = 64;
/// A datagram that is not answered by then is lost.
const LOST: Duration = Duration::from_millis(100);

/// What a load counted (bytes, connections or answers) in which time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    /// Units.
    pub(super) units: f64,
    /// Wall-clock time.
    pub(super) time: Duration,
}

/// The backends behind every proxy. Their threads live as long as the process.
#[derive(Debug)]
pub(super) struct Backends {
    /// Sends until the other side goes.
    pub(super) bulk: SocketAddr,
    /// Answers one request and closes.
    pub(super) short: SocketAddr,
    /// Echoes datagrams.
    pub(super) udp: SocketAddr,
}

impl Backends {
    /// Starts them on free ports of 127.0.0.1.
    pub(super) fn start() -> io::Result<Self> {
        let (bulk, short) =
            (TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?, TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?);
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        let backends =
            Backends { bulk: bulk.local_addr()?, short: short.local_addr()?, udp: udp.local_addr()? };
        thread::spawn(move || {
            for stream in bulk.incoming().flatten() {
                thread::spawn(move || send_without_end(stream));
            }
        });
        for _ in 0..CLIENTS {
            let short = short.try_clone()?;
            thread::spawn(move || {
                for stream in short.incoming().flatten() {
                    // A client that goes early is no failure of the backend.
                    let _ = answer(stream);
                }
            });
        }
        thread::spawn(move || {
            let mut buffer = [0; 2048];
            while let Ok((n, from)) = udp.recv_from(&mut buffer) {
                let _ = udp.send_to(&buffer[..n], from);
            }
        });
        Ok(backends)
    }
}

fn send_without_end(mut stream: TcpStream) {
    let block = vec![0x5a; BLOCK];
    while stream.write_all(&block).is_ok() {}
}

fn answer(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = [0; 512];
    if stream.read(&mut buffer)? > 0 {
        stream.write_all(RESPONSE)?;
    }
    Ok(())
}

/// Lets the load run.
#[expect(clippy::disallowed_methods, reason = "a measurement lasts for a time, it waits for no condition")]
fn pause(time: Duration) {
    thread::sleep(time);
}

/// Runs `clients` threads for `time`; each adds to the count until told to stop.
fn measure(
    clients: usize,
    time: Duration,
    client: impl Fn(&AtomicBool, &AtomicU64) -> io::Result<()> + Sync,
) -> anyhow::Result<Sample> {
    let (stop, count) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let threads: Vec<_> = (0..clients).map(|_| scope.spawn(|| client(&stop, &count))).collect();
        // What happens before the first byte is not measured.
        pause(time / 10);
        let (start, before) = (Instant::now(), count.load(Relaxed));
        pause(time);
        let (took, units) = (start.elapsed(), count.load(Relaxed) - before);
        stop.store(true, Relaxed);
        for thread in threads {
            thread.join().map_err(|_| anyhow::anyhow!("a client panicked"))??;
        }
        #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
        let units = units as f64;
        Ok(Sample { units, time: took })
    })
}

/// Bytes received over a few flows.
pub(super) fn throughput(to: SocketAddr, time: Duration) -> anyhow::Result<Sample> {
    measure(FLOWS, time, |stop, count| {
        let mut stream = TcpStream::connect(to)?;
        let mut buffer = vec![0; BLOCK];
        while !stop.load(Relaxed) {
            count.fetch_add(stream.read(&mut buffer)? as u64, Relaxed);
        }
        Ok(())
    })
}

/// Connections with one request and one answer each, one after the other per client.
pub(super) fn connections(to: SocketAddr, time: Duration) -> anyhow::Result<Sample> {
    measure(CLIENTS, time, |stop, count| {
        let mut answer = Vec::with_capacity(512);
        while !stop.load(Relaxed) {
            let mut stream = TcpStream::connect(to)?;
            stream.write_all(REQUEST)?;
            answer.clear();
            stream.read_to_end(&mut answer)?;
            if answer != RESPONSE {
                return Err(io::Error::other(format!("{} bytes of {}", answer.len(), RESPONSE.len())));
            }
            count.fetch_add(1, Relaxed);
        }
        Ok(())
    })
}

/// Answered datagrams, a window at a time per client.
pub(super) fn datagrams(to: SocketAddr, time: Duration) -> anyhow::Result<Sample> {
    measure(FLOWS, time, |stop, count| {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.connect(to)?;
        socket.set_read_timeout(Some(LOST))?;
        let mut buffer = [0; DATAGRAM];
        while !stop.load(Relaxed) {
            for _ in 0..WINDOW {
                socket.send(&[7; DATAGRAM])?;
            }
            for _ in 0..WINDOW {
                match socket.recv(&mut buffer) {
                    Ok(_) => count.fetch_add(1, Relaxed),
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                    Err(e) => return Err(e),
                };
            }
        }
        Ok(())
    })
}
