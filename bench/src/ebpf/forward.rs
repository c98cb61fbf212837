//! Packets a second through a node, in and out by the same device, as far as one processor goes.
//!
//! ```text
//!   generator g0 ══ veth ══ r0 node      datagrams of 1,000 flows; what comes back is counted at g0, and dropped
//! ```
//! The generator makes frames in the kernel (`BPF_F_TEST_XDP_LIVE_FRAMES`), so most of a turn is the node's: but making
//! and counting a frame is in every figure.

use super::{
    contender::FLOORS,
    maps::{fill, mac, set},
};
use crate::{
    agent::pause,
    cores,
    space::Space,
    table::{Table, median},
};
use anyhow::{Context as _, ensure};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, PerCpuArray},
    programs::{SchedClassifier, TcAttachType, TestRun as _, TestRunAttrs, TestRunOptions, Xdp, XdpMode},
};
use mesh_agent::sys::{clock, ethtool};
use mesh_ebpf::{
    OBJECT, ORDERED,
    common::{
        Backend, Config, Service, ServiceKey, V4, state, table,
        xdp::{Device, bit},
    },
};
use std::time::{Duration, Instant};

const GENERATOR: [u8; 6] = [2, 0, 0, 0, 0, 2];
const NODE: [u8; 6] = [2, 0, 0, 0, 0, 1];
const CLIENT: V4 = [10, 1, 0, 2];
const VIP: (V4, u16) = ([10, 96, 0, 1], 80);
const BACKEND: (V4, u16) = ([10, 9, 0, 1], 8080);
/// Indices of the two ends.
const G0: u32 = 10;
const R0: u32 = 11;
/// Frames of a turn, and how many the kernel makes at once. A turn ends with one of the kernel's ticks, 4 ms of the 200
/// and more that it takes.
const FRAMES: u32 = 500_000;
const BATCH: u32 = 64;
/// Turns of each in a round.
const TURNS: usize = 3;
/// As many lines as the agent's cache has.
const LINES: u32 = 1 << 14;
/// Sets of the table of flows.
const SETS: u32 = 1 << 13;

/// What the node does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Count,
    Reflect,
    Plain,
    Nft,
    Tcx,
    Driver,
}

const WAYS: [(Way, &str); 6] = [
    (Way::Count, "counts, drops"),
    (Way::Reflect, "XDP_TX alone"),
    (Way::Driver, "mesh-agent at XDP"),
    (Way::Plain, "plain forwarding"),
    (Way::Tcx, "mesh-agent at tcx"),
    (Way::Nft, "nft DNAT"),
];

/// A node, its generator, and what it has done.
struct Lane {
    way: Way,
    name: &'static str,
    generator: Space,
    _node: Space,
    _ours: Option<Ebpf>,
    rates: Vec<f64>,
}

impl Lane {
    fn new((way, name): (Way, &'static str), floors: &mut Ebpf) -> anyhow::Result<Lane> {
        let (generator, node) = (Space::new()?, Space::router()?);
        generator.ip(&format!(
            "link add g0 index {G0} address {} type veth peer name r0 index {R0} address {} netns {}\n\
             link set g0 up\n",
            mac(GENERATOR),
            mac(NODE),
            node.path()
        ))?;
        node.ip(&format!(
            "link set r0 up\naddr add 10.1.0.1/24 dev r0\nneigh add 10.1.0.2 lladdr {} nud permanent dev r0\n\
             route add 10.9.0.0/16 via 10.1.0.2\nroute add 10.96.0.0/16 via 10.1.0.2\n",
            mac(GENERATOR)
        ))?;
        for device in ["all", "r0"] {
            node.set(&format!("net/ipv4/conf/{device}/send_redirects"), "0")?;
        }
        // Frames come in whether there is a program or not, and one by one: it is datagrams.
        node.inside(|| ethtool::set_gro("r0", true))??;
        attach(floors, "floor_count", &generator, "g0")?;
        let mut ours = None;
        match way {
            Way::Plain => {}
            Way::Count => attach(floors, "floor_count", &node, "r0")?,
            Way::Reflect => attach(floors, "floor_reflect", &node, "r0")?,
            Way::Nft => {
                let rule = "table ip peer {\n chain prerouting {\n type nat hook prerouting priority -100;\n \
                            ip daddr 10.96.0.1 udp dport 80 dnat to 10.9.0.1:8080\n }\n}\n";
                node.run("nft", &["-f", "-"], rule)?;
            }
            Way::Tcx | Way::Driver => ours = Some(start(&node, way == Way::Driver)?),
        }
        Ok(Lane { way, name, generator, _node: node, _ours: ours, rates: Vec::new() })
    }

    /// One turn: packets a second that came back.
    fn turn(&self, floors: &mut Ebpf) -> anyhow::Result<f64> {
        let to = if self.way == Way::Plain { BACKEND } else { VIP };
        let frame = frame(to);
        let mut pattern = Array::<_, [u8; 64]>::try_from(floors.map_mut("floor_frame").context("no map")?)?;
        pattern.set(0, frame, 0)?;
        let counter = u32::from(matches!(self.way, Way::Count | Way::Reflect));
        let before = came(floors, counter)?;
        let program: &Xdp = floors.program("floor_make").context("no such program")?.try_into()?;
        // `struct xdp_md`: `data_end`, `ingress_ifindex`.
        let mut context = [0; 24];
        context[4..8].copy_from_slice(&64_u32.to_ne_bytes());
        context[12..16].copy_from_slice(&G0.to_ne_bytes());
        let took = self.generator.inside(|| {
            cores::keep_to(0..1)?;
            cores::go_first();
            let mut options = TestRunOptions::new();
            (options.data_in, options.ctx_in) = (Some(&frame[..]), Some(&context[..]));
            (options.repeat, options.attrs) = (FRAMES, TestRunAttrs::new().xdp_live_frames(BATCH));
            let start = Instant::now();
            program.test_run(options)?;
            anyhow::Ok(start.elapsed())
        })??;
        // What waits in the last queues.
        pause(Duration::from_millis(20));
        let count = came(floors, counter)? - before;
        ensure!(
            count <= u64::from(FRAMES) && count > u64::from(FRAMES) / 20 * 19,
            "{}: {count} of {FRAMES} frames came back",
            self.name
        );
        #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
        Ok(count as f64 / took.as_secs_f64())
    }
}

/// Puts a floor to work in a device's driver.
fn attach(floors: &mut Ebpf, name: &str, space: &Space, device: &str) -> anyhow::Result<()> {
    let program: &mut Xdp = floors.program_mut(name).with_context(|| name.to_owned())?.try_into()?;
    space.inside(|| program.attach(device, XdpMode::Driver))??;
    Ok(())
}

/// Frames that came back: for the backend's port, or another.
fn came(floors: &Ebpf, counter: u32) -> anyhow::Result<u64> {
    let map = PerCpuArray::<_, u64>::try_from(floors.map("floor_came").context("no map")?)?;
    Ok(map.get(&counter, 0)?.iter().sum())
}

/// This project's programs at the node's device, and a frontend with one backend.
fn start(node: &Space, driver: bool) -> anyhow::Result<Ebpf> {
    let mut loader = EbpfLoader::new();
    for (name, entries) in [
        ("lines4", mesh_ebpf::lines(LINES)),
        ("flows4", SETS * table::LINES),
        ("xdp_devices", 16),
        ("services4", 16),
    ] {
        loader.map_max_entries(name, entries);
    }
    let mut ebpf = loader.load(OBJECT)?;
    let hz = u32::try_from(1_000_000_000 / clock::coarse().1)?;
    let config = Config {
        epoch: 1,
        hz,
        cached: LINES - 1,
        sets: SETS,
        mode: ORDERED,
        node4: [10, 1, 0, 1],
        ..Config::default()
    };
    set(&mut ebpf, "config", config)?;
    let mut address = [0; 16];
    address[..4].copy_from_slice(&BACKEND.0);
    let state = state::ACTIVE | state::KEEPS;
    let backend = Backend { address, port: BACKEND.1, state, generation: 1, weight: 1, ..Backend::default() };
    set(&mut ebpf, "backends", backend)?;
    let key = ServiceKey { address: VIP.0, port: VIP.1.to_be(), protocol: 17, pad: 0 };
    fill(&mut ebpf, "services4", [(key, Service { slots: 1, ..Service::default() })])?;
    let program = ebpf.program_mut("tc_ingress").context("no such program")?;
    mesh_ebpf::load(program)?;
    let program: &mut SchedClassifier = program.try_into()?;
    node.inside(|| program.attach("r0", TcAttachType::Ingress))??;
    if driver {
        let device = Device { mac: NODE, bits: bit::SENDS | bit::RETURNS };
        fill(&mut ebpf, "xdp_devices", [(R0, device)])?;
        let program = ebpf.program_mut("xdp_ingress").context("no such program")?;
        mesh_ebpf::load(program)?;
        let program: &mut Xdp = program.try_into()?;
        node.inside(|| program.attach("r0", XdpMode::Driver))??;
    }
    Ok(ebpf)
}

/// The one's complement sum of RFC 1071.
fn sum(bytes: &[u8]) -> u32 {
    let sum = bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum::<u32>();
    let sum = (sum & 0xffff) + (sum >> 16);
    (sum & 0xffff) + (sum >> 16)
}

/// A datagram of the client; its source port, 0 here, and the data's first word, all ones, add up to the same in all.
fn frame(to: (V4, u16)) -> [u8; 64] {
    let mut frame = [0; 64];
    frame[..6].copy_from_slice(&NODE);
    frame[6..12].copy_from_slice(&GENERATOR);
    frame[12..16].copy_from_slice(&[0x08, 0x00, 0x45, 0]);
    frame[17] = 50;
    frame[22] = 64;
    frame[23] = 17;
    frame[26..30].copy_from_slice(&CLIENT);
    frame[30..34].copy_from_slice(&to.0);
    let fold = |sum: u32| u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap_or(u16::MAX);
    let checksum = !fold(sum(&frame[14..34]));
    frame[24..26].copy_from_slice(&checksum.to_be_bytes());
    frame[36..38].copy_from_slice(&to.1.to_be_bytes());
    frame[39] = 30;
    frame[42..44].copy_from_slice(&[0xff; 2]);
    frame[44..64].copy_from_slice(b"twenty bytes of data");
    // The pseudo header: addresses, protocol, length.
    let checksum = !fold(sum(&frame[26..64]) + 17 + 30);
    frame[40..42].copy_from_slice(&checksum.to_be_bytes());
    frame
}

/// Measures and prints.
pub(super) fn run(rounds: usize, json: bool) -> anyhow::Result<()> {
    let mut floors = EbpfLoader::new().load(FLOORS)?;
    for name in ["floor_make", "floor_reflect", "floor_count"] {
        mesh_ebpf::load(floors.program_mut(name).with_context(|| name.to_owned())?)?;
    }
    let mut lanes =
        WAYS.into_iter().map(|way| Lane::new(way, &mut floors)).collect::<anyhow::Result<Vec<_>>>()?;
    for turn in 0..=rounds * TURNS {
        // Nobody is always first.
        lanes.rotate_left(1);
        for lane in &mut lanes {
            let rate = lane.turn(&mut floors)?;
            // Flows begin in the first turn.
            if turn > 0 {
                lane.rates.push(rate);
            }
        }
    }
    let rate =
        |way: Way| lanes.iter().find(|lane| lane.way == way).map_or(f64::NAN, |lane| median(&lane.rates));
    let mut table = Table::new(
        "packets a second through a node, 1,000 flows, one processor; \"own ns\" is beyond making and counting them",
        &[
            "what the node does",
            "Mpps",
            "of XDP_TX",
            "of plain",
            "of nft",
            "own ns",
            "of XDP_TX",
            "of plain",
            "of nft",
        ],
    );
    let own = |way: Way| 1e9 / rate(way) - 1e9 / rate(Way::Count);
    for (way, name) in WAYS {
        let of = |other: Way| format!("{:.2}", rate(way) / rate(other));
        let less = |other: Way| match way {
            Way::Count => "-".to_owned(),
            _ => format!("{:.2}", own(other) / own(way)),
        };
        table.row(&[
            name.to_owned(),
            format!("{:.2}", rate(way) / 1e6),
            of(Way::Reflect),
            of(Way::Plain),
            of(Way::Nft),
            format!("{:.0}", own(way)),
            less(Way::Reflect),
            less(Way::Plain),
            less(Way::Nft),
        ]);
    }
    table.print(json);
    Ok(())
}
