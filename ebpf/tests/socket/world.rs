//! A namespace with the socket programs in force, and their maps to write to.

use crate::{
    cgroup::Cgroup,
    netns::Netns,
    tables::{Tables, wide},
};
use aya::{
    Ebpf,
    maps::{LpmTrie, lpm_trie::Key},
    programs::{CgroupAttachMode, Program},
};
use mesh_ebpf::{
    Sizes,
    common::{
        Backend, Config, Frontend, FrontendCounts, MemberKey, Service, ServiceKey, Sticky, StickyKey, V4,
        flag, state,
    },
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::{
    io,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsFd,
    time::Duration,
};

/// Longest wait for what must happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// Protocols.
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;

pub(crate) struct World {
    pub(crate) netns: Netns,
    ebpf: Ebpf,
    cgroup: Cgroup,
    /// How many entries of `frontends`, `slots` and `backends` are taken.
    frontends: u32,
    slots: u32,
    backends: u32,
}

/// A frontend to be made.
#[derive(Clone, Copy)]
pub(crate) struct Front<'a> {
    pub(crate) dialled: SocketAddr,
    pub(crate) protocol: u8,
    pub(crate) flags: u16,
    pub(crate) policy: Frontend,
    pub(crate) backends: &'a [SocketAddr],
}

impl<'a> Front<'a> {
    pub(crate) fn new(dialled: SocketAddr, protocol: u8, backends: &'a [SocketAddr]) -> Front<'a> {
        Front { dialled, protocol, flags: flag::PICK_NEXT, policy: Frontend::default(), backends }
    }
}

/// A frontend that was made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Made {
    pub(crate) frontend: u32,
    /// Index of its first backend.
    pub(crate) backends: u32,
}

impl Tables for World {
    fn ebpf(&self) -> &Ebpf {
        &self.ebpf
    }

    fn ebpf_mut(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }
}

impl World {
    /// `None` where that cannot be; on CI it must.
    pub(crate) fn new() -> Option<World> {
        let (netns, cgroup) = match Netns::new().and_then(|netns| Ok((netns, Cgroup::join()?))) {
            Ok(both) => both,
            Err(error) => {
                assert!(std::env::var_os("CI").is_none(), "CI skips nothing: {error}");
                eprintln!("SKIPPED: needs root and a cgroup2: {error}");
                return None;
            }
        };
        let config = Config {
            netns: netns.cookie(),
            node4: [10, 9, 0, 1],
            vips4: [[[10, 96, 0, 0], [255, 255, 0, 0]], [[0; 4]; 2]],
            node6: wide("fd00:9::1".parse().unwrap()),
            vips6: [[wide("fd00:96::".parse().unwrap()), wide("ffff:ffff::".parse().unwrap())], [[0; 16]; 2]],
            ..Config::default()
        };
        let (few, slots) = (256, 8192);
        let sizes =
            Sizes { frontends: few, ports: few, backends: few, slots, flows: few, cached: 4, clients: few };
        let ebpf = mesh_ebpf::open(&sizes, None).unwrap();
        let mut world = World { netns, ebpf, cgroup, frontends: 0, slots: 0, backends: 0 };
        world.set("config", 0, config);
        world.attach();
        Some(world)
    }

    fn attach(&mut self) {
        let cgroup = self.cgroup.open();
        for (name, program) in self.ebpf.programs_mut() {
            let mode = CgroupAttachMode::Single;
            if !matches!(program, Program::CgroupSockAddr(_) | Program::CgroupSock(_)) {
                continue;
            }
            let done = mesh_ebpf::load(program).and_then(|()| match program {
                Program::CgroupSockAddr(p) => p.attach(&cgroup, mode).map(drop),
                Program::CgroupSock(p) => p.attach(&cgroup, mode).map(drop),
                _ => Ok(()),
            });
            done.unwrap_or_else(|error| panic!("{name}: {error:?}"));
        }
    }

    /// Whether a client's backend is remembered still.
    pub(crate) fn remembers(&self, key: StickyKey) -> bool {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
        let now = u64::try_from(now.tv_sec * 1_000_000_000 + now.tv_nsec).unwrap();
        self.look("affinity", key).is_some_and(|sticky: Sticky| sticky.until > now)
    }

    /// Lets an IPv4 network in to a frontend that asks.
    pub(crate) fn allow(&mut self, frontend: u32, network: V4, bits: u32) {
        let ([a, b, c, d], [e, f, g, h]) = (frontend.to_ne_bytes(), network);
        let mut map = LpmTrie::<_, [u8; 8], u8>::try_from(self.ebpf.map_mut("allow4").unwrap()).unwrap();
        map.insert(&Key::new(32 + bits, [a, b, c, d, e, f, g, h]), 1, 0).unwrap();
    }

    /// What a frontend turned away, on all CPUs.
    pub(crate) fn turned_away(&self, made: Made) -> FrontendCounts {
        let all = self.of_all_cpus("frontend_counts", made.frontend);
        all.iter().fold(FrontendCounts::default(), |sum, one: &FrontendCounts| FrontendCounts {
            no_backend: sum.no_backend + one.no_backend,
            denied: sum.denied + one.denied,
            limited: sum.limited + one.limited,
        })
    }

    /// Flows that are open and were begun at a backend.
    pub(crate) fn flows(&self, backend: u32) -> (i64, u64) {
        let Backend { active, begun, .. } = self.get("backends", backend);
        (active, begun)
    }

    /// Makes a frontend; each backend has a slot.
    pub(crate) fn serve(&mut self, front: Front<'_>) -> Made {
        let slots: Vec<u32> = (0..u32::try_from(front.backends.len()).unwrap()).collect();
        self.serve_by(front, &slots)
    }

    /// Makes a frontend with these slots, each the place of a backend.
    pub(crate) fn serve_by(&mut self, front: Front<'_>, slots: &[u32]) -> Made {
        let made = Made { frontend: self.frontends, backends: self.backends };
        for address in front.backends {
            let id = 1000 + u64::from(self.backends - made.backends);
            let backend = Backend {
                address: wide(address.ip()),
                port: address.port(),
                state: state::ACTIVE,
                generation: 1,
                frontend: made.frontend,
                weight: 1,
                id,
                ..Backend::default()
            };
            self.set("backends", self.backends, backend);
            self.put("members", MemberKey { id, frontend: made.frontend, short: 0 }, self.backends);
            self.backends += 1;
        }
        let base = self.slots;
        for slot in slots {
            self.set("slots", self.slots, made.backends + slot);
            self.slots += 1;
        }
        self.set("frontends", made.frontend, front.policy);
        let service = Service {
            frontend: made.frontend,
            base,
            slots: u32::try_from(slots.len()).unwrap(),
            offset: 0,
            flags: front.flags,
            ..Service::default()
        };
        self.lead(front.dialled, front.protocol, service);
        self.frontends += 1;
        made
    }

    /// Leads an address to a frontend.
    pub(crate) fn lead(&mut self, dialled: SocketAddr, protocol: u8, service: Service) {
        let port = dialled.port().to_be();
        match dialled.ip() {
            IpAddr::V4(ip) => {
                self.put("services4", ServiceKey { address: ip.octets(), port, protocol, pad: 0 }, service);
            }
            IpAddr::V6(ip) => {
                self.put("services6", ServiceKey { address: ip.octets(), port, protocol, pad: 0 }, service);
            }
        }
    }

    /// Says whose turn it is of a UDP frontend on IPv4.
    pub(crate) fn turn(&mut self, dialled: SocketAddr, turn: u32) {
        let IpAddr::V4(ip) = dialled.ip() else { panic!("{dialled}") };
        let key = ServiceKey { address: ip.octets(), port: dialled.port().to_be(), protocol: 17, pad: 0 };
        let service: Service = self.look("services4", key).unwrap();
        self.put("services4", key, Service { turn, ..service });
    }

    /// Changes a backend.
    pub(crate) fn change(&mut self, index: u32, change: impl FnOnce(&mut Backend)) {
        let mut backend = self.get("backends", index);
        change(&mut backend);
        self.set("backends", index, backend);
    }

    /// A listener in the namespace.
    pub(crate) fn listen(&self, ip: &str) -> TcpListener {
        let ip: IpAddr = ip.parse().unwrap();
        self.netns.run(|| TcpListener::bind((ip, 0)).unwrap())
    }

    /// A datagram socket in the namespace.
    pub(crate) fn bind(&self, ip: &str) -> UdpSocket {
        let ip: IpAddr = ip.parse().unwrap();
        let socket = self.netns.run(|| UdpSocket::bind((ip, 0)).unwrap());
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    }

    /// Connects in the namespace.
    pub(crate) fn connect(&self, to: SocketAddr) -> io::Result<TcpStream> {
        self.netns.run(|| TcpStream::connect(to))
    }
}

/// Which of the listeners a connection comes to, and its end there.
pub(crate) fn accept(listeners: &[&TcpListener]) -> (usize, TcpStream) {
    let at = ready(listeners);
    (at, listeners[at].accept().unwrap().0)
}

/// Which of the sockets has something to be read.
pub(crate) fn ready<S: AsFd>(sockets: &[S]) -> usize {
    let mut fds: Vec<PollFd<'_>> = sockets.iter().map(|s| PollFd::new(s, PollFlags::IN)).collect();
    let patience = Timespec { tv_sec: i64::try_from(PATIENCE.as_secs()).unwrap(), tv_nsec: 0 };
    poll(&mut fds, Some(&patience)).unwrap();
    fds.iter().position(|fd| fd.revents().contains(PollFlags::IN)).expect("it comes to one of them")
}
