//! Questions over TCP, many on each connection.

use super::{Options, load::Answered, ours, peers, questions::Questions, turns::against_ours, zone::Zone};
use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

/// Connections at once.
const CONNECTIONS: usize = 8;
/// Questions outstanding on each.
const PIPELINED: usize = 16;

/// Ours, Knot, Unbound and BIND in turn.
pub(super) fn run(options: &Options, json: bool) -> anyhow::Result<()> {
    let (zone, folder) = (Zone::new(10_000), tempfile::tempdir()?);
    let mut servers = vec![ours::ours(&zone, folder.path())?];
    let others: [(&str, peers::Start); 3] =
        [("knot", peers::knot), ("unbound", peers::unbound), ("bind", peers::bind)];
    for (name, start) in others {
        let own = folder.path().join(name);
        std::fs::create_dir(&own)?;
        match start(&zone, &own) {
            Ok(server) => servers.push(server),
            Err(error) => eprintln!("SKIPPED: {name}: {error:#}"),
        }
    }
    let questions = zone.hits();
    let title = "DNS over TCP, 10,000 names, 8 connections with 16 questions each, one core";
    against_ours(title, &servers, options.rounds, json, |server| {
        ask(server.address, &questions, options.time())
    })
}

/// All connections from one thread, in turn: each writes a batch and reads its replies.
pub(super) fn ask(server: SocketAddr, questions: &Questions, time: Duration) -> anyhow::Result<Answered> {
    let open = |_| -> anyhow::Result<TcpStream> {
        let stream = TcpStream::connect(server)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        Ok(stream)
    };
    let mut streams = (0..CONNECTIONS).map(open).collect::<Result<Vec<_>, _>>()?;
    let (mut answered, start, mut next) = (Answered::default(), Instant::now(), 0);
    let mut buffer = Vec::new();
    while start.elapsed() < time {
        for stream in &mut streams {
            buffer.clear();
            for _ in 0..PIPELINED {
                let packet = questions.packet(next);
                buffer.extend_from_slice(&u16::try_from(packet.len())?.to_be_bytes());
                buffer.extend_from_slice(packet);
                next += 1;
            }
            stream.write_all(&buffer)?;
        }
        for stream in &mut streams {
            // Else whoever sends replies one by one waits for a delayed acknowledgement.
            socket2::SockRef::from(&*stream).set_tcp_quickack(true)?;
            // Replies may come in any order: they are counted by their lengths.
            let (mut seen, mut at) = (0, 0);
            buffer.clear();
            while seen < PIPELINED {
                let mut chunk = [0; 16_384];
                let read = stream.read(&mut chunk)?;
                anyhow::ensure!(read > 0, "{server} closed a connection");
                buffer.extend_from_slice(&chunk[..read]);
                while let Some([high, low]) = buffer.get(at..at + 2) {
                    let length = usize::from(u16::from_be_bytes([*high, *low]));
                    let Some(reply) = buffer.get(at + 2..at + 2 + length) else { break };
                    anyhow::ensure!(reply.len() >= 12, "{server} sent a message of {} octets", reply.len());
                    answered.judge(questions, reply);
                    at += 2 + length;
                    seen += 1;
                }
            }
        }
    }
    answered.time = start.elapsed();
    Ok(answered)
}
