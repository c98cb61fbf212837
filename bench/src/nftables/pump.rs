//! A stream of bytes from one namespace to another.

use crate::space::Space;
use crate::{agent::pause, cores, process};
use anyhow::Context as _;
use socket2::Socket;
use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

/// Where streams go.
pub(super) const PORT: u16 = 8090;
const BLOCK: usize = 256 << 10;
/// How long a stream runs before it is measured, and then.
const RAMP: Duration = Duration::from_millis(100);
const TIME: Duration = Duration::from_millis(400);

/// What a stream did.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// MiB a second.
    pub(crate) rate: f64,
    /// Processor time of this process, both ends and what the kernel does in their name, µs per MiB.
    pub(crate) cost: f64,
}

/// A listening socket in a namespace.
pub(super) struct Sink(TcpListener);

impl Sink {
    /// Opens it.
    pub(super) fn open(space: &Space) -> anyhow::Result<Sink> {
        Ok(Sink(space.inside(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)))??))
    }
}

/// One that is there.
impl From<Socket> for Sink {
    fn from(listener: Socket) -> Sink {
        Sink(listener.into())
    }
}

fn keep_to(core: usize) {
    if cores::count() > 1 && cores::keep_to(core..core + 1).is_err() {
        eprintln!("an end of a stream could not be kept to its core");
    }
}

/// Sends from `space` to `to`, which leads to the sink, for half a second. Each end keeps to a core, where there are two:
/// else where the scheduler puts them differs by more than what is measured.
pub(super) fn pump(space: &Space, sink: &Sink, to: SocketAddr) -> anyhow::Result<Sample> {
    let (stop, count) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut sending = space.inside(|| TcpStream::connect(to))?.with_context(|| to.to_string())?;
    let (mut receiving, _) = sink.0.accept()?;
    thread::scope(|scope| {
        let sender = scope.spawn(|| {
            keep_to(0);
            let block = vec![0x5a; BLOCK];
            while !stop.load(Relaxed) {
                sending.write_all(&block)?;
            }
            sending.shutdown(std::net::Shutdown::Both)
        });
        let receiver = scope.spawn(|| {
            keep_to(1);
            let mut buffer = vec![0; BLOCK];
            loop {
                match receiving.read(&mut buffer)? {
                    0 => return io::Result::Ok(()),
                    read => count.fetch_add(read as u64, Relaxed),
                };
            }
        });
        pause(RAMP);
        let me = std::process::id();
        let (start, before, busy) = (Instant::now(), count.load(Relaxed), process::processor_time(me)?);
        pause(TIME);
        let (took, bytes) = (start.elapsed(), count.load(Relaxed) - before);
        let busy = process::processor_time(me)?.saturating_sub(busy);
        stop.store(true, Relaxed);
        for end in [sender, receiver] {
            end.join().map_err(|_| anyhow::anyhow!("an end of a stream panicked"))??;
        }
        #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
        let mib = bytes as f64 / f64::from(1 << 20);
        Ok(Sample { rate: mib / took.as_secs_f64(), cost: busy.as_secs_f64() * 1e6 / mib.max(1e-9) })
    })
}
