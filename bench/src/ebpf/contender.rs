//! Who is measured: the same services in the maps of each.

use super::{
    cgroup::Cgroup,
    maps::{array, fill},
};
use anyhow::Context as _;
use aya::{
    Ebpf, EbpfLoader, include_bytes_aligned,
    programs::{CgroupAttachMode, Program},
};
use mesh_ebpf::{
    OBJECT,
    common::{Backend, Config, Service, ServiceKey, V4, flag, state},
};
use std::net::{Ipv4Addr, SocketAddr};

/// The floors.
pub(super) static FLOORS: &[u8] = include_bytes_aligned!("../../../ebpf/object/floors.o");

/// Backends of a service.
const BACKENDS: u32 = 10;
/// Where they listen: all of 127.0.0.0/8 is this host's.
pub(super) const TARGET: u16 = 8080;
/// `IPPROTO_TCP` and `IPPROTO_UDP`.
const PROTOCOLS: [u8; 2] = [6, 17];

/// What stands between a program and a backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Contender {
    /// Nothing: the backend is dialled.
    Nobody,
    /// A program that knows one address by heart.
    OneAddress,
    Ours,
    /// Ours, and the backend is dialled: what they pay who dial no VIP.
    Bystander,
    /// A program with four lookups and an LRU to write to.
    Lookups,
}

impl Contender {
    pub(super) const ALL: [Contender; 5] =
        [Contender::Nobody, Contender::OneAddress, Contender::Ours, Contender::Lookups, Contender::Bystander];

    pub(super) fn name(self) -> &'static str {
        match self {
            Contender::Nobody => "direct",
            Contender::OneAddress => "one address by heart",
            Contender::Ours => "mesh-agent",
            Contender::Bystander => "mesh-agent, no VIP",
            Contender::Lookups => "4 lookups, 1 LRU write",
        }
    }

    /// What is dialled for the `n`th connection.
    pub(super) fn dialled(self, n: u32, services: u32) -> SocketAddr {
        let service = n.wrapping_mul(7919) % services;
        match self {
            // As those in turn come to it: the kernel remembers destinations.
            Contender::Nobody | Contender::Bystander => {
                (backend(service, n / services % BACKENDS), TARGET).into()
            }
            Contender::OneAddress => (vip(0), 80).into(),
            Contender::Ours | Contender::Lookups => (vip(service), 80).into(),
        }
    }

    /// Fills its maps and puts it to work in a cgroup, for sockets of the namespace of the calling thread.
    pub(super) fn start(self, cgroup: &Cgroup, services: u32) -> anyhow::Result<Option<Ebpf>> {
        let (object, programs): (_, &[&str]) = match self {
            Contender::Nobody => return Ok(None),
            Contender::OneAddress => (FLOORS, &["floor_trivial"]),
            Contender::Lookups => (FLOORS, &["floor_lookups"]),
            Contender::Ours | Contender::Bystander => (OBJECT, &["connect4", "sock_release"]),
        };
        let mut loader = EbpfLoader::new();
        for map in ["services4", "backends", "backend_counts", "frontends", "slots"] {
            loader.map_max_entries(map, 1 << 18);
        }
        let mut ebpf = loader.load(object)?;
        match self {
            Contender::Ours | Contender::Bystander => ours(&mut ebpf, services)?,
            Contender::Lookups => lookups(&mut ebpf, services)?,
            Contender::Nobody | Contender::OneAddress => {}
        }
        for name in programs {
            let cgroup = cgroup.open()?;
            let program = ebpf.program_mut(name).with_context(|| format!("no program {name}"))?;
            mesh_ebpf::load(program)?;
            match program {
                Program::CgroupSockAddr(program) => {
                    program.attach(cgroup, CgroupAttachMode::Single)?;
                }
                Program::CgroupSock(program) => {
                    program.attach(cgroup, CgroupAttachMode::Single)?;
                }
                _ => anyhow::bail!("{name} is of another kind"),
            }
        }
        Ok(Some(ebpf))
    }
}

fn vip(service: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 96, 0, 0).to_bits() + service)
}

fn backend(service: u32, number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(127, 1, 0, 0).to_bits() + service * BACKENDS + number)
}

fn ours(ebpf: &mut Ebpf, services: u32) -> anyhow::Result<()> {
    let config =
        Config { netns: mesh_ebpf::place::netns_cookie()?, node4: [127, 0, 0, 1], ..Config::default() };
    array(ebpf, "config", [config])?;
    let frontends = || (0..services).flat_map(|n| PROTOCOLS.map(|protocol| (n, protocol))).zip(0..);
    let backends = frontends().flat_map(|((service, _), frontend)| {
        (0..BACKENDS).map(move |number| {
            let mut address = [0; 16];
            address[..4].copy_from_slice(&backend(service, number).octets());
            Backend { address, port: TARGET, state: state::ACTIVE, frontend, weight: 1, ..Backend::default() }
        })
    });
    array(ebpf, "backends", backends)?;
    array(ebpf, "slots", 0..2 * services * BACKENDS)?;
    let services = frontends().map(|((service, protocol), frontend)| {
        let key = ServiceKey { address: vip(service).octets(), port: 80_u16.to_be(), protocol, pad: 0 };
        let (base, flags) = (frontend * BACKENDS, flag::PICK_NEXT);
        (key, Service { frontend, base, slots: BACKENDS, flags, ..Service::default() })
    });
    fill(ebpf, "services4", services)
}

/// As in the floors' object.
#[repr(C)]
#[derive(Clone, Copy)]
struct FloorKey {
    address: V4,
    port: u16,
    slot: u16,
    protocol: u8,
    pad: [u8; 3],
}

/// As in the floors' object.
#[repr(C)]
#[derive(Clone, Copy)]
struct FloorSlot {
    backend: u32,
    count: u16,
    number: u16,
    flags: u32,
}

/// As in the floors' object.
#[repr(C)]
#[derive(Clone, Copy)]
struct FloorBackend {
    address: V4,
    port: u16,
    pad: [u8; 2],
}

fn lookups(ebpf: &mut Ebpf, services: u32) -> anyhow::Result<()> {
    let count = u16::try_from(BACKENDS)?;
    let slots = (0..services).flat_map(|service| {
        let slots =
            PROTOCOLS.into_iter().flat_map(move |protocol| (0..=count).map(move |slot| (protocol, slot)));
        slots.map(move |(protocol, slot)| {
            let address = vip(service).octets();
            let key = FloorKey { address, port: 80_u16.to_be(), slot, protocol, pad: [0; 3] };
            let backend = service * BACKENDS + u32::from(slot.saturating_sub(1));
            (key, FloorSlot { backend, count, number: 0, flags: 0 })
        })
    });
    fill(ebpf, "floor_services", slots)?;
    let backends = (0..services * BACKENDS).map(|n| {
        let address = backend(n / BACKENDS, n % BACKENDS).octets();
        (n, FloorBackend { address, port: TARGET.to_be(), pad: [0; 2] })
    });
    fill(ebpf, "floor_backends", backends)
}
