//! Nanoseconds a packet, by `BPF_PROG_TEST_RUN`.
//!
//! Packets do not wait for each other, as they do not on a wire: before each turn of the program that is measured another one
//! makes the packet that is in the kernel's memory one of some flow, whatever became of it, and goes on with the one that is
//! measured. What that costs is in every figure, and the floor is little else.

use super::{
    contender::FLOORS,
    maps::{Raw, fill, mac, set},
};
use crate::{
    cores,
    space::Space,
    table::{Table, median},
};
use anyhow::Context as _;
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, Map, MapData, ProgramArray},
    programs::{Program, TestRun as _, TestRunOptions},
};
use mesh_agent::sys::clock;
use mesh_ebpf::{
    Flows, OBJECT, ORDERED,
    common::{
        Backend, Config, Flow, FlowKey, Service, ServiceKey, V4, state, table,
        xdp::{Device, bit},
    },
};

/// The node and its neighbour, who is the way to every backend.
const NODE: [u8; 6] = [2, 0, 0, 0, 0, 1];
const NEIGHBOUR: [u8; 6] = [2, 0, 0, 0, 0, 2];
const DEVICE: u32 = 11;
/// As `floors/packet.rs` has them: of packets of flows that are known, and how many ports new ones dial.
const VIP: V4 = [10, 96, 0, 1];
const PORT: u16 = 65_000;
const FRONTS: u16 = 1000;
const BACKEND: (V4, u16) = ([10, 9, 0, 1], 8080);
/// Packets of a turn, a multiple of the number of flows: of many so many that it takes longer than a flow stays at hand; and of one
/// in which each begins a flow: the first fills the tables.
const FEW_TURN: u32 = 1 << 21;
const MANY_TURN: u32 = 1 << 23;
const NEW_TURN: u32 = 1 << 20;
/// Directions of flows there is room for; beyond, the oldest go.
const ROOM: u32 = 1 << 20;
/// Sets of this project's table for as many.
const SETS: u32 = table::sets(ROOM);
/// Lines of the cache, as by default.
const LINES: u32 = 1 << 14;
/// `XDP_TX`.
const TX: u32 = 3;

/// As `floors/packet.rs` has them.
#[repr(C)]
#[derive(Clone, Copy)]
struct Known {
    source_port: u16,
    destination_port: u16,
    backend: u32,
    seen: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Made {
    count: u32,
    flows: u32,
    link: [u32; 3],
    pad: u32,
}

/// Where the programs are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Hook {
    Xdp,
    Tc,
}

/// A kind of traffic.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Load {
    /// Packets of so many flows, a power of two.
    Flows(u32),
    /// Every packet begins a flow.
    New,
}

/// What is measured in one table row each.
struct Case {
    hook: Hook,
    load: Load,
    /// Of this project's cache.
    lines: u32,
    title: &'static str,
}

const FEW: Load = Load::Flows(1 << 10);
const MANY: Load = Load::Flows(1 << 16);
const CASES: [Case; 7] = {
    const fn case(hook: Hook, load: Load, lines: u32, title: &'static str) -> Case {
        Case { hook, load, lines, title }
    }
    [
        case(Hook::Xdp, FEW, LINES, "XDP, 1,024 flows"),
        case(Hook::Xdp, MANY, LINES, "XDP, 65,536 flows"),
        case(Hook::Xdp, MANY, LINES * 8, "XDP, 65,536 flows, cached_flows: 131072"),
        case(Hook::Tc, FEW, LINES, "tcx, 1,024 flows"),
        case(Hook::Tc, MANY, LINES, "tcx, 65,536 flows"),
        case(Hook::Tc, MANY, LINES * 8, "tcx, 65,536 flows, cached_flows: 131072"),
        case(Hook::Tc, Load::New, LINES, "tcx, new flows"),
    ]
};

/// Who is measured.
struct Contender {
    name: &'static str,
    _ebpf: Ebpf,
    /// Who makes its packets. The kernel empties the second when nobody has it open any more.
    maker: (Ebpf, ProgramArray<MapData>),
    times: Vec<f64>,
}

fn load<'a>(ebpf: &'a mut Ebpf, program: &str) -> anyhow::Result<&'a Program> {
    let program = ebpf.program_mut(program).with_context(|| format!("no program {program}"))?;
    mesh_ebpf::load(program)?;
    Ok(program)
}

/// The keys of so many flows, as `floors/packet.rs` makes their packets.
fn keys(count: u32) -> impl Iterator<Item = FlowKey<V4>> {
    (0..count).map(|flow| FlowKey {
        source: (0x0a00_0000 | flow >> 14).to_be_bytes(),
        destination: VIP,
        source_port: u16::try_from(1024 + (flow & 0x3fff)).unwrap_or(0).to_be(),
        destination_port: PORT.to_be(),
        protocol: 6,
        pad: [0; 3],
    })
}

/// The frontends that new flows dial.
fn fronts() -> impl Iterator<Item = (ServiceKey<V4>, u16)> {
    (1..=FRONTS).map(|port| (ServiceKey { address: VIP, port: port.to_be(), protocol: 6, pad: 0 }, port))
}

impl Hook {
    /// The name of a floor's program here.
    fn floor(self, name: &str) -> String {
        let hook = if self == Hook::Xdp { "xdp" } else { "tc" };
        format!("floor_{hook}_{name}")
    }
}

/// This project's program.
fn ours(case: &Case) -> anyhow::Result<Contender> {
    let mut loader = EbpfLoader::new();
    loader
        .map_max_entries("lines4", mesh_ebpf::lines(case.lines))
        .map_max_entries("services4", u32::from(FRONTS) + 2)
        .map_max_entries("xdp_devices", 16)
        .map_max_entries("flows4", SETS * table::LINES);
    let mut ebpf = loader.load(OBJECT)?;
    let hz = u32::try_from(1_000_000_000 / clock::coarse().1)?;
    let config = Config { sets: SETS, mode: ORDERED, node4: [10, 1, 0, 1], ..Config::default() };
    set(&mut ebpf, "config", Config { epoch: 1, hz, cached: case.lines - 1, ..config })?;
    // At tc the program is asked for no route: others are not, either.
    let here = if case.hook == Hook::Tc { state::HERE } else { 0 };
    let state = state::ACTIVE | state::KEEPS | here;
    let mut address = [0; 16];
    address[..4].copy_from_slice(&BACKEND.0);
    let backend = Backend { address, port: 1, state, generation: 1, weight: 1, ..Backend::default() };
    set(&mut ebpf, "backends", backend)?;
    let device = Device { mac: NODE, bits: bit::SENDS | bit::RETURNS };
    fill(&mut ebpf, "xdp_devices", [(DEVICE, device)])?;
    match case.load {
        Load::New => {
            let service = |offset| Service { slots: 1, offset, ..Service::default() };
            fill(&mut ebpf, "services4", fronts().map(|(key, port)| (key, service(port))))?;
        }
        Load::Flows(count) => {
            let Some(Map::Array(map)) = ebpf.map("flows4") else { anyhow::bail!("no map flows4") };
            let flows = Flows::<V4>::new(map.fd())?;
            for key in keys(count) {
                let flow = Flow {
                    source: key.source,
                    destination: BACKEND.0,
                    source_port: key.source_port,
                    destination_port: BACKEND.1.to_be(),
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
    let program = if case.hook == Hook::Xdp { "xdp_ingress" } else { "tc_ingress" };
    Contender::new("mesh-agent", program, ebpf, case)
}

fn floor(case: &Case, name: &'static str, program: &str) -> anyhow::Result<Contender> {
    let mut loader = EbpfLoader::new();
    loader.map_max_entries("floor_flows", ROOM).map_max_entries("floor_fronts", u32::from(FRONTS) + 2);
    let mut ebpf = loader.load(FLOORS)?;
    match case.load {
        Load::New => {
            fill(&mut ebpf, "floor_fronts", fronts().map(|(key, port)| (key, u32::from(port))))?;
        }
        Load::Flows(count) => {
            let known = |key: FlowKey<V4>| {
                let destination_port = BACKEND.1.to_be();
                (key, Known { source_port: key.source_port, destination_port, backend: 1, seen: 0 })
            };
            fill(&mut ebpf, "floor_flows", keys(count).map(known))?;
        }
    }
    Contender::new(name, &case.hook.floor(program), ebpf, case)
}

/// The packet that others are made of.
fn packet(load_is: Load) -> [u8; 64] {
    let mut packet = [0; 64];
    packet[12..16].copy_from_slice(&[0x08, 0x00, 0x45, 0]);
    packet[17] = 50;
    packet[46] = 0x50;
    packet[47] = if load_is == Load::New { 0x02 } else { 0x10 };
    packet
}

impl Contender {
    fn new(name: &'static str, program: &str, mut ebpf: Ebpf, case: &Case) -> anyhow::Result<Contender> {
        let mut maker = EbpfLoader::new().load(FLOORS)?;
        load(&mut maker, &case.hook.floor("flow"))?;
        let word = |at: usize| {
            let link = [NODE, NEIGHBOUR].concat();
            u32::from_ne_bytes([link[at], link[at + 1], link[at + 2], link[at + 3]])
        };
        let flows = match case.load {
            Load::Flows(count) => count - 1,
            Load::New => u32::MAX,
        };
        let made = Made { count: 0, flows, link: [word(0), word(4), word(8)], pad: 0 };
        set(&mut maker, "floor_maker", made)?;
        let map = maker.take_map("floor_next").context("no map floor_next")?;
        let mut next = ProgramArray::try_from(map)?;
        let fd = match load(&mut ebpf, program)? {
            Program::Xdp(program) => program.fd()?,
            Program::SchedClassifier(program) => program.fd()?,
            _ => anyhow::bail!("{program} is of another kind"),
        };
        next.set(0, fd, 0)?;
        Ok(Contender { name, _ebpf: ebpf, maker: (maker, next), times: Vec::new() })
    }

    /// One turn: nanoseconds a packet.
    fn turn(&self, case: &Case) -> anyhow::Result<f64> {
        let data = packet(case.load);
        let mut out = [0; 128];
        // `struct xdp_md`: `data_end`, `ingress_ifindex`.
        let mut context = [0; 24];
        context[4..8].copy_from_slice(&64_u32.to_ne_bytes());
        context[12..16].copy_from_slice(&DEVICE.to_ne_bytes());
        let mut options = TestRunOptions::new();
        (options.data_in, options.data_out) = (Some(&data[..]), Some(&mut out[..]));
        options.repeat = match case.load {
            FEW => FEW_TURN,
            Load::Flows(_) => MANY_TURN,
            Load::New => NEW_TURN,
        };
        let name = case.hook.floor("flow");
        let (done, verdict) = match self.maker.0.program(&name).context("no such program")? {
            Program::Xdp(program) => {
                options.ctx_in = Some(&context[..]);
                (program.test_run(options)?, TX)
            }
            Program::SchedClassifier(program) => (program.test_run(options)?, u32::MAX),
            _ => anyhow::bail!("{name} is of another kind"),
        };
        let Self { name, .. } = self;
        anyhow::ensure!(done.return_value == verdict, "{name} answered {}", done.return_value);
        let port = u16::from_be_bytes([out[36], out[37]]);
        let map = self.maker.0.map("floor_maker").context("no map floor_maker")?;
        let Raw(made) = Array::<_, Raw<Made>>::try_from(map)?.get(&0, 0)?;
        let right = match case.load {
            _ if *name == PARSE => true,
            // Its backend has the port after the one that was dialled.
            Load::New => u32::from(port) == 2 + made.count % u32::from(FRONTS),
            Load::Flows(_) => port == BACKEND.1,
        };
        anyhow::ensure!(right, "{name}: to port {port}");
        // The kernel gives the mean of all repetitions.
        Ok(done.duration.as_secs_f64() * 1e9)
    }
}

const PARSE: &str = "parses, changes a port";

/// A node with one device, by which all goes.
fn node() -> anyhow::Result<Space> {
    let node = Space::router()?;
    node.ip(&format!(
        "link add r0 index {DEVICE} address {} type veth peer name g0\nlink set r0 up\nlink set g0 up\n\
         addr add 10.1.0.1/24 dev r0\nneigh add 10.1.0.2 lladdr {} nud permanent dev r0\n\
         route add 10.9.0.0/16 via 10.1.0.2\n",
        mac(NODE),
        mac(NEIGHBOUR)
    ))?;
    Ok(node)
}

/// Measures one kind of traffic at one hook, everybody in turn.
fn case(case: &Case, rounds: usize, table: &mut Table) -> anyhow::Result<()> {
    cores::keep_to(0..1)?;
    let mut contenders =
        [floor(case, PARSE, "parse")?, floor(case, "an LRU for each packet", "lru")?, ours(case)?];
    for round in 0..=rounds {
        for contender in &mut contenders {
            let time = contender.turn(case)?;
            if round > 0 {
                contender.times.push(time);
            }
        }
    }
    let lru = median(&contenders[1].times);
    for Contender { name, times, .. } in &contenders {
        let least = times.iter().copied().fold(f64::INFINITY, f64::min);
        let mid = median(times);
        table.row(&[
            case.title.to_owned(),
            (*name).to_owned(),
            format!("{mid:.0}"),
            format!("{least:.0}"),
            format!("{:.2}", mid / lru),
        ]);
    }
    Ok(())
}

/// Measures and prints.
pub(super) fn run(rounds: usize, json: bool) -> anyhow::Result<()> {
    let mut table = Table::new(
        "ns a packet, with what makes it",
        &["where, traffic", "program", "median", "least", "of the LRU's"],
    );
    let node = node()?;
    for one in &CASES {
        node.inside(|| case(one, rounds, &mut table))??;
    }
    table.print(json);
    Ok(())
}
