//! Nanoseconds a packet, by `BPF_PROG_TEST_RUN`.
//!
//! A program that rewrites its packet finds the rewritten one at its next turn. So flows lie in a chain: what comes of a
//! packet of one flow is a packet of the next, and nothing has to be undone. Packets that begin a flow are made anew by a
//! program that goes on with the one that is measured.

use super::contender::FLOORS;
use crate::table::{Table, median};
use anyhow::Context as _;
use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{Array, HashMap, Map, MapData, ProgramArray},
    programs::{SchedClassifier, TestRun as _, TestRunOptions},
};
use mesh_ebpf::{
    Flows, OBJECT, ORDERED,
    common::{Backend, Config, Flow, FlowKey, Service, ServiceKey, V4, state, table},
};

/// A type of the maps, to aya.
#[repr(transparent)]
#[derive(Clone, Copy)]
struct Raw<T>(T);

// SAFETY: the types of the maps are plain numbers without padding.
unsafe impl<T: Copy + 'static> Pod for Raw<T> {}

const CLIENT: V4 = [10, 1, 0, 1];
const VIP: V4 = [10, 96, 0, 1];
/// The frontend of chains, beyond those that new flows use.
const PORT: u16 = 65_000;
/// Frontends of new flows, as `floors/packet.rs` has it.
const FRONTS: u16 = 1000;
/// New flows in a turn.
const TURN: u32 = 100_000;
/// Directions of flows there is room for; beyond, the oldest go.
const ROOM: u32 = 1 << 20;
/// Sets of this project's table for as many.
const SETS: u32 = table::sets(ROOM);
/// Lines of the cache, as by default.
const LINES: u32 = 1 << 14;
/// From a flow to the next: a prime that divides no number of flows here.
const STRIDE: u64 = 7919;

/// As `floors/packet.rs` has it.
#[repr(C)]
#[derive(Clone, Copy)]
struct Known {
    source_port: u16,
    destination_port: u16,
    backend: u32,
    seen: u64,
}

/// A kind of traffic.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Load {
    /// Packets of so many flows, one after the other.
    Flows(u16),
    /// Every packet begins a flow.
    New,
}

/// Who is measured.
struct Contender {
    name: &'static str,
    program: &'static str,
    ebpf: Ebpf,
    /// Who makes its packets, where each begins a flow.
    made_by: Option<(Ebpf, ProgramArray<MapData>)>,
}

fn hash<'a, K: Copy + 'static, V: Copy + 'static>(
    ebpf: &'a mut Ebpf,
    name: &str,
) -> anyhow::Result<HashMap<&'a mut MapData, Raw<K>, Raw<V>>> {
    Ok(HashMap::try_from(ebpf.map_mut(name).with_context(|| format!("no map {name}"))?)?)
}

fn set<T: Copy + 'static>(ebpf: &mut Ebpf, name: &str, value: T) -> anyhow::Result<()> {
    let map = ebpf.map_mut(name).with_context(|| format!("no map {name}"))?;
    Ok(Array::<_, Raw<T>>::try_from(map)?.set(0, Raw(value), 0)?)
}

fn key(source_port: u16) -> FlowKey<V4> {
    FlowKey {
        source: CLIENT,
        destination: VIP,
        source_port: source_port.to_be(),
        destination_port: PORT.to_be(),
        protocol: 6,
        pad: [0; 3],
    }
}

fn load(ebpf: &mut Ebpf, program: &str) -> anyhow::Result<()> {
    Ok(mesh_ebpf::load(ebpf.program_mut(program).context("no such program")?)?)
}

/// The chain of so many flows: each flow's source port becomes that of the next. Neighbours in a table are far from each
/// other in the chain, or the processor would fetch what comes next.
fn chain(count: u16) -> impl Iterator<Item = (FlowKey<V4>, u16)> {
    (0..count).map(move |number| (key(1 + number), after(number, 1, count)))
}

/// The source port that a packet of that flow has after so many turns.
fn after(number: u16, turns: u32, count: u16) -> u16 {
    let far = (u64::from(number) + u64::from(turns) * STRIDE) % u64::from(count);
    1 + u16::try_from(far).unwrap_or(0)
}

/// This project's program; `lines` of its cache.
fn ours(load_is: Load, lines: u32) -> anyhow::Result<Contender> {
    let mut loader = EbpfLoader::new();
    loader
        .map_max_entries("lines4", mesh_ebpf::lines(lines))
        .map_max_entries("services4", u32::from(FRONTS) + 2)
        .map_max_entries("flows4", SETS * table::LINES);
    let mut ebpf = loader.load(OBJECT)?;
    load(&mut ebpf, "tc_ingress")?;
    let config = Config { sets: SETS, mode: ORDERED, ..Config::default() };
    set(&mut ebpf, "config", Config { epoch: 1, hz: 1000, cached: lines - 1, ..config })?;
    let state = state::ACTIVE | state::KEEPS | state::HERE;
    let mut address = [0; 16];
    address[..4].copy_from_slice(&VIP);
    set(
        &mut ebpf,
        "backends",
        Backend { address, port: 1, state, generation: 1, weight: 1, ..Backend::default() },
    )?;
    match load_is {
        Load::New => {
            let mut services = hash::<ServiceKey<V4>, Service>(&mut ebpf, "services4")?;
            for port in 1..=FRONTS {
                let key = ServiceKey { address: VIP, port: port.to_be(), protocol: 6, pad: 0 };
                services.insert(
                    Raw(key),
                    Raw(Service { slots: 1, offset: port, ..Service::default() }),
                    0,
                )?;
            }
        }
        Load::Flows(count) => {
            let Some(Map::Array(map)) = ebpf.map("flows4") else { anyhow::bail!("no map flows4") };
            let flows = Flows::<V4>::new(map.fd())?;
            for (key, next) in chain(count) {
                let flow = Flow {
                    source: CLIENT,
                    destination: VIP,
                    source_port: next.to_be(),
                    destination_port: PORT.to_be(),
                    bits: 0,
                    backend: 0,
                    generation: 1,
                    frontend: 0,
                    seen: 0,
                };
                flows.add(&key, &flow, 0)?;
            }
        }
    }
    Contender::new("mesh-agent", "tc_ingress", ebpf, load_is)
}

fn floor(load_is: Load, name: &'static str, program: &'static str) -> anyhow::Result<Contender> {
    let mut loader = EbpfLoader::new();
    loader.map_max_entries("floor_flows", ROOM).map_max_entries("floor_fronts", u32::from(FRONTS) + 2);
    let mut ebpf = loader.load(FLOORS)?;
    load(&mut ebpf, program)?;
    match load_is {
        Load::New => {
            let mut fronts = hash::<ServiceKey<V4>, u32>(&mut ebpf, "floor_fronts")?;
            for port in 1..=FRONTS {
                let key = ServiceKey { address: VIP, port: port.to_be(), protocol: 6, pad: 0 };
                fronts.insert(Raw(key), Raw(u32::from(port)), 0)?;
            }
        }
        Load::Flows(count) => {
            let mut flows = hash::<FlowKey<V4>, Known>(&mut ebpf, "floor_flows")?;
            for (key, next) in chain(count) {
                let known =
                    Known { source_port: next.to_be(), destination_port: PORT.to_be(), backend: 1, seen: 0 };
                flows.insert(Raw(key), Raw(known), 0)?;
            }
        }
    }
    Contender::new(name, program, ebpf, load_is)
}

/// The packet that a chain begins with. The checksum is of no matter: what is wrong stays as wrong.
fn packet(load_is: Load) -> [u8; 64] {
    let mut packet = [0; 64];
    packet[12..16].copy_from_slice(&[0x08, 0x00, 0x45, 0]);
    packet[17] = 50;
    packet[22] = 64;
    packet[23] = 6;
    packet[26..30].copy_from_slice(&CLIENT);
    packet[30..34].copy_from_slice(&VIP);
    let (from, to, flags) = if load_is == Load::New { (7_u16, 1_u16, 0x02) } else { (1, PORT, 0x10) };
    packet[34..36].copy_from_slice(&from.to_be_bytes());
    packet[36..38].copy_from_slice(&to.to_be_bytes());
    packet[46] = 0x50;
    packet[47] = flags;
    packet
}

impl Contender {
    fn new(
        name: &'static str,
        program: &'static str,
        ebpf: Ebpf,
        load_is: Load,
    ) -> anyhow::Result<Contender> {
        let mut made_by = None;
        if load_is == Load::New {
            let mut maker = EbpfLoader::new().load(FLOORS)?;
            load(&mut maker, "floor_new")?;
            let next: &SchedClassifier = ebpf.program(program).context("no such program")?.try_into()?;
            let mut jump =
                ProgramArray::try_from(maker.take_map("floor_next").context("no map floor_next")?)?;
            jump.set(0, next.fd()?, 0)?;
            // The kernel empties such a map when nobody has it open any more.
            made_by = Some((maker, jump));
        }
        Ok(Contender { name, program, ebpf, made_by })
    }

    /// One turn: nanoseconds a packet.
    fn turn(&self, load_is: Load) -> anyhow::Result<f64> {
        let (ebpf, program) = match &self.made_by {
            Some((maker, _)) => (maker, "floor_new"),
            None => (&self.ebpf, self.program),
        };
        let program: &SchedClassifier = ebpf.program(program).context("no such program")?.try_into()?;
        let data = packet(load_is);
        let mut out = [0; 128];
        let mut options = TestRunOptions::new();
        (options.data_in, options.data_out) = (Some(&data[..]), Some(&mut out[..]));
        options.repeat = match load_is {
            Load::New => TURN,
            Load::Flows(count) => (u32::from(count) * 4).max(50_000) / u32::from(count) * u32::from(count),
        };
        let repeat = options.repeat;
        let done = program.test_run(options)?;
        anyhow::ensure!(done.return_value == u32::MAX, "{} answered {}", self.name, done.return_value);
        // Where the chain must have come to, or packets were not of their flows.
        let at = |at: usize| u16::from_be_bytes([out[at], out[at + 1]]);
        let (want, got) = match load_is {
            // The floor changes the source port only.
            Load::New if self.program == "floor_parse" => (0, 0),
            Load::New => (1, u16::from(at(36) > 1 && at(36) <= FRONTS + 1)),
            Load::Flows(_) if self.program == "floor_parse" => (0, 0),
            Load::Flows(count) => (after(0, repeat, count), at(34)),
        };
        anyhow::ensure!(want == got || self.program == "floor_parse", "{}: at {got}, not {want}", self.name);
        // The kernel gives the mean of all repetitions.
        Ok(done.duration.as_secs_f64() * 1e9)
    }
}

/// Measures and prints.
pub(super) fn run(rounds: usize, json: bool) -> anyhow::Result<()> {
    let mut table = Table::new(
        "ns a packet at tcx, loop included",
        &["traffic", "program", "median", "least", "of LRU only"],
    );
    for (title, load_is, lines) in [
        ("1,000 flows", Load::Flows(1000), LINES),
        ("60,000 flows", Load::Flows(60_000), LINES),
        ("60,000 flows, cached_flows: 131072", Load::Flows(60_000), LINES * 8),
        ("new flows", Load::New, LINES),
    ] {
        let contenders = [
            floor(load_is, "parse and one port", "floor_parse")?,
            floor(load_is, "LRU only", "floor_lru")?,
            ours(load_is, lines)?,
        ];
        let mut times = [(); 3].map(|()| Vec::new());
        for round in 0..=rounds * 8 {
            for (contender, times) in contenders.iter().zip(&mut times) {
                let time = contender.turn(load_is)?;
                if round > 0 {
                    times.push(time);
                }
            }
        }
        let lru = median(&times[1]);
        for (contender, times) in contenders.iter().zip(&times) {
            let least = times.iter().copied().fold(f64::INFINITY, f64::min);
            let mid = median(times);
            table.row(&[
                title.to_owned(),
                contender.name.to_owned(),
                format!("{mid:.0}"),
                format!("{least:.0}"),
                format!("{:.2}", mid / lru),
            ]);
        }
    }
    table.print(json);
    Ok(())
}
