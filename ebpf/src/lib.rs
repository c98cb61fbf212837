//! The kernel programs of mesh-agent, built, and their loader.
//!
//! `programs/` has their sources and `object/mesh.o` what comes of them (`make ebpf`), so that whoever has cargo alone
//! builds the agent.

pub use mesh_ebpf_common as common;

use aya::{Ebpf, EbpfLoader, include_bytes_aligned};
use std::path::Path;

/// The programs as an ELF object with BTF.
pub static OBJECT: &[u8] = include_bytes_aligned!("../object/mesh.o");

/// How many entries maps have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sizes {
    /// Frontends; each port of a range has an entry in `services4` or `services6`.
    pub frontends: u32,
    /// Ports of frontends, for each family.
    pub ports: u32,
    /// Backends of all frontends.
    pub backends: u32,
    /// Slots of all frontends.
    pub slots: u32,
    /// Directions of flows, for each family.
    pub flows: u32,
    /// Flows in the cache of each CPU, for each family: a power of two.
    pub cached: u32,
    /// Clients that affinity remembers.
    pub clients: u32,
}

impl Default for Sizes {
    fn default() -> Self {
        Sizes {
            frontends: 1 << 15,
            ports: 1 << 17,
            backends: 1 << 17,
            slots: 1 << 20,
            flows: 1 << 17,
            cached: 1 << 14,
            clients: 1 << 16,
        }
    }
}

impl Sizes {
    /// The maps by name.
    fn each(&self) -> [(&'static str, u32); 30] {
        [
            ("services4", self.ports),
            ("services6", self.ports),
            ("slots", self.slots),
            ("backends", self.backends),
            ("active", self.backends),
            ("backend_counts", self.backends),
            ("frontends", self.frontends),
            ("turns", self.frontends),
            ("frontend_counts", self.frontends),
            ("members", self.backends),
            ("affinity", self.clients),
            ("allow4", self.ports),
            ("allow6", self.ports),
            ("locals4", 4096),
            ("locals6", 4096),
            ("nodes4", 16_384),
            ("nodes6", 16_384),
            ("vips4", self.frontends),
            ("vips6", self.frontends),
            ("flows4", self.flows),
            ("flows6", self.flows),
            ("cache4", self.cached),
            ("cache6", self.cached),
            ("udp_out4", self.flows),
            ("udp_out6", self.flows),
            ("udp_back4", self.flows),
            ("udp_back6", self.flows),
            ("names", self.backends),
            ("config", 1),
            ("drops", common::Drop::COUNT),
        ]
    }
}

/// Creates the maps, or takes those that are pinned under `pins`, and gives the programs to be loaded and attached.
///
/// # Errors
/// What aya says when the object does not fit this kernel or a map cannot be made.
pub fn open(sizes: &Sizes, pins: Option<&Path>) -> Result<Ebpf, aya::EbpfError> {
    let mut loader = EbpfLoader::new();
    for (name, entries) in sizes.each() {
        loader.map_max_entries(name, entries);
        if let Some(pins) = pins {
            loader.map_pin_path(name, pins.join(name));
        }
    }
    loader.load(OBJECT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use aya::programs::CgroupSockAddr;

    #[test]
    fn the_programs_load() {
        let mut ebpf = open(&Sizes::default(), None).unwrap();
        let program: &mut CgroupSockAddr = ebpf.program_mut("connect4").unwrap().try_into().unwrap();
        program.load().unwrap();
    }
}
