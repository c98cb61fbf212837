//! Reading and writing the maps of programs that are loaded for a test.
#![allow(dead_code, reason = "each test uses its part")]

use aya::{
    Ebpf, Pod,
    maps::{Array, HashMap, MapError, PerCpuArray},
};
use mesh_ebpf::common::V6;
use std::net::IpAddr;

/// A type of the maps, to aya.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(crate) struct Raw<T>(pub(crate) T);

// SAFETY: the types of the maps are plain numbers without padding.
unsafe impl<T: Copy + 'static> Pod for Raw<T> {}

/// An address as the maps have it; IPv4 in the first four bytes.
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

/// Whoever has loaded the programs.
pub(crate) trait Tables {
    fn ebpf(&self) -> &Ebpf;
    fn ebpf_mut(&mut self) -> &mut Ebpf;

    /// Writes into an array.
    fn set<T: Copy + 'static>(&mut self, map: &str, index: u32, value: T) {
        let mut map = Array::<_, Raw<T>>::try_from(self.ebpf_mut().map_mut(map).unwrap()).unwrap();
        map.set(index, Raw(value), 0).unwrap();
    }

    /// Reads from an array.
    fn get<T: Copy + 'static>(&self, map: &str, index: u32) -> T {
        Array::<_, Raw<T>>::try_from(self.ebpf().map(map).unwrap()).unwrap().get(&index, 0).unwrap().0
    }

    /// Reads from an array what each CPU has.
    fn of_all_cpus<T: Copy + 'static>(&self, map: &str, index: u32) -> Vec<T> {
        let map = PerCpuArray::<_, Raw<T>>::try_from(self.ebpf().map(map).unwrap()).unwrap();
        map.get(&index, 0).unwrap().iter().map(|Raw(one)| *one).collect()
    }

    /// Writes into a hash map.
    fn put<K: Copy + 'static, V: Copy + 'static>(&mut self, map: &str, key: K, value: V) {
        let mut map = HashMap::<_, Raw<K>, Raw<V>>::try_from(self.ebpf_mut().map_mut(map).unwrap()).unwrap();
        map.insert(Raw(key), Raw(value), 0).unwrap();
    }

    /// Removes from a hash map.
    fn take<K: Copy + 'static, V: Copy + 'static>(&mut self, map: &str, key: K) {
        let mut map = HashMap::<_, Raw<K>, Raw<V>>::try_from(self.ebpf_mut().map_mut(map).unwrap()).unwrap();
        map.remove(&Raw(key)).unwrap();
    }

    /// Reads from a hash map.
    fn look<K: Copy + 'static, V: Copy + 'static>(&self, map: &str, key: K) -> Option<V> {
        let map = HashMap::<_, Raw<K>, Raw<V>>::try_from(self.ebpf().map(map).unwrap()).unwrap();
        match map.get(&Raw(key), 0) {
            Ok(Raw(value)) => Some(value),
            Err(MapError::KeyNotFound) => None,
            Err(error) => panic!("{error}"),
        }
    }

    /// How many entries a hash map has.
    fn len<K: Copy + 'static, V: Copy + 'static>(&self, map: &str) -> usize {
        HashMap::<_, Raw<K>, Raw<V>>::try_from(self.ebpf().map(map).unwrap()).unwrap().keys().count()
    }
}
