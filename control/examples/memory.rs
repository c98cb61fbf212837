//! How much memory one node needs for what ten others say, and how long an input takes then.
//!
//! `cargo run --release -p mesh-control --example memory [SERVICES]` starts itself again as the ten others, a process
//! of its own, so that the figures are the receiver's only. They talk over a pipe, in frames as on a connection.
//! Each service (10,000 unless told) has a declaration, a virtual address and ten endpoints: twelve records.

use mesh_control::{
    LocalChange, Now,
    model::{Endpoint, Name, NodeInfo, Origin, Protocol, ServiceKey, ServicePort, ServiceSpec},
    node::{ExchangeId, Input, Node, NodeConfig, Output, Target},
};
use std::{
    error::Error,
    io::{self, ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr},
    process::{Command, Stdio},
    sync::Arc,
    time::Instant,
};

type Failure = Box<dyn Error>;

const OTHERS: usize = 10;
const ACCEPT: u8 = 0;
const FRAME: u8 = 1;
const CLOSE: u8 = 2;
/// Ends the others' answer to one message.
const END: u8 = 3;

struct Message {
    op: u8,
    node: u8,
    id: u64,
    body: Vec<u8>,
}

impl Message {
    fn write(&self, to: &mut impl Write) -> io::Result<()> {
        to.write_all(&[self.op, self.node])?;
        to.write_all(&self.id.to_be_bytes())?;
        to.write_all(&(self.body.len() as u64).to_be_bytes())?;
        to.write_all(&self.body)
    }

    /// The next message; absent at the end.
    fn read(from: &mut impl Read) -> io::Result<Option<Message>> {
        let (mut head, mut word) = ([0; 2], [0; 8]);
        match from.read_exact(&mut head) {
            Err(e) if e.kind() == ErrorKind::UnexpectedEof => return Ok(None),
            other => other?,
        }
        from.read_exact(&mut word)?;
        let id = u64::from_be_bytes(word);
        from.read_exact(&mut word)?;
        let mut body = Vec::new();
        from.take(u64::from_be_bytes(word)).read_to_end(&mut body)?;
        Ok(Some(Message { op: head[0], node: head[1], id, body }))
    }
}

fn at(mono: u64) -> Now {
    Now { mono, wall: 1_790_000_000_000 + mono }
}

fn node(i: u8, seeds: Vec<String>) -> Result<Node, Failure> {
    let config = NodeConfig {
        name: Name::new(&format!("n{i}"))?,
        addr: SocketAddr::from(([10, 0, 0, i], 7946)),
        info: NodeInfo::default(),
        boot: at(0).wall,
        seeds,
        vip_cidrs: vec!["10.64.0.0/10".parse()?],
        overlay: vec![],
        dynamic_ports: "30000-32767".parse()?,
        seed: u64::from(i),
        sender: [i; 16],
    };
    Ok(Node::new(config, &["AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=".into()], at(0))?)
}

/// The ten others: each declares its share of the services and has an endpoint of every one.
fn others(services: usize) -> Result<(), Failure> {
    let port = ServicePort {
        name: None,
        protocol: Protocol::Tcp,
        port: "80".parse()?,
        target: 8080,
        publish: None,
        proxy_protocol: false,
    };
    let spec = Arc::new(ServiceSpec { ports: vec![port], ..ServiceSpec::default() });
    let mut nodes = Vec::new();
    for i in 1..=u8::try_from(OTHERS)? {
        let mut node = node(i, vec![])?;
        for s in 0..services {
            let key = ServiceKey::in_default(&format!("service-{s}"))?;
            let [.., high, low] = u32::try_from(s)?.to_be_bytes();
            let instance = Name::new(&format!("service-{s}-{i}"))?;
            let endpoints = vec![Endpoint::new(instance, IpAddr::from([10, i, high, low]).into())];
            let mut changes = vec![LocalChange::PutEndpoints { key: key.clone(), endpoints }];
            if s % OTHERS == usize::from(i) - 1 {
                let (origin, spec) = (Origin::Node(Name::new(&format!("n{i}"))?), Arc::clone(&spec));
                changes.push(LocalChange::PutService { origin, key, spec });
            }
            node.submit(changes, at(0))?;
        }
        nodes.push(node);
    }
    let (mut input, mut output) = (io::stdin().lock(), io::stdout().lock());
    while let Some(Message { op, node: i, id, body }) = Message::read(&mut input)? {
        let Some(node) = nodes.get_mut(usize::from(i).wrapping_sub(1)) else {
            return Err("no such node".into());
        };
        let id = ExchangeId(ExchangeId::ACCEPTED + id);
        let mut todo = node.handle(
            match op {
                ACCEPT => Input::Accepted(id),
                FRAME => Input::Frame(id, body),
                _ => Input::Closed(id),
            },
            at(0),
        );
        while !todo.is_empty() {
            for out in std::mem::take(&mut todo) {
                let (op, id, body) = match out {
                    Output::Frame(id, frame) => (FRAME, id, frame),
                    Output::Close(id) => (CLOSE, id, vec![]),
                    // They only answer.
                    Output::Open(id, _) => {
                        todo.extend(node.handle(Input::Closed(id), at(0)));
                        continue;
                    }
                    Output::Datagram(..) => continue,
                };
                let id = id.0.wrapping_sub(ExchangeId::ACCEPTED);
                Message { op, node: i, id, body }.write(&mut output)?;
            }
        }
        Message { op: END, node: i, id: 0, body: vec![] }.write(&mut output)?;
        output.flush()?;
    }
    Ok(())
}

/// Resident memory of this process in MiB: now, and at its peak.
fn memory() -> Result<(f64, f64), Failure> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let of = |field: &str| -> Result<f64, Failure> {
        let line = status.lines().find_map(|l| l.strip_prefix(field)).ok_or("no such field")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
    };
    Ok((of("VmRSS:")?, of("VmHWM:")?))
}

fn receiver(services: usize) -> Result<(), Failure> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(["others", &services.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let (Some(mut to), Some(from)) = (child.stdin.take(), child.stdout.take()) else {
        return Err("no pipe".into());
    };
    let mut from = io::BufReader::new(from);
    let mut me = node(100, (1..=OTHERS).map(|i| format!("{i}:1")).collect())?;
    let (before, _) = memory()?;
    let mut peers = std::collections::BTreeMap::new();
    let (mut now, mut busy, mut steps) = (0, 0.0, 0u32);
    while me.stats().records < 12 * services + OTHERS + 1 {
        if now > 600_000 {
            return Err(format!("never complete: {:?}", me.stats()).into());
        }
        now += 50;
        let mut inputs: std::collections::VecDeque<Input> = [Input::Tick].into();
        while let Some(input) = inputs.pop_front() {
            let start = Instant::now();
            let outputs = me.handle(input, at(now));
            busy += start.elapsed().as_secs_f64();
            steps += 1;
            for out in outputs {
                let (op, id, body) = match out {
                    Output::Open(id, target) => {
                        let i = match target {
                            Target::Seed(text) => text.trim_end_matches(":1").parse()?,
                            Target::Address(SocketAddr::V4(a)) => a.ip().octets()[3],
                            Target::Address(_) => return Err("no such node".into()),
                        };
                        peers.insert(id.0, i);
                        inputs.push_back(Input::Opened(id, 0));
                        (ACCEPT, id, vec![])
                    }
                    Output::Frame(id, frame) => (FRAME, id, frame),
                    Output::Close(id) => (CLOSE, id, vec![]),
                    Output::Datagram(..) => continue,
                };
                let Some(&peer) = peers.get(&id.0) else { continue };
                Message { op, node: peer, id: id.0, body }.write(&mut to)?;
                to.flush()?;
                while let Some(answer) = Message::read(&mut from)?.filter(|m| m.op != END) {
                    let id = ExchangeId(answer.id);
                    inputs.push_back(match answer.op {
                        FRAME => Input::Frame(id, answer.body),
                        _ => Input::Closed(id),
                    });
                }
            }
        }
    }
    drop(to);
    child.wait()?;
    let (after, peak) = memory()?;
    let stats = me.stats();
    println!(
        "{} records of {OTHERS} nodes, {} services in the view",
        stats.records,
        me.snapshot().services.len()
    );
    println!("resident: {before:.1} MiB empty, {after:.1} MiB full, {peak:.1} MiB at the peak");
    println!("taken in: {steps} inputs in {busy:.2} s");
    let start = Instant::now();
    for _ in 0..100_000 {
        me.handle(Input::Datagram(([10, 0, 0, 1], 7946).into(), vec![1; 300]), at(now));
    }
    println!("a datagram that is refused: {:.2} µs", start.elapsed().as_secs_f64() * 10.0);
    let start = Instant::now();
    for i in 0..1_000 {
        let key = ServiceKey::in_default(&format!("service-{i}"))?;
        let endpoints = vec![Endpoint::new(Name::new("own")?, IpAddr::from([10, 100, 0, 1]).into())];
        me.submit(vec![LocalChange::PutEndpoints { key, endpoints }], at(now))?;
    }
    println!("one endpoint more: {:.1} µs", start.elapsed().as_secs_f64() * 1_000.0);
    Ok(())
}

fn main() -> Result<(), Failure> {
    let mut args = std::env::args().skip(1);
    match (args.next().as_deref(), args.next()) {
        (Some("others"), Some(services)) => others(services.parse()?),
        (services, _) => receiver(services.unwrap_or("10000").parse()?),
    }
}
