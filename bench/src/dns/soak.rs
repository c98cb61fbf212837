//! Minutes of valid and garbage load: memory stays flat, nothing panics, and the answers are right in the end.

use super::{
    Options, load,
    ours::{self, Plan},
    peers,
    questions::{A, AAAA, Questions, Want, packet},
    tcp,
    zone::Zone,
};
use crate::table::Table;
use anyhow::ensure;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use std::{
    io::Write as _,
    net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// Memory may be so much greater in the second half than in the first.
const GROWTH: f64 = 1.1;
/// Parts of the time after which memory is looked at.
const PARTS: u32 = 10;

/// Runs for `minutes` and prints; an error is a failure.
pub(super) fn run(options: &Options, minutes: f64, json: bool) -> anyhow::Result<()> {
    let (zone, folder) = (Zone::new(10_000), tempfile::tempdir()?);
    let upstream = peers::knot_upstream(&zone, folder.path())?;
    let plan = Plan { workers: 2, updates: 100, upstreams: vec![upstream.address], ..Plan::default() };
    let server = ours::planned(&zone, &plan)?;
    let part = Duration::from_secs_f64(minutes * 60.0 / f64::from(PARTS));
    let (stop, garbage) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut table = Table::new(
        "DNS: soak",
        &[
            "part",
            "resident MiB",
            "over UDP",
            "lost",
            "over TCP",
            "wrong",
            "SERVFAIL",
            "REFUSED",
            "garbage sent",
        ],
    );
    let (mut sizes, mut wrong, mut least) = (Vec::new(), 0, u64::MAX);
    std::thread::scope(|scope| -> anyhow::Result<()> {
        let address = server.address;
        let senders = [2, 3].map(|seed| {
            let (stop, garbage) = (&stop, &garbage);
            scope.spawn(move || rubbish(address, seed, stop, garbage))
        });
        for i in 0..PARTS {
            let answered = valid(address, &zone, options, part, i);
            let size = server.memory("VmRSS");
            if answered.is_err() || size.is_err() {
                stop.store(true, Ordering::Relaxed);
            }
            let ([udp, tcp], size) = (answered?, size?);
            sizes.push(size);
            wrong += udp.wrong + tcp.wrong;
            least = least.min(udp.replies).min(tcp.replies);
            table.row(&[
                format!("{} of {PARTS}", i + 1),
                format!("{:.1}", size as f64 / f64::from(1 << 20)),
                udp.replies.to_string(),
                udp.lost.to_string(),
                tcp.replies.to_string(),
                (udp.wrong + tcp.wrong).to_string(),
                (udp.failed[0] + tcp.failed[0]).to_string(),
                (udp.failed[1] + tcp.failed[1]).to_string(),
                garbage.load(Ordering::Relaxed).to_string(),
            ]);
        }
        stop.store(true, Ordering::Relaxed);
        for sender in senders {
            sender.join().map_err(|_| anyhow::anyhow!("a sender of garbage panicked"))??;
        }
        Ok(())
    })?;
    table.print(json);
    ensure!(garbage.load(Ordering::Relaxed) > 10_000, "hardly any garbage was sent");
    ensure!(least > 100, "in some part only {least} replies came one way");
    ensure!(wrong == 0, "{wrong} replies were wrong");
    let last = load::run(server.address, &zone.hits(), 64, Duration::from_secs(1))?;
    ensure!(last.wrong == 0 && last.replies > 1_000, "in the end {last:?}");
    let status = server.finish()?;
    ensure!(status.success(), "the server ended with {status}: a query brought out a defect");
    let half = |sizes: &[u64]| sizes.iter().copied().max().unwrap_or(0) as f64;
    let (first, second) = sizes.split_at(sizes.len() / 2);
    let growth = half(second) / half(first);
    println!("memory of the second half: {growth:.3} of the first; no defect");
    ensure!(growth <= GROWTH, "memory grew");
    Ok(())
}

/// Questions that have an answer, of all kinds in turn, over UDP and over TCP, for about `time`.
fn valid(
    server: SocketAddr,
    zone: &Zone,
    options: &Options,
    time: Duration,
    part: u32,
) -> anyhow::Result<[load::Answered; 2]> {
    let kinds = [
        zone.hits(),
        zone.absent(),
        zone.no_data(),
        Questions::new((0..1_000).map(|i| zone.foreign(i)), A, Want::Answer),
    ];
    let (mut all, begun) = ([load::Answered::default(); 2], Instant::now());
    for turn in 0.. {
        if begun.elapsed() >= time {
            break;
        }
        // Names that nobody asked before: no cache helps.
        let cold = (0..50_000).map(|i| format!("never-{part}-{turn}-{i}.{}", super::zone::FOREIGN));
        let cold = Questions::new(cold, A, Want::Absent);
        for questions in kinds.iter().chain([&cold]) {
            let each = Duration::from_millis(200);
            let udp = load::run(server, questions, options.window.min(128), each)?;
            for (all, some) in all.iter_mut().zip([udp, tcp::ask(server, questions, each)?]) {
                all.add(&some);
            }
        }
    }
    Ok(all)
}

/// Damaged queries, floods of names, and connections that bring nothing, until told to stop.
#[expect(clippy::disallowed_methods, reason = "garbage comes at a rate, or the valid load would get nothing")]
fn rubbish(server: SocketAddr, seed: u8, stop: &AtomicBool, sent: &AtomicU64) -> anyhow::Result<()> {
    let mut rng = StdRng::seed_from_u64(seed.into());
    // Clients of their own: what they have forwarded is no share of the valid load's.
    let socket = UdpSocket::bind((Ipv4Addr::new(127, 0, 0, seed), 0))?;
    let mut idle: Vec<TcpStream> = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..64 {
            let name = match rng.random_range(0..3) {
                0 => format!("service-{}.cluster", rng.random_range(0..10_000)),
                1 => format!("{}.cluster", "x".repeat(rng.random_range(1..64))),
                _ => format!("{:x}.{:x}.cluster", rng.random::<u64>(), rng.random::<u64>()),
            };
            let mut octets = packet(&name, [A, AAAA, 33, 12, 255, 252][rng.random_range(0..6)]);
            for _ in 0..rng.random_range(0..6) {
                let at = rng.random_range(0..octets.len());
                octets[at] = rng.random();
            }
            if rng.random_range(0..4) == 0 {
                octets.truncate(rng.random_range(0..octets.len()));
            }
            if rng.random_range(0..50) == 0 {
                octets.resize(rng.random_range(1..9_000), rng.random());
            }
            // Whether it is taken is the server's matter.
            let _ = socket.send_to(&octets, server);
            sent.fetch_add(1, Ordering::Relaxed);
        }
        if let Ok(mut stream) = TcpStream::connect(server) {
            let junk: Vec<u8> = (0..rng.random_range(0..300)).map(|_| rng.random()).collect();
            let _ = stream.write_all(&junk);
            idle.push(stream);
            if idle.len() > 50 {
                idle.remove(rng.random_range(0..50));
            }
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
