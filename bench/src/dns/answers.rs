//! Questions answered a second and processor time for each, of names that the server has itself.

use super::{
    Options,
    load::{self, Answered},
    ours::{self, Plan},
    peers::{self, Server, Start},
    questions::Questions,
    turns::Turns,
    zone::Zone,
};
use crate::table::Table;
use std::time::Duration;

const SERVERS: [(&str, Start); 7] = [
    ("echo (floor)", ours::echo),
    ("mesh-agent", ours::ours),
    ("mesh-agent, one by one", ours::apart),
    ("knot", peers::knot),
    ("unbound", peers::unbound),
    ("dnsmasq", peers::dnsmasq),
    ("bind", peers::bind),
];

/// All servers with `names` names.
pub(super) fn run(options: &Options, names: usize, json: bool) -> anyhow::Result<()> {
    let zone = Zone::new(names);
    let kinds: [(&str, Questions); 3] =
        [("A", zone.hits()), ("NXDOMAIN", zone.absent()), ("AAAA, NODATA", zone.no_data())];
    let echoed = zone.hits().to_echo();
    let folder = tempfile::tempdir()?;
    let mut running = Vec::new();
    for (name, start) in SERVERS {
        let own = folder.path().join(name.replace([' ', ','], "-"));
        std::fs::create_dir(&own)?;
        match start(&zone, &own) {
            Ok(server) => running.push(server),
            Err(error) if name != "mesh-agent" => eprintln!("SKIPPED: {name}: {error:#}"),
            Err(error) => return Err(error),
        }
    }
    let mut turns: Vec<[Turns; 3]> = running.iter().map(|_| Default::default()).collect();
    for round in 0..options.rounds {
        eprintln!("dns, {names} names: round {} of {}", round + 1, options.rounds);
        for (server, turns) in running.iter().zip(&mut turns) {
            for ((_, questions), turns) in kinds.iter().zip(turns) {
                let asked = if server.name.starts_with("echo") { &echoed } else { questions };
                turns.take(server, || load::run(server.address, asked, options.window, options.time()))?;
            }
        }
    }
    let mut table = Table::new(
        &format!("DNS over UDP, {names} names, one core: answers a second and processor time"),
        &[
            "server",
            "question",
            "q/s",
            "of the floor",
            "ours is",
            "CPU µs",
            "floor/it by CPU",
            "it/ours by CPU",
            "trouble",
        ],
    );
    let ours = running.iter().position(|s| s.name == "mesh-agent").unwrap_or(0);
    for (i, server) in running.iter().enumerate() {
        for (k, (kind, _)) in kinds.iter().enumerate() {
            if k > 0 && i == 0 {
                continue;
            }
            let (it, floor, own) = (&turns[i][k], &turns[0][0], &turns[ours][k]);
            table.row(&[
                server.name.to_owned(),
                (*kind).to_owned(),
                format!("{:.0}", it.rate()),
                format!("{:.2}", it.rate() / floor.rate()),
                format!("{:.2} ×", own.rate() / it.rate()),
                format!("{:.2}", it.cost()),
                format!("{:.2}", floor.cost() / it.cost()),
                format!("{:.2}", it.cost() / own.cost()),
                it.trouble(),
            ]);
        }
    }
    table.print(json);
    let empty = ours::ours(&Zone::new(1), folder.path())?;
    let (with, without) = (running[ours].memory("VmRSS")?, empty.memory("VmRSS")?);
    let mut table = Table::new("DNS: resident memory", &["names", "MiB", "for the names, MiB"]);
    let mib = |bytes: u64| format!("{:.1}", bytes as f64 / f64::from(1 << 20));
    table.row(&[names.to_string(), mib(with), mib(with.saturating_sub(without))]);
    table.print(json);
    Ok(())
}

/// One and two workers, not pinned. On two cores the load shares them, so processor time tells and the rate does not.
pub(super) fn second_core(options: &Options, json: bool) -> anyhow::Result<()> {
    let zone = Zone::new(10_000);
    let servers = [1, 2].map(|workers| ours::planned(&zone, &Plan { workers, ..Plan::default() }));
    let [one, two] = servers;
    let (servers, questions) = ([one?, two?], zone.hits());
    let mut turns = [Turns::default(), Turns::default()];
    for _ in 0..options.rounds {
        for (server, turns) in servers.iter().zip(&mut turns) {
            turns.take(server, || several(server, &questions, options))?;
        }
    }
    let mut table = Table::new("DNS over UDP: a second worker", &["workers", "q/s", "CPU µs", "trouble"]);
    for (workers, it) in ["1", "2"].into_iter().zip(&turns) {
        let cells = [workers.into(), format!("{:.0}", it.rate()), format!("{:.2}", it.cost()), it.trouble()];
        table.row(&cells);
    }
    table.print(json);
    Ok(())
}

/// Four clients at once, so that the kernel has ports to spread over the workers.
fn several(server: &Server, questions: &Questions, options: &Options) -> anyhow::Result<Answered> {
    let one = || load::run(server.address, questions, (options.window / 4).max(64), options.time());
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4).map(|_| scope.spawn(one)).collect();
        let mut all = Answered { time: Duration::ZERO, ..Answered::default() };
        for client in clients {
            let part = client.join().map_err(|_| anyhow::anyhow!("a client panicked"))??;
            all.add(&part);
            all.time = all.time.max(part.time);
        }
        Ok(all)
    })
}
