//! What the node's maps have.

use crate::{bed::Bed, packet::Packet, plan::Plan};
use aya::{
    Pod,
    maps::{Array, HashMap, MapError, PerCpuArray},
};
use mesh_ebpf::common::{
    Backend, BackendCounts, Cached, Config, Drop, Flow, FlowKey, Service, ServiceKey, V4, V6,
};
use std::net::IpAddr;

/// A type of the maps, to aya.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(crate) struct Raw<T>(pub(crate) T);

// SAFETY: the types of the maps are plain numbers without padding.
unsafe impl<T: Copy + 'static> Pod for Raw<T> {}

pub(crate) fn wide(ip: IpAddr) -> V6 {
    match ip {
        IpAddr::V4(ip) => {
            let mut wide = [0; 16];
            wide[..4].copy_from_slice(&ip.octets());
            wide
        }
        IpAddr::V6(ip) => ip.octets(),
    }
}

pub(crate) fn v4(ip: IpAddr) -> V4 {
    wide(ip)[..4].try_into().unwrap()
}

impl Bed {
    /// The index of the frontend, and backend, that serves a port.
    pub(crate) fn served(&self, plan: &Plan, number: u16, protocol: u8) -> u32 {
        let service = if plan.vip.is_ipv4() {
            let key = ServiceKey { address: v4(plan.vip), port: number.to_be(), protocol, pad: 0 };
            self.look::<_, Service>("services4", key)
        } else {
            let key = ServiceKey { address: wide(plan.vip), port: number.to_be(), protocol, pad: 0 };
            self.look::<_, Service>("services6", key)
        };
        service.unwrap().frontend
    }

    /// Writes into an array.
    pub(crate) fn set<T: Copy + 'static>(&mut self, map: &str, index: u32, value: T) {
        let mut map = Array::<_, Raw<T>>::try_from(self.ebpf.map_mut(map).unwrap()).unwrap();
        map.set(index, Raw(value), 0).unwrap();
    }

    /// Reads from an array.
    pub(crate) fn get<T: Copy + 'static>(&self, map: &str, index: u32) -> T {
        Array::<_, Raw<T>>::try_from(self.ebpf.map(map).unwrap()).unwrap().get(&index, 0).unwrap().0
    }

    /// Writes into a hash map.
    pub(crate) fn put<K: Copy + 'static, V: Copy + 'static>(&mut self, map: &str, key: K, value: V) {
        let mut map = HashMap::<_, Raw<K>, Raw<V>>::try_from(self.ebpf.map_mut(map).unwrap()).unwrap();
        map.insert(Raw(key), Raw(value), 0).unwrap();
    }

    /// Removes from a hash map.
    pub(crate) fn take<K: Copy + 'static, V: Copy + 'static>(&mut self, map: &str, key: K) {
        let mut map = HashMap::<_, Raw<K>, Raw<V>>::try_from(self.ebpf.map_mut(map).unwrap()).unwrap();
        map.remove(&Raw(key)).unwrap();
    }

    /// Reads from a hash map.
    pub(crate) fn look<K: Copy + 'static, V: Copy + 'static>(&self, map: &str, key: K) -> Option<V> {
        let map = HashMap::<_, Raw<K>, Raw<V>>::try_from(self.ebpf.map(map).unwrap()).unwrap();
        match map.get(&Raw(key), 0) {
            Ok(Raw(value)) => Some(value),
            Err(MapError::KeyNotFound) => None,
            Err(error) => panic!("{error}"),
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
        let map = PerCpuArray::<_, u64>::try_from(self.ebpf.map("drops").unwrap()).unwrap();
        map.get(&(reason as u32), 0).unwrap().iter().sum()
    }

    /// What a backend got, and how many flows it has.
    pub(crate) fn counts(&self, backend: u32) -> (BackendCounts, i64) {
        let map =
            PerCpuArray::<_, Raw<BackendCounts>>::try_from(self.ebpf.map("backend_counts").unwrap()).unwrap();
        let sum = map.get(&backend, 0).unwrap().iter().fold(BackendCounts::default(), |sum, Raw(one)| {
            BackendCounts {
                begun: sum.begun + one.begun,
                ended: sum.ended + one.ended,
                reset: sum.reset + one.reset,
                bytes_in: sum.bytes_in + one.bytes_in,
                bytes_out: sum.bytes_out + one.bytes_out,
            }
        });
        (sum, self.get("active", backend))
    }

    /// The bits of a packet's flow.
    pub(crate) fn bits(&self, packet: &Packet) -> Option<u32> {
        self.flow(packet).map(|(bits, _)| bits)
    }

    /// The bits of a packet's flow, and its new source port.
    pub(crate) fn flow(&self, packet: &Packet) -> Option<(u32, u16)> {
        let ports = *packet.clone().ports().unwrap();
        if packet.from.is_ipv4() {
            let key = key(v4(packet.from), v4(packet.to), ports, packet.protocol());
            self.look::<_, Flow<V4>>("flows4", key).map(|flow| (flow.bits, u16::from_be(flow.source_port)))
        } else {
            let key = key(wide(packet.from), wide(packet.to), ports, packet.protocol());
            self.look::<_, Flow<V6>>("flows6", key).map(|flow| (flow.bits, u16::from_be(flow.source_port)))
        }
    }

    /// Forgets one direction, as if it had been evicted.
    pub(crate) fn evict(&mut self, packet: &Packet) {
        let ports = *packet.clone().ports().unwrap();
        if packet.from.is_ipv4() {
            self.take::<_, Flow<V4>>("flows4", key(v4(packet.from), v4(packet.to), ports, packet.protocol()));
        } else {
            self.take::<_, Flow<V6>>(
                "flows6",
                key(wide(packet.from), wide(packet.to), ports, packet.protocol()),
            );
        }
        self.configure(|config| config.epoch += 1);
    }

    /// The device that a packet's flow leaves by, as some CPU has it at hand.
    pub(crate) fn leaves_by(&self, packet: &Packet) -> Option<u32> {
        let ports = *packet.clone().ports().unwrap();
        let (source, destination, protocol) = (packet.from, packet.to, packet.protocol());
        if packet.from.is_ipv4() {
            let key = key(v4(source), v4(destination), ports, protocol);
            self.at_hand::<V4>("cache4", |cached| (cached.key == key).then_some(cached.rewrite.device))
        } else {
            let key = key(wide(source), wide(destination), ports, protocol);
            self.at_hand::<V6>("cache6", |cached| (cached.key == key).then_some(cached.rewrite.device))
        }
    }

    fn at_hand<A: Copy + 'static>(&self, map: &str, of: impl Fn(&Cached<A>) -> Option<u32>) -> Option<u32> {
        let map = PerCpuArray::<_, Raw<Cached<A>>>::try_from(self.ebpf.map(map).unwrap()).unwrap();
        (0..64)
            .flat_map(|line| map.get(&line, 0).unwrap().iter().map(|Raw(c)| of(c)).collect::<Vec<_>>())
            .flatten()
            .next()
    }
}

fn key<A>(source: A, destination: A, ports: (u16, u16), protocol: u8) -> FlowKey<A> {
    let (source_port, destination_port) = (ports.0.to_be(), ports.1.to_be());
    FlowKey { source, destination, source_port, destination_port, protocol, pad: [0; 3] }
}
