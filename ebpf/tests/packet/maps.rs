//! What the node's maps have.

use crate::{
    bed::{Bed, LINES},
    packet::Packet,
    plan::Plan,
    tables::{Tables as _, wide},
};
use aya::maps::Map;
use mesh_ebpf::{
    Flows, Tabled,
    common::{Backend, BackendCounts, Cached, Config, Drop, FlowKey, Service, ServiceKey, V4, V6, direction},
};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub(crate) fn v4(ip: IpAddr) -> V4 {
    wide(ip)[..4].try_into().unwrap()
}

impl Bed {
    /// The index of the frontend, and backend, that serves a port.
    pub(crate) fn served(&self, plan: &Plan, number: u16, protocol: u8) -> u32 {
        self.served_at(plan.vip, number, protocol)
    }

    /// The same of a port of an address, which is zero for every local one.
    pub(crate) fn served_at(&self, address: IpAddr, number: u16, protocol: u8) -> u32 {
        let service = if address.is_ipv4() {
            let key = ServiceKey { address: v4(address), port: number.to_be(), protocol, pad: 0 };
            self.look::<_, Service>("services4", key)
        } else {
            let key = ServiceKey { address: wide(address), port: number.to_be(), protocol, pad: 0 };
            self.look::<_, Service>("services6", key)
        };
        service.unwrap().frontend
    }

    /// Has new connections to a port of the VIP go to two backends in turn.
    pub(crate) fn takes_turns(&mut self, plan: &Plan, number: u16, backends: [u32; 2]) {
        // Behind the slots that frontends have of themselves.
        let base = 200;
        for (slot, backend) in (base..).zip(backends) {
            self.set("slots", slot, backend);
        }
        self.change_service(plan.vip, number, 6, |service| Service { base, slots: 2, ..service });
    }

    /// Changes what a port of an address leads to.
    fn change_service(
        &mut self,
        address: IpAddr,
        number: u16,
        protocol: u8,
        change: impl FnOnce(Service) -> Service,
    ) {
        let (port, pad) = (number.to_be(), 0);
        if address.is_ipv4() {
            let key = ServiceKey { address: v4(address), port, protocol, pad };
            let service = self.look("services4", key).unwrap();
            self.put("services4", key, change(service));
        } else {
            let key = ServiceKey { address: wide(address), port, protocol, pad };
            let service = self.look("services6", key).unwrap();
            self.put("services6", key, change(service));
        }
    }

    /// Changes the flags of a published port's frontends.
    pub(crate) fn flags(&mut self, four: bool, number: u16, flags: u16) {
        let any = if four { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        for protocol in [6, 17] {
            self.change_service(any, number, protocol, |service| Service { flags, ..service });
        }
    }

    /// Changes the facts of the node.
    pub(crate) fn configure(&mut self, change: impl FnOnce(&mut Config)) {
        let mut config: Config = self.get("config", 0);
        change(&mut config);
        self.set("config", 0, config);
    }

    /// Changes a backend; what is cached is stale then.
    pub(crate) fn change(&mut self, index: u32, change: impl FnOnce(&mut Backend)) {
        let mut backend = self.get("backends", index);
        change(&mut backend);
        self.set("backends", index, backend);
        self.configure(|config| config.epoch += 1);
    }

    /// Packets that were dropped for a reason, on all CPUs.
    pub(crate) fn dropped(&self, reason: Drop) -> u64 {
        self.of_all_cpus::<u64>("drops", reason as u32).iter().sum()
    }

    /// What a backend got, and its entry, which has how many flows it has.
    pub(crate) fn counts(&self, backend: u32) -> (BackendCounts, Backend) {
        let all = self.of_all_cpus("backend_counts", backend);
        let sum = all.iter().fold(BackendCounts::default(), |sum, one: &BackendCounts| BackendCounts {
            reset: sum.reset + one.reset,
            bytes_in: sum.bytes_in + one.bytes_in,
            bytes_out: sum.bytes_out + one.bytes_out,
        });
        (sum, self.get("backends", backend))
    }

    /// The bits of a packet's flow but for OPEN, which matters where places are scarce and nowhere else.
    pub(crate) fn bits(&self, packet: &Packet) -> Option<u32> {
        self.flow(packet).map(|(bits, _)| bits & !direction::OPEN)
    }

    /// Whether a packet's flow has OPEN.
    pub(crate) fn open(&self, packet: &Packet) -> bool {
        self.flow(packet).is_some_and(|(bits, _)| bits & direction::OPEN != 0)
    }

    /// The new source port of a packet's flow.
    pub(crate) fn source(&self, packet: &Packet) -> Option<u16> {
        self.flow(packet).map(|(_, port)| port)
    }

    fn flow(&self, packet: &Packet) -> Option<(u32, u16)> {
        let ports = *packet.clone().ports().unwrap();
        let seed = self.seed();
        let found = if packet.from.is_ipv4() {
            let key = key(v4(packet.from), v4(packet.to), ports, packet.protocol());
            self.flows::<V4>("flows4").get(&key, seed).map(|(_, flow)| (flow.bits, flow.source_port))
        } else {
            let key = key(wide(packet.from), wide(packet.to), ports, packet.protocol());
            self.flows::<V6>("flows6").get(&key, seed).map(|(_, flow)| (flow.bits, flow.source_port))
        };
        found.map(|(bits, port)| (bits, u16::from_be(port)))
    }

    /// Forgets one direction, as if it had been evicted.
    pub(crate) fn evict(&mut self, packet: &Packet) {
        let ports = *packet.clone().ports().unwrap();
        let seed = self.seed();
        if packet.from.is_ipv4() {
            let key = key(v4(packet.from), v4(packet.to), ports, packet.protocol());
            let flows = self.flows::<V4>("flows4");
            assert!(flows.get(&key, seed).is_some_and(|(seat, flow)| flows.remove(seat, &flow)));
        } else {
            let key = key(wide(packet.from), wide(packet.to), ports, packet.protocol());
            let flows = self.flows::<V6>("flows6");
            assert!(flows.get(&key, seed).is_some_and(|(seat, flow)| flows.remove(seat, &flow)));
        }
        self.configure(|config| config.epoch += 1);
    }

    /// The table of flows of a family.
    pub(crate) fn flows<A: Tabled>(&self, name: &str) -> Flows<A> {
        let Some(Map::Array(map)) = self.ebpf.map(name) else { panic!("no table {name}") };
        Flows::new(map.fd()).unwrap()
    }

    fn seed(&self) -> u32 {
        self.get::<Config>("config", 0).seed
    }

    /// The devices that a packet's flow leaves by, as the CPUs that have it at hand say.
    pub(crate) fn leaves_by(&self, packet: &Packet) -> Vec<u32> {
        let ports = *packet.clone().ports().unwrap();
        let (source, destination, protocol) = (packet.from, packet.to, packet.protocol());
        if packet.from.is_ipv4() {
            let key = key(v4(source), v4(destination), ports, protocol);
            self.at_hand::<V4>("lines4", |cached| (cached.key == key).then_some(cached.rewrite.device))
        } else {
            let key = key(wide(source), wide(destination), ports, protocol);
            self.at_hand::<V6>("lines6", |cached| (cached.key == key).then_some(cached.rewrite.device))
        }
    }

    fn at_hand<A: Copy + 'static>(&self, map: &str, of: impl Fn(&Cached<A>) -> Option<u32>) -> Vec<u32> {
        let lines = (0..mesh_ebpf::lines(LINES)).map(|line| self.get::<Cached<A>>(map, line));
        lines.filter(|cached| cached.epoch != 0).filter_map(|cached| of(&cached)).collect()
    }
}

fn key<A>(source: A, destination: A, ports: (u16, u16), protocol: u8) -> FlowKey<A> {
    let (source_port, destination_port) = (ports.0.to_be(), ports.1.to_be());
    FlowKey { source, destination, source_port, destination_port, protocol, pad: [0; 3] }
}
