//! Names of others: out of the cache, and with an upstream that is dead.

use super::{
    Options, load,
    ours::{self, Plan},
    peers::{self, Server},
    questions::{A, Questions, Want, packet},
    turns::against_ours,
    zone::Zone,
};
use crate::table::Table;
use anyhow::ensure;
use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    path::Path,
    time::{Duration, Instant},
};

/// Names that are asked over and over: all fit every cache.
const NAMES: usize = 1_000;
/// Names asked once each while an upstream is dead.
const COLD: usize = 500;

/// Both parts.
pub(super) fn run(options: &Options, json: bool) -> anyhow::Result<()> {
    let zone = Zone::new(NAMES);
    let folder = tempfile::tempdir()?;
    // The upstream answers a zone that is not ours, with a TTL that outlives the run.
    let upstream = peers::knot_upstream(&zone, &sub(folder.path(), "upstream")?)?;
    cached(options, &zone, upstream.address, folder.path(), json)?;
    dead(upstream.address, json)
}

fn sub(folder: &Path, name: &str) -> anyhow::Result<std::path::PathBuf> {
    let path = folder.join(name);
    std::fs::create_dir(&path)?;
    Ok(path)
}

/// Questions whose answers all are in the cache.
fn cached(
    options: &Options,
    zone: &Zone,
    upstream: SocketAddr,
    folder: &Path,
    json: bool,
) -> anyhow::Result<()> {
    let questions = Questions::new((0..NAMES).map(|i| zone.foreign(i)), A, Want::Answer);
    let own =
        ours::planned(&Zone::new(1), &Plan { workers: 1, upstreams: vec![upstream], ..Plan::default() })?;
    let servers = [
        own,
        peers::dnsmasq_forward(zone, &[upstream])?,
        peers::unbound_forward(zone, upstream, &sub(folder, "unbound")?)?,
    ];
    for server in &servers {
        // Fills the cache, slowly enough for each.
        let filled = load::run(server.address, &questions, 64, Duration::from_millis(500))?;
        ensure!(filled.replies > NAMES as u64, "{} answered {} of {NAMES}", server.name, filled.replies);
    }
    let title = "DNS over UDP, names of others out of the cache, one core";
    against_ours(title, &servers, options.rounds, json, |server| {
        load::run(server.address, &questions, options.window, options.time())
    })
}

/// Questions of names that no cache has, the first of two upstreams answering nothing.
fn dead(upstream: SocketAddr, json: bool) -> anyhow::Result<()> {
    let zone = Zone::new(NAMES);
    let silent = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    let nobody = silent.local_addr()?;
    let plan = Plan { workers: 1, upstreams: vec![nobody, upstream], ..Plan::default() };
    let servers = [ours::planned(&Zone::new(1), &plan)?, peers::dnsmasq_forward(&zone, &[nobody, upstream])?];
    let mut table = Table::new(
        "DNS over UDP, names of others asked once each, the first of two upstreams dead",
        &["server", "p50 ms", "p99 ms", "worst ms", "unanswered"],
    );
    for server in &servers {
        let (mut took, missed) = one_by_one(server, &zone)?;
        took.sort_unstable();
        let at = |share: usize| took.get(took.len() * share / 100).copied().unwrap_or_default();
        let millis = |time: Duration| format!("{:.1}", time.as_secs_f64() * 1e3);
        let worst = took.last().copied().unwrap_or_default();
        table.row(&[
            server.name.to_owned(),
            millis(at(50)),
            millis(at(99)),
            millis(worst),
            missed.to_string(),
        ]);
    }
    table.print(json);
    drop(silent);
    Ok(())
}

fn one_by_one(server: &Server, zone: &Zone) -> anyhow::Result<(Vec<Duration>, usize)> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.connect(server.address)?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    let (mut took, mut missed, mut reply) = (Vec::new(), 0, [0; 1_500]);
    for i in 0..COLD {
        let mut question = packet(&zone.foreign(i), A);
        let id = u16::try_from(i)?.to_be_bytes();
        question[..2].copy_from_slice(&id);
        let begun = Instant::now();
        socket.send(&question)?;
        loop {
            match socket.recv(&mut reply) {
                Ok(_) if reply[..2] == id => {
                    took.push(begun.elapsed());
                    break;
                }
                Ok(_) => {}
                Err(_) => {
                    missed += 1;
                    took.push(begun.elapsed());
                    break;
                }
            }
        }
    }
    Ok((took, missed))
}
