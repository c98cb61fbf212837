//! The kernel programs of mesh-agent, built, and their loader.
//!
//! `programs/` has their sources and `object/mesh.o` what comes of them (`make ebpf`), so that whoever has cargo alone
//! builds the agent.

mod events;
mod flows;
mod kernel;
mod map;
mod memory;
pub mod notes;
pub mod place;
mod raw;
mod shared;

pub use events::Events;
pub use flows::{Flows, ORDERED, Seat, Tabled};
pub use kernel::{DeviceProgram, Kernel, SetupError, drivers, folder, ids, other_layouts, remove};
pub use map::{Map, PerCpu, Plain, value};
pub use mesh_ebpf_common as common;
pub use shared::Backends;

use aya::{
    Ebpf, EbpfError, EbpfLoader, include_bytes_aligned,
    programs::{Program, ProgramError},
};
use aya_obj::Object;
use mesh_ebpf_common::table;
use std::{io, path::Path};

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
    /// Flows in the cache of each CPU, for each family: a power of two, at least 4.
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
    /// How many entries the map of that name has; absent for those that have as many as their object says.
    fn of(&self, map: &str) -> Option<u32> {
        Some(match map {
            "services4" | "services6" | "allow4" | "allow6" | "allow_notes" => self.ports,
            "slots" => self.slots,
            "backends" | "backend_counts" | "members" | "backend_notes" => self.backends,
            // Of each an instance, and of all their nodes and services.
            "names" => self.backends.saturating_add(2 * self.frontends),
            "frontends" | "frontend_counts" | "frontend_notes" | "vips4" | "vips6" => self.frontends,
            "affinity" => self.clients,
            "locals4" | "locals6" => 4096,
            "nodes4" | "nodes6" => 16_384,
            "flows4" | "flows6" => table::sets(self.flows).saturating_mul(table::LINES),
            "udp_out4" | "udp_out6" | "udp_back4" | "udp_back6" => self.flows,
            "lines4" | "lines6" => lines(self.cached),
            _ => return None,
        })
    }
}

/// Entries of `lines4` and of `lines6` when each CPU is to have so many.
#[must_use]
pub fn lines(cached: u32) -> u32 {
    let cpus = map::cpus().ok().and_then(|cpus| u32::try_from(cpus).ok());
    cached.saturating_mul(cpus.unwrap_or(1))
}

/// Creates the maps, or takes those that are pinned under `pins`, and gives the programs to be loaded and attached.
/// [`Kernel`] is what an agent uses; this is for who tests programs.
///
/// # Errors
/// What aya says when the object does not fit this kernel or a map cannot be made.
pub fn open(sizes: &Sizes, pins: Option<&Path>) -> Result<Ebpf, EbpfError> {
    let names: Vec<String> = Object::parse(OBJECT)?.maps.into_keys().collect();
    let mut loader = EbpfLoader::new();
    for name in &names {
        if let Some(entries) = sizes.of(name) {
            loader.map_max_entries(name, entries);
        }
        if let Some(pins) = pins {
            loader.map_pin_path(name, pins.join(name));
        }
    }
    loader.load(OBJECT)
}

/// How often the kernel is asked for a program that a signal had it give up.
const TRIES: u32 = 20;

/// Has the kernel verify and load a program. It gives up when the thread gets a signal meanwhile (`EAGAIN` of
/// `bpf_check()`), as that of a child's end; then it is asked again.
///
/// # Errors
/// The kernel's, with what its verifier said; of a kind of program that this project has none of, `UnexpectedProgramType`.
pub fn load(program: &mut Program) -> Result<(), ProgramError> {
    let mut once = || match program {
        Program::CgroupSockAddr(program) => program.load(),
        Program::CgroupSock(program) => program.load(),
        Program::SchedClassifier(program) => program.load(),
        Program::Xdp(program) => program.load(),
        _ => Err(ProgramError::UnexpectedProgramType),
    };
    for _ in 1..TRIES {
        match once() {
            Err(ProgramError::LoadError { io_error, .. }) if io_error.kind() == io::ErrorKind::WouldBlock => {
            }
            done => return done,
        }
    }
    once()
}
