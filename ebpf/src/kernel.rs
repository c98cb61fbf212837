//! What is pinned: maps, programs, and the links that put programs to work.
//!
//! ```text
//!  <bpffs>/mesh-agent/v3/<cookie of the network namespace>/
//!      services4, flows4, …       maps
//!      programs-<hash of the object>/connect4, …
//!      links/connect4, tc_ingress-7, …
//! ```
//!
//! A run of the agent that finds the same object changes nothing. Of another object it loads the programs over the maps
//! that are there and puts them into the links that are there: no packet meets none.

use crate::{
    Backends, Events, Flows, OBJECT, Sizes, Tabled, lines,
    map::{Map, PerCpu, Plain, cpus},
    notes, raw,
};
use aya_obj::Object;
use mesh_ebpf_common::LAYOUT;
use std::{
    collections::BTreeMap,
    fs, io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
};

/// The folder of all pins of the agents of a host.
const ROOT: &str = "mesh-agent";
/// The folder of links.
const LINKS: &str = "links";

/// Programs of cgroups and their attach types (`enum bpf_attach_type` of linux/bpf.h).
const SOCKETS: [(&str, u32); 11] = [
    ("connect4", 10),
    ("connect6", 11),
    ("post_bind4", 12),
    ("post_bind6", 13),
    ("sendmsg4", 14),
    ("sendmsg6", 15),
    ("recvmsg4", 19),
    ("recvmsg6", 20),
    ("getpeername4", 29),
    ("getpeername6", 30),
    ("sock_release", 34),
];

/// Programs of devices and their attach types.
const DEVICES: [(&str, u32); 2] = [("tc_ingress", 46), ("tc_egress", 47)];
/// The one that some devices have in their drivers.
const DRIVERS: &str = "xdp_ingress";

/// Why the kernel's side could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The system refused.
    #[error("{action}: {source}")]
    System {
        /// What was tried.
        action: String,
        /// The system's answer.
        source: io::Error,
    },
    /// The object or one of its programs was refused.
    #[error("{what}: {reason}")]
    Program {
        /// Which.
        what: String,
        /// In the kernel's words, the verifier's last ones among them.
        reason: String,
    },
}

fn failed(action: impl Into<String>) -> impl FnOnce(io::Error) -> SetupError {
    move |source| SetupError::System { action: action.into(), source }
}

/// A program for packets of devices.
#[derive(Clone, Copy, Debug)]
pub struct DeviceProgram<'a> {
    /// By which others may take it.
    pub descriptor: BorrowedFd<'a>,
    /// The kernel's number of it.
    pub number: u32,
}

/// The maps and programs of one network namespace.
#[derive(Debug)]
pub struct Kernel {
    folder: PathBuf,
    programs: BTreeMap<String, OwnedFd>,
}

/// The folder of a network namespace's pins in a BPF file system.
#[must_use]
pub fn folder(bpffs: &Path, netns: u64) -> PathBuf {
    bpffs.join(ROOT).join(format!("v{LAYOUT}")).join(netns.to_string())
}

/// The kernel's numbers of all that is pinned below a folder, by path: who compares two such lists sees what was made
/// anew. Of a folder that is not there, none.
///
/// # Errors
/// The system's.
pub fn ids(folder: &Path) -> io::Result<BTreeMap<PathBuf, u32>> {
    let mut ids = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for file in fs::read_dir(next).into_iter().flatten() {
            let path = file?.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            // SAFETY: maps, programs and links begin alike: a kind and a number.
            let info: raw::ProgramInfo = unsafe { raw::info(&raw::get(&path)?) }?;
            ids.insert(path.strip_prefix(folder).unwrap_or(&path).to_owned(), info.id);
        }
    }
    Ok(ids)
}

/// 64-bit FNV-1a of the object: which programs these are.
fn digest() -> u64 {
    OBJECT.iter().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
}

impl Kernel {
    /// Takes up what is pinned in `folder`, makes what is not there, and loads the programs unless they are there.
    /// Maps that are pinned keep their size.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn open(folder: &Path, sizes: &Sizes) -> Result<Kernel, SetupError> {
        // With a share of the cache too few, packets on the last CPUs would not be looked at.
        cpus().map_err(failed("ask how many CPUs there can be (/sys/devices/system/cpu/possible)"))?;
        fs::create_dir_all(folder.join(LINKS)).map_err(failed(format!("make {}", folder.display())))?;
        if let Some(name) = incompatible(folder)? {
            tracing::warn!(map = name, folder = %folder.display(), "pinned by another version: all is made anew");
            remove(folder).map_err(failed("remove old pins"))?;
            fs::create_dir_all(folder.join(LINKS)).map_err(failed(format!("make {}", folder.display())))?;
        }
        for (name, key, value) in notes::MAPS {
            let at = folder.join(name);
            if !at.exists() {
                let made = raw::create_hash(name, key, value, sizes.of(name).unwrap_or(1));
                made.and_then(|map| raw::pin(&map, &at)).map_err(failed(format!("make map {name}")))?;
            }
        }
        let pinned = folder.join(format!("programs-{:016x}", digest()));
        if !pinned.exists() {
            load(folder, sizes, &pinned)?;
        }
        let mut programs = BTreeMap::new();
        let list = fs::read_dir(&pinned).map_err(failed("list pinned programs"))?;
        for name in list.flatten().filter_map(|file| file.file_name().into_string().ok()) {
            let program = raw::get(&pinned.join(&name)).map_err(failed(format!("open program {name}")))?;
            programs.insert(name, program);
        }
        Ok(Kernel { folder: folder.to_owned(), programs })
    }

    /// A map of that name.
    ///
    /// # Errors
    /// The kernel's; `InvalidData` when its keys or values are of other sizes.
    pub fn map<K: Plain, V: Plain>(&self, name: &str) -> io::Result<Map<K, V>> {
        Map::open(&self.folder.join(name))
    }

    /// A map of that name with values for each CPU.
    ///
    /// # Errors
    /// As [`Kernel::map`].
    pub fn per_cpu<V: Plain>(&self, name: &str) -> io::Result<PerCpu<V>> {
        Map::open_per_cpu(&self.folder.join(name))
    }

    /// The backends.
    ///
    /// # Errors
    /// The kernel's.
    pub fn backends(&self) -> io::Result<Backends> {
        Backends::new(&self.map("backends")?)
    }

    /// The flows of a family.
    ///
    /// # Errors
    /// The kernel's; `InvalidData` when they are another family's.
    pub fn flows<A: Tabled>(&self, name: &str) -> io::Result<Flows<A>> {
        Flows::new(self.raw_map(name)?)
    }

    /// A descriptor of a map whatever its types.
    ///
    /// # Errors
    /// The kernel's.
    pub fn raw_map(&self, name: &str) -> io::Result<OwnedFd> {
        raw::get(&self.folder.join(name))
    }

    /// What the programs tell of packets that they do not forward; for one reader at a time.
    ///
    /// # Errors
    /// The kernel's.
    pub fn events(&self) -> io::Result<Events> {
        Events::open(&self.folder.join("events"))
    }

    /// How many flows the cache of each CPU has room for, in each family.
    ///
    /// # Errors
    /// The kernel's.
    pub fn cached(&self) -> io::Result<u32> {
        // SAFETY: the beginning of `struct bpf_map_info`.
        let info: raw::MapInfo = unsafe { raw::info(&self.raw_map("lines4")?) }?;
        Ok(info.max_entries / lines(1))
    }

    /// Puts the programs for sockets to work in a cgroup.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn attach_cgroup(&self, cgroup: &Path) -> Result<(), SetupError> {
        let what = || format!("cgroup {}", cgroup.display());
        let opened = fs::File::open(cgroup).map_err(failed(what()))?;
        let id = opened.metadata().map_err(failed(what()))?.ino();
        #[expect(clippy::cast_possible_truncation, reason = "the two halves of a number")]
        let target = [id as u32, (id >> 32) as u32];
        for (name, kind) in SOCKETS {
            let Some(program) = self.programs.get(name) else { continue };
            self.ensure(name, program, kind, opened.as_fd().as_raw_fd().unsigned_abs(), target)
                .map_err(failed(format!("attach {name} to {}", what())))?;
        }
        Ok(())
    }

    /// The programs for packets that come in, and for those that go out: for who puts them to work without tcx.
    ///
    /// # Errors
    /// The kernel's; `NotFound` when one is not pinned.
    pub fn device_programs(&self) -> io::Result<[DeviceProgram<'_>; 2]> {
        let program = |(name, _): (&str, u32)| {
            let program = self.programs.get(name).ok_or(io::ErrorKind::NotFound)?;
            Ok::<_, io::Error>(DeviceProgram { descriptor: program.as_fd(), number: program_id(program)? })
        };
        let [ingress, egress] = DEVICES.map(program);
        Ok([ingress?, egress?])
    }

    /// Puts the programs for packets to work on a device of the calling thread's network namespace.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn attach_device(&self, index: u32) -> Result<(), SetupError> {
        for (name, kind) in DEVICES {
            let Some(program) = self.programs.get(name) else { continue };
            self.ensure(&device_link(name, index), program, kind, index, [index, kind])
                .map_err(failed(format!("attach {name} to device {index}")))?;
        }
        Ok(())
    }

    /// Puts the program at XDP to work in the driver of a device of the calling thread's network namespace.
    ///
    /// # Errors
    /// What the kernel says: that the driver cannot, or has another's program.
    pub fn attach_driver(&self, index: u32) -> Result<(), SetupError> {
        let Some(program) = self.programs.get(DRIVERS) else { return Ok(()) };
        self.ensure(&device_link(DRIVERS, index), program, raw::XDP, index, [index, 0])
            .map_err(failed(format!("attach {DRIVERS} to device {index}")))
    }

    /// Takes the programs for packets off all devices but these.
    ///
    /// # Errors
    /// What the system says.
    pub fn only_devices(&self, wanted: &[u32]) -> io::Result<()> {
        DEVICES.iter().try_for_each(|(program, _)| self.only(program, wanted))
    }

    /// Takes the program at XDP out of all drivers but those of these devices.
    ///
    /// # Errors
    /// What the system says.
    pub fn only_drivers(&self, wanted: &[u32]) -> io::Result<()> {
        self.only(DRIVERS, wanted)
    }

    fn only(&self, program: &str, wanted: &[u32]) -> io::Result<()> {
        for (device, link) in links(&self.folder, program)? {
            if !wanted.contains(&device) {
                detach(&link)?;
            }
        }
        Ok(())
    }

    /// Sees to it that a link of that name leads to that target and program.
    fn ensure(
        &self,
        name: &str,
        program: &OwnedFd,
        kind: u32,
        target: u32,
        told: [u32; 2],
    ) -> io::Result<()> {
        let at = self.folder.join(LINKS).join(name);
        if at.exists() {
            let link = raw::get(&at)?;
            // SAFETY: the beginning of `struct bpf_link_info` of such a link.
            let info: raw::LinkInfo = unsafe { raw::info(&link) }?;
            if info.target == told {
                return if info.program == program_id(program)? {
                    Ok(())
                } else {
                    raw::replace(&link, program)
                };
            }
            // Of a device or cgroup that is gone, or from which somebody took it.
            detach(&at)?;
        }
        raw::pin(&raw::attach(program, target, kind)?, &at)
    }

    /// Removes the programs of other objects, and the maps that only they have; to be called when no link has them any more.
    ///
    /// # Errors
    /// The system's.
    pub fn forget_others(&self) -> io::Result<()> {
        let ours = format!("programs-{:016x}", digest());
        let object = Object::parse(OBJECT).map_err(io::Error::other)?;
        let notes: Vec<_> = notes::MAPS.iter().map(|(name, ..)| *name).collect();
        for pin in fs::read_dir(&self.folder)?.flatten() {
            let (name, path) = (pin.file_name(), pin.path());
            let name = name.to_string_lossy();
            if path.is_dir() {
                if name.starts_with("programs-") && name != ours {
                    remove(&path)?;
                }
            } else if !object.maps.contains_key(&*name) && !notes.contains(&&*name) {
                fs::remove_file(&path)?;
            }
        }
        Ok(())
    }
}

/// The devices that have a program, and the links.
fn links(folder: &Path, program: &str) -> io::Result<Vec<(u32, PathBuf)>> {
    let device = |file: fs::DirEntry| {
        let name = file.file_name().into_string().ok()?;
        Some((name.strip_prefix(program)?.strip_prefix('-')?.parse().ok()?, file.path()))
    };
    Ok(fs::read_dir(folder.join(LINKS))?.flatten().filter_map(device).collect())
}

/// The devices with the program at XDP, of the agent whose pins are in `folder`.
///
/// # Errors
/// The system's.
pub fn drivers(folder: &Path) -> io::Result<Vec<u32>> {
    Ok(links(folder, DRIVERS)?.into_iter().map(|(device, _)| device).collect())
}

fn device_link(program: &str, index: u32) -> String {
    format!("{program}-{index}")
}

fn program_id(program: &OwnedFd) -> io::Result<u32> {
    // SAFETY: the beginning of `struct bpf_prog_info`.
    let info: raw::ProgramInfo = unsafe { raw::info(program) }?;
    Ok(info.id)
}

/// The first pinned map that is not as our programs need it.
fn incompatible(folder: &Path) -> Result<Option<String>, SetupError> {
    let object = Object::parse(OBJECT)
        .map_err(|error| SetupError::Program { what: "the object".into(), reason: error.to_string() })?;
    let ours = object.maps.iter().map(|(name, map)| (name.as_str(), map.key_size(), map.value_size()));
    let size = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX);
    let notes = notes::MAPS.iter().map(|(name, key, value)| (*name, size(*key), size(*value)));
    for (name, key, value) in ours.chain(notes) {
        let at = folder.join(name);
        if !at.exists() {
            continue;
        }
        let map = raw::get(&at).map_err(failed(format!("open map {name}")))?;
        // SAFETY: the beginning of `struct bpf_map_info`.
        let held: raw::MapInfo =
            unsafe { raw::info(&map) }.map_err(failed(format!("ask about map {name}")))?;
        let kind = object.maps.get(name).map_or(held.kind, aya_obj::Map::map_type);
        if (held.kind, held.key_size, held.value_size) != (kind, key, value) {
            return Ok(Some(name.to_owned()));
        }
    }
    Ok(None)
}

/// Loads all programs over the maps in `folder`, making those that are not there, and pins them under `to`.
fn load(folder: &Path, sizes: &Sizes, to: &Path) -> Result<(), SetupError> {
    let refused = |what: &str, error: &dyn std::error::Error| {
        let mut reason = error.to_string();
        let mut source = error.source();
        while let Some(error) = source {
            reason = format!("{reason}: {error}");
            source = error.source();
        }
        SetupError::Program { what: what.to_owned(), reason }
    };
    let mut ebpf = crate::open(sizes, Some(folder)).map_err(|error| refused("the object", &error))?;
    // Complete or not there: renamed when all are loaded.
    let half = folder.join("programs-new");
    remove(&half).and_then(|()| fs::create_dir(&half)).map_err(failed("make a folder for programs"))?;
    for (name, program) in ebpf.programs_mut() {
        let what = format!("program {name}");
        crate::load(program).map_err(|error| refused(&what, &error))?;
        let program = program.fd().map_err(|error| refused(&what, &error))?;
        raw::pin(program, &half.join(name)).map_err(failed(format!("pin {what}")))?;
    }
    fs::rename(&half, to).map_err(failed("name the programs' folder"))
}

/// Takes a link off and forgets it. One of a device or cgroup that is gone is off already.
fn detach(link: &Path) -> io::Result<()> {
    match raw::detach(&raw::get(link)?) {
        Err(error) if error.raw_os_error() != Some(libc::ENOLINK) => Err(error),
        _ => fs::remove_file(link),
    }
}

/// Removes a folder of pins with all in it: links first, so that no program works on half of the maps. One that is not
/// there is no error.
///
/// # Errors
/// The system's.
pub fn remove(folder: &Path) -> io::Result<()> {
    for link in fs::read_dir(folder.join(LINKS)).into_iter().flatten().flatten() {
        detach(&link.path())?;
    }
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The folders of a network namespace that other layouts than this one left.
#[must_use]
pub fn other_layouts(bpffs: &Path, netns: u64) -> Vec<PathBuf> {
    let ours = folder(bpffs, netns);
    let layouts = fs::read_dir(bpffs.join(ROOT)).into_iter().flatten().flatten();
    layouts
        .map(|layout| layout.path().join(netns.to_string()))
        .filter(|path| *path != ours && path.exists())
        .collect()
}

#[cfg(test)]
mod tests;
