//! What a connection costs on top of one to the backend itself.

use super::{
    cgroup::Cgroup,
    contender::{Contender, TARGET},
};
use crate::{
    cores,
    space::Space,
    table::{Table, median},
};
use aya::Ebpf;
use nix::libc;
use socket2::{Domain, SockAddr, Socket, Type};
use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

/// Connections in a turn, and turns in a round.
const BATCH: u32 = 250;
const TURNS: usize = 10;

/// Somebody and what was measured, a value for each turn, in nanoseconds for a connection.
struct Way {
    contender: Contender,
    cgroup: Cgroup,
    _programs: Option<Ebpf>,
    /// connect() of a datagram socket.
    first: Vec<f64>,
    /// Another connect() of it.
    again: Vec<f64>,
    /// close().
    close: Vec<f64>,
    /// socket(), connect() and close() of TCP.
    whole: Vec<f64>,
}

/// Measures and prints.
pub(super) fn run(services: u32, rounds: usize, json: bool) -> anyhow::Result<()> {
    let space = Space::new()?;
    let mut ways = space.inside(|| {
        // Everything on one processor: the kernel answers within connect().
        cores::keep_to(0..1)?;
        measure(services, rounds)
    })??;
    ways.sort_by_key(|way| Contender::ALL.iter().position(|c| *c == way.contender));
    print(&ways, services, json);
    Ok(())
}

fn measure(services: u32, rounds: usize) -> anyhow::Result<Vec<Way>> {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    listener.bind(&SockAddr::from(SocketAddr::from((Ipv4Addr::UNSPECIFIED, TARGET))))?;
    listener.listen(4096)?;
    listener.set_nonblocking(true)?;
    let mut ways = Vec::new();
    for contender in Contender::ALL {
        let cgroup = Cgroup::new(&ways.len().to_string())?;
        let programs = contender.start(&cgroup, services)?;
        let none = Vec::new;
        ways.push(Way {
            contender,
            cgroup,
            _programs: programs,
            first: none(),
            again: none(),
            close: none(),
            whole: none(),
        });
    }
    let mut number = 0;
    // The first turn fills caches.
    for turn in 0..=rounds.max(1) * TURNS {
        // Nobody is always first.
        ways.rotate_left(1);
        for way in &mut ways {
            way.cgroup.enter()?;
            let to: Vec<SockAddr> =
                (number..number + BATCH).map(|n| way.contender.dialled(n, services).into()).collect();
            let sample = sample(&to, &listener)?;
            if turn > 0 {
                for (values, value) in
                    [&mut way.first, &mut way.again, &mut way.close, &mut way.whole].into_iter().zip(sample)
                {
                    values.push(value.as_secs_f64() * 1e9 / f64::from(BATCH));
                }
            }
        }
        number += BATCH;
    }
    Ok(ways)
}

/// The times of a batch: connect(), connect() again, close(); and TCP.
fn sample(to: &[SockAddr], listener: &Socket) -> io::Result<[Duration; 4]> {
    let any = SockAddr::from(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)));
    let sockets = to.iter().map(|_| {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
        // So that connect() has no port to find.
        socket.bind(&any)?;
        Ok(socket)
    });
    let sockets = sockets.collect::<io::Result<Vec<_>>>()?;
    let connect = || {
        let start = cpu_time()?;
        sockets.iter().zip(to).try_for_each(|(socket, to)| socket.connect(to))?;
        Ok::<_, io::Error>(cpu_time()? - start)
    };
    let (first, again) = (connect()?, connect()?);
    let start = cpu_time()?;
    drop(sockets);
    let close = cpu_time()? - start;
    let start = cpu_time()?;
    for to in to {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        // The port is free at once.
        socket.set_linger(Some(Duration::ZERO))?;
        socket.connect(to)?;
    }
    let whole = cpu_time()? - start;
    while listener.accept().is_ok() {}
    Ok([first, again, close, whole])
}

/// What this thread took of a processor: others have it in between.
pub(super) fn cpu_time() -> io::Result<Duration> {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel fills what the pointer leads to.
    if unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut now) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0)))
}

fn print(ways: &[Way], services: u32, json: bool) {
    let Some(direct) = ways.iter().find(|way| way.contender == Contender::Nobody) else { return };
    let title = format!(
        "eBPF: one connection at the socket, {services} services of 10 endpoints; added is against direct in the same turn \
         (goal: at most 300 ns at connect(); 0.97 of direct by rate)"
    );
    let head =
        ["way", "connect ns", "added", "again, added", "close, added", "TCP conn/s of CPU", "of direct"];
    let mut table = Table::new(&title, &head);
    for way in ways {
        let added = |of: fn(&Way) -> &Vec<f64>| {
            let differences = of(way).iter().zip(of(direct)).map(|(ours, direct)| ours - direct);
            format!("{:.0}", median(&differences.collect::<Vec<_>>()))
        };
        let of_direct = way.whole.iter().zip(&direct.whole).map(|(ours, direct)| direct / ours);
        table.row(&[
            way.contender.name().to_owned(),
            format!("{:.0}", median(&way.first)),
            added(|way| &way.first),
            added(|way| &way.again),
            added(|way| &way.close),
            format!("{:.0}", 1e9 / median(&way.whole)),
            format!("{:.3}", median(&of_direct.collect::<Vec<_>>())),
        ]);
    }
    table.print(json);
}
