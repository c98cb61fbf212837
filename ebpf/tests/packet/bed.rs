//! A node in a namespace: three devices with routes and neighbours, frontends, and the programs to be run over packets.
//!
//! ```text
//! nic    192.0.2.1/24     2001:db8::1/64   the world, by 192.0.2.254 and 2001:db8::fe
//! mesh0  10.128.7.1/24    fd00:7::1/64     containers
//! vx     10.128.9.0/24    fd00:9::/64      containers of another node, by 10.128.9.1 and fd00:9::1
//! ```

use crate::{
    maps::v4,
    netns::Netns,
    packet::Packet,
    plan::{Plan, ip, port},
    tables::{Tables, wide},
};
use aya::{
    Ebpf,
    maps::{LpmTrie, lpm_trie::Key},
    programs::{SchedClassifier, TcAttachType, TestRun as _, TestRunOptions},
};
use mesh_ebpf::{
    Events, ORDERED, Sizes,
    common::{
        Backend, Config, Frontend, MemberKey, Service, ServiceKey,
        direct::{node, token},
        flag, mode, state, table,
    },
};
use std::{
    fs,
    net::IpAddr,
    os::fd::AsRawFd as _,
    sync::atomic::{AtomicU16, Ordering::Relaxed},
};

/// The devices.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Device {
    Nic,
    Mesh,
    Vx,
}

impl Device {
    const ALL: [(Device, &'static str, u32); 3] =
        [(Device::Nic, "nic", 1500), (Device::Mesh, "mesh0", 1450), (Device::Vx, "vx", 1450)];

    pub(crate) fn mac(self) -> [u8; 6] {
        [2, 0, 0, 0, 0, self as u8 + 1]
    }

    pub(crate) fn name(self) -> &'static str {
        Device::ALL[self as usize].1
    }

    pub(crate) fn index(self) -> u32 {
        self as u32 + 10
    }
}

/// Lines of a CPU's cache of flows, of either family: as many as tests that do not ask for fewer have flows, and some.
pub(crate) const LINES: u32 = 512;

/// Who sends to a device.
pub(crate) const NEIGHBOUR: [u8; 6] = [2, 0, 0, 0, 0, 0xee];

/// What a program did with a packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Outcome {
    /// `TCX_*` or `TC_ACT_REDIRECT`.
    pub(crate) verdict: i32,
    pub(crate) bytes: Vec<u8>,
}

/// `TCX_NEXT`, `TCX_DROP`, `TC_ACT_REDIRECT`.
pub(crate) const NEXT: i32 = -1;
pub(crate) const SHOT: i32 = 2;
pub(crate) const REDIRECT: i32 = 7;

/// The programs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    In,
    Out,
}

/// The node.
pub(crate) struct Bed {
    pub(crate) netns: Netns,
    pub(crate) ebpf: Ebpf,
    frontends: u32,
    /// Next client port, so that cases do not meet.
    client_port: AtomicU16,
}

impl Tables for Bed {
    fn ebpf(&self) -> &Ebpf {
        &self.ebpf
    }

    fn ebpf_mut(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }
}

impl Bed {
    /// `None` where that cannot be; on CI it must.
    pub(crate) fn new() -> Option<Bed> {
        Bed::with(1024)
    }

    /// With room for so many directions of flows.
    pub(crate) fn with(flows: u32) -> Option<Bed> {
        let netns = match Netns::new() {
            Ok(netns) => netns,
            Err(error) => {
                assert!(std::env::var_os("CI").is_none(), "CI skips nothing: {error}");
                eprintln!("SKIPPED: needs root: {error}");
                return None;
            }
        };
        wire(&netns);
        let few = 256;
        let sizes = Sizes {
            frontends: few,
            ports: few,
            backends: few,
            slots: few,
            flows,
            cached: LINES,
            clients: few,
        };
        let mut ebpf = mesh_ebpf::open(&sizes, None).unwrap();
        for name in ["tc_ingress", "tc_egress"] {
            mesh_ebpf::load(ebpf.program_mut(name).unwrap()).unwrap();
        }
        let mut bed = Bed { netns, ebpf, frontends: 0, client_port: AtomicU16::new(20_000) };
        let netns = bed.netns.cookie();
        bed.set(
            "config",
            0,
            Config { netns, sets: table::sets(flows), mode: mode::EGRESS | ORDERED, ..config() },
        );
        for plan in Plan::both() {
            bed.serve_all(&plan);
        }
        Some(bed)
    }

    /// What the programs tell of packets that they drop, from now on.
    pub(crate) fn events(&mut self) -> Events {
        Events::new(self.ebpf.take_map("events").unwrap()).unwrap()
    }

    fn serve_all(&mut self, plan: &Plan) {
        for address in [plan.node, plan.gateway] {
            self.mark("locals4", "locals6", address, 1_u8);
        }
        self.mark("nodes4", "nodes6", plan.peer, 1_u8);
        self.mark("vips4", "vips6", plan.vip, 1_u32);
        let any = if plan.vip.is_ipv4() { ip("0.0.0.0") } else { ip("::") };
        for protocol in [6, 17] {
            let mut serve = |dialled, number, backend, bits, flags| {
                self.serve((dialled, number, protocol), backend, bits, flags);
            };
            let up = state::ACTIVE | state::KEEPS;
            serve(plan.vip, port::CONTAINER, Some(plan.container), up, 0);
            serve(plan.vip, port::REMOTE, Some(plan.remote), up | state::REMOTE, 0);
            serve(plan.vip, port::HERE, Some(plan.node), up | state::HERE, 0);
            serve(plan.vip, port::OUTSIDE, Some(plan.outside), up | state::MASQUERADE, 0);
            serve(plan.vip, port::NOBODY, None, 0, 0);
            serve(plan.vip, port::SILENT, None, 0, flag::SILENT);
            serve(plan.vip, port::ALLOWED, Some(plan.container), up, flag::ALLOW);
            serve(plan.vip, port::LIMITED, Some(plan.container), up, flag::LIMIT);
            serve(plan.vip, port::HASHED, Some(plan.container), up, flag::PICK_HASH);
            serve(plan.vip, port::SECOND, Some(plan.container), up, 0);
            serve(plan.vip, port::BESIDE, Some(plan.beside), up, 0);
            serve(plan.vip, port::LOST, Some(plan.lost), up, 0);
            serve(any, port::PUBLISHED, Some(plan.container), up, flag::PUBLISHED);
            serve(any, port::PUBLISHED_REMOTE, Some(plan.remote), up | state::REMOTE, flag::PUBLISHED);
            serve(any, port::PUBLISHED_HERE, Some(plan.node), up | state::HERE, flag::PUBLISHED);
        }
    }

    /// Makes a frontend with a backend or none. Its index is that of its slot and backend, too.
    fn serve(&mut self, dialled: (IpAddr, u16, u8), backend: Option<IpAddr>, bits: u16, flags: u16) {
        let (address, number, protocol) = dialled;
        let index = self.frontends;
        self.frontends += 1;
        if let Some(address) = backend {
            let backend = Backend {
                address: wide(address),
                port: port::BACKEND,
                state: bits,
                generation: 1,
                frontend: index,
                weight: 1,
                id: u64::from(index),
                ..Backend::default()
            };
            self.set("backends", index, backend);
            self.set("slots", index, index);
        }
        let max_flows = u32::from(flags & flag::LIMIT != 0);
        self.set("frontends", index, Frontend { max_flows, ..Frontend::default() });
        if flags & flag::ALLOW != 0 {
            let number = index.to_ne_bytes();
            if address.is_ipv4() {
                let mut map =
                    LpmTrie::<_, [u8; 8], u8>::try_from(self.ebpf.map_mut("allow4").unwrap()).unwrap();
                let [a, b, c, d] = number;
                map.insert(&Key::new(32 + 24, [a, b, c, d, 198, 51, 100, 0]), 1, 0).unwrap();
            } else {
                let mut map =
                    LpmTrie::<_, [u8; 20], u8>::try_from(self.ebpf.map_mut("allow6").unwrap()).unwrap();
                let mut key = [0; 20];
                key[..4].copy_from_slice(&number);
                key[4..].copy_from_slice(&wide(ip("2001:db8:51::")));
                map.insert(&Key::new(32 + 48, key), 1, 0).unwrap();
            }
        }
        let offset = u16::from(number == port::SECOND);
        let service = Service {
            frontend: index,
            base: index,
            slots: u32::from(backend.is_some()),
            offset,
            flags,
            ..Service::default()
        };
        let number = number.to_be();
        if address.is_ipv4() {
            self.put(
                "services4",
                ServiceKey { address: v4(address), port: number, protocol, pad: 0 },
                service,
            );
        } else {
            self.put(
                "services6",
                ServiceKey { address: wide(address), port: number, protocol, pad: 0 },
                service,
            );
        }
    }

    /// Makes the node one that hands packets on to the other one, and takes them.
    pub(crate) fn go_direct(&mut self) {
        self.configure(|config| config.underlay = Device::Nic.index());
        for hop in ["10.128.9.1", "fd00:9::1"] {
            self.mark("nodes4", "nodes6", ip(hop), node::DIRECT);
        }
        for index in 0..self.frontends {
            let key = MemberKey { id: token(index.into()).into(), frontend: index, short: 1 };
            self.put("members", key, index);
        }
    }

    fn mark<V: Copy + 'static>(&mut self, four: &str, six: &str, address: IpAddr, value: V) {
        match address {
            IpAddr::V4(_) => self.put(four, v4(address), value),
            IpAddr::V6(_) => self.put(six, wide(address), value),
        }
    }

    /// Puts a program to work at a device.
    pub(crate) fn attach(&mut self, way: Way, device: Device) {
        let (name, at) = match way {
            Way::In => ("tc_ingress", TcAttachType::Ingress),
            Way::Out => ("tc_egress", TcAttachType::Egress),
        };
        let Bed { netns, ebpf, .. } = self;
        let program: &mut SchedClassifier = ebpf.program_mut(name).unwrap().try_into().unwrap();
        netns.run(|| program.attach(device.name(), at)).unwrap();
    }

    /// A host behind a device: its end of the link goes to a namespace of its own, with these addresses.
    pub(crate) fn host(&self, device: Device, addresses: [IpAddr; 2]) -> Netns {
        let host = Netns::new().unwrap();
        let (name, [a, b, c, d, e, f]) = (device.name(), device.mac());
        let path = format!("/proc/{}/fd/{}", std::process::id(), host.as_raw_fd());
        self.netns.ip(&format!("link set {name}p netns {path}"));
        host.ip(&format!("link set {name}p address 02:00:00:00:00:ee up"));
        for (address, gateway) in addresses.into_iter().zip(["169.254.1.1", "fd00:1::1"]) {
            let (bits, six) = if address.is_ipv4() { (32, "") } else { (128, "-6 ") };
            let nodad = if address.is_ipv4() { "" } else { " nodad" };
            host.ip(&format!("addr add {address}/{bits} dev {name}p{nodad}"));
            let mac = format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}");
            host.ip(&format!("neigh add {gateway} lladdr {mac} nud permanent dev {name}p"));
            host.ip(&format!("{six}route add default via {gateway} dev {name}p onlink"));
        }
        host
    }

    /// A client port that no case has used.
    pub(crate) fn port(&self) -> u16 {
        self.client_port.fetch_add(1, Relaxed)
    }

    /// Runs a program over a packet on its way by a device.
    pub(crate) fn run(&self, way: Way, device: Device, packet: &Packet) -> Outcome {
        self.run_bytes(way, device, &arriving(way, device, packet).bytes(), 0)
    }

    /// The same with bytes, of pieces of that size if not 0.
    pub(crate) fn run_bytes(&self, way: Way, device: Device, bytes: &[u8], gso: u32) -> Outcome {
        self.run_marked(way, device, bytes, gso, 0).0
    }

    /// The same with the packet's mark, which may be another afterwards.
    pub(crate) fn run_marked(
        &self,
        way: Way,
        device: Device,
        bytes: &[u8],
        gso: u32,
        mark: u32,
    ) -> (Outcome, u32) {
        self.run_from(way, device, bytes, gso, (mark, 0))
    }

    /// The same of one that came by a device.
    pub(crate) fn run_from(
        &self,
        way: Way,
        device: Device,
        bytes: &[u8],
        gso: u32,
        from: (u32, u32),
    ) -> (Outcome, u32) {
        self.netns.run(|| self.run_here(way, device, bytes, gso, from))
    }

    /// The same by a thread that is in the bed's namespace.
    pub(crate) fn run_here(
        &self,
        way: Way,
        device: Device,
        bytes: &[u8],
        gso: u32,
        (mark, came): (u32, u32),
    ) -> (Outcome, u32) {
        let name = if way == Way::In { "tc_ingress" } else { "tc_egress" };
        let program: &SchedClassifier = self.ebpf.program(name).unwrap().try_into().unwrap();
        // `struct __sk_buff`: `mark` at 8, `ingress_ifindex` at 36, `ifindex` at 40, `gso_segs` at 164, `gso_size` at 176.
        let (mut context, mut left) = ([0; 192], [0; 192]);
        context[8..12].copy_from_slice(&mark.to_ne_bytes());
        context[36..40].copy_from_slice(&came.to_ne_bytes());
        context[40..44].copy_from_slice(&device.index().to_ne_bytes());
        context[164..168].copy_from_slice(&u32::from(gso != 0).to_ne_bytes());
        context[176..180].copy_from_slice(&gso.to_ne_bytes());
        let mut out = vec![0; bytes.len() + 512];
        let mut options = TestRunOptions::new();
        (options.data_in, options.data_out) = (Some(bytes), Some(&mut out[..]));
        (options.ctx_in, options.ctx_out) = (Some(&context[..]), Some(&mut left[..]));
        let result = program.test_run(options).unwrap();
        out.truncate(result.data_size_out as usize);
        let mark = left[8..12].try_into().map(u32::from_ne_bytes).unwrap();
        (Outcome { verdict: result.return_value.cast_signed(), bytes: out }, mark)
    }
}

/// A packet as it is at a device: to it from the neighbour, or the other way round.
pub(crate) fn arriving(way: Way, device: Device, packet: &Packet) -> Packet {
    let link = if way == Way::In { (device.mac(), NEIGHBOUR) } else { (NEIGHBOUR, device.mac()) };
    Packet { link, ..packet.clone() }
}

fn config() -> Config {
    let [four, six] = Plan::both();
    Config {
        epoch: 1,
        mode: mode::EGRESS,
        overlay: Device::Mesh.index(),
        tunnel: Device::Vx.index(),
        hz: 1000,
        cached: LINES - 1,
        seed: 0x6d65_7368,
        node4: v4(four.node),
        overlay4: v4(four.gateway),
        vips4: [[[10, 96, 0, 0], [255, 255, 0, 0]], [[0; 4]; 2]],
        node6: wide(six.node),
        overlay6: wide(six.gateway),
        vips6: [[wide(ip("fd00:96::")), wide(ip("ffff:ffff::"))], [[0; 16]; 2]],
        ..Config::default()
    }
}

/// Devices, addresses, neighbours and routes.
fn wire(netns: &Netns) {
    netns.run(|| {
        fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap();
    });
    for (device, name, mtu) in Device::ALL {
        let ([a, b, c, d, e, f], index) = (device.mac(), device.index());
        netns.ip(&format!("link add {name} index {index} mtu {mtu} type veth peer name {name}p mtu {mtu}"));
        netns.ip(&format!("link set {name} address {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x} up"));
        netns.ip(&format!("link set {name}p up"));
    }
    for (address, name) in [
        ("192.0.2.1/24", "nic"),
        ("2001:db8::1/64", "nic"),
        ("10.128.7.1/24", "mesh0"),
        ("fd00:7::1/64", "mesh0"),
        ("10.128.9.0/32", "vx"),
    ] {
        let nodad = if address.contains(':') { " nodad" } else { "" };
        netns.ip(&format!("addr add {address} dev {name}{nodad}"));
    }
    for (neighbour, name) in [
        ("192.0.2.254", "nic"),
        ("2001:db8::fe", "nic"),
        ("192.0.2.77", "nic"),
        ("2001:db8::77", "nic"),
        ("192.0.2.2", "nic"),
        ("2001:db8::2", "nic"),
        ("10.128.7.2", "mesh0"),
        ("fd00:7::2", "mesh0"),
        ("10.128.7.3", "mesh0"),
        ("fd00:7::3", "mesh0"),
        ("10.128.9.1", "vx"),
        ("fd00:9::1", "vx"),
    ] {
        netns.ip(&format!("neigh replace {neighbour} lladdr 02:00:00:00:00:ee nud permanent dev {name}"));
    }
    netns.ip("route add default via 192.0.2.254");
    netns.ip("-6 route add default via 2001:db8::fe");
    netns.ip("route add 10.128.9.0/24 via 10.128.9.1 dev vx onlink");
    netns.ip("-6 route add fd00:9::/64 via fd00:9::1 dev vx onlink");
    netns.ip("route add unreachable 240.0.0.0/4");
    netns.ip("-6 route add unreachable fc00:dead::/32");
}
