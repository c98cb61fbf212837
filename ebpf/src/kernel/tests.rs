//! Against this kernel, as root: pins in a file system of the test's own, programs on a cgroup of its own.

use super::*;
use crate::{notes::BackendNote, place};
use mesh_ebpf_common::{Service, ServiceKey, V4};
use netns::Netns;

#[path = "../../tests/socket/netns.rs"]
#[allow(clippy::unwrap_used, dead_code, reason = "shared with the tests of programs")]
mod netns;

/// Pins and a cgroup that go with the test.
struct Ground {
    bpffs: OwnedFd,
    cgroup: PathBuf,
}

impl Ground {
    /// `None` without the privileges, which is told.
    fn new(name: &str) -> Option<Ground> {
        let bpffs = match place::private_bpffs() {
            Ok(bpffs) => bpffs,
            Err(error) if std::env::var_os("CI").is_none() => {
                eprintln!("skipped: {error}: needs CAP_SYS_ADMIN and CAP_BPF");
                return None;
            }
            Err(error) => panic!("{error}"),
        };
        let cgroup = place::cgroups().unwrap().join(format!("mesh-test-{name}-{}", std::process::id()));
        fs::create_dir(&cgroup).unwrap();
        Some(Ground { bpffs, cgroup })
    }

    fn folder(&self) -> PathBuf {
        folder(&PathBuf::from(format!("/proc/self/fd/{}", self.bpffs.as_raw_fd())), 7)
    }

    fn open(&self) -> Kernel {
        let small = Sizes { ports: 256, backends: 10_000, ..Sizes::default() };
        Kernel::open(&self.folder(), &small).unwrap()
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(self.folder()));
        drop(fs::remove_dir(&self.cgroup));
    }
}

fn links(folder: &Path) -> BTreeMap<String, (u32, u32)> {
    let files = fs::read_dir(folder.join(LINKS)).unwrap().flatten();
    let told = |path: &Path| {
        // SAFETY: the beginning of `struct bpf_link_info`.
        let info: raw::LinkInfo = unsafe { raw::info(&raw::get(path).unwrap()) }.unwrap();
        (info.id, info.program)
    };
    files.map(|file| (file.file_name().into_string().unwrap(), told(&file.path()))).collect()
}

#[test]
fn another_run_makes_nothing_anew_and_another_object_replaces_programs_in_their_links() {
    let Some(ground) = Ground::new("replace") else { return };
    let first = ground.open();
    first.attach_cgroup(&ground.cgroup).unwrap();
    let ids = || ids(&ground.folder()).unwrap();
    let (made, before) = (ids(), links(&ground.folder()));
    assert!(
        before.contains_key("connect4") && made.contains_key(Path::new("dialled")),
        "{before:?} {made:?}"
    );
    let again = ground.open();
    again.attach_cgroup(&ground.cgroup).unwrap();
    assert_eq!((ids(), links(&ground.folder())), (made.clone(), before.clone()));

    let folder = ground.folder();
    fs::rename(folder.join(format!("programs-{:016x}", digest())), folder.join("programs-0")).unwrap();
    let other = ground.open();
    other.attach_cgroup(&ground.cgroup).unwrap();
    let of_old = folder.join("of_an_older_version");
    raw::create_hash("of_older", 4, 4, 1).and_then(|map| raw::pin(&map, &of_old)).unwrap();
    other.forget_others().unwrap();
    assert!(!of_old.exists(), "no program has this map any more");
    let after = links(&folder);
    let stay = |ids: BTreeMap<PathBuf, u32>| {
        let is_program = |path: &Path| path.to_string_lossy().starts_with("programs-");
        ids.into_iter().filter(|(path, _)| !is_program(path)).collect::<Vec<_>>()
    };
    assert_eq!(stay(ids()), stay(made), "maps and links");
    assert!(!folder.join("programs-0").exists());
    for (name, (link, program)) in before {
        let (same, new) = after[&name];
        assert!(same == link && new != program, "{name}: the link stays, the program is another");
    }
}

/// In a namespace with a pair of veth(4), whose driver has programs, and the loopback device, whose has none.
#[test]
fn drivers_have_the_program_until_nobody_wants_it() {
    let Some(ground) = Ground::new("drivers") else { return };
    let netns = Netns::new().unwrap();
    netns.ip("link add one index 11 type veth peer name other index 12");
    let attach = |kernel: &Kernel, index| netns.run(|| kernel.attach_driver(index));
    let folder = ground.folder();
    let first = ground.open();
    attach(&first, 11).unwrap();
    attach(&first, 12).unwrap();
    attach(&first, 1).unwrap_err();
    let mut both = drivers(&folder).unwrap();
    both.sort_unstable();
    assert_eq!(both, [11, 12]);
    let before = links(&folder);
    // Another run, and another object.
    attach(&ground.open(), 11).unwrap();
    assert_eq!(links(&folder), before);
    fs::rename(folder.join(format!("programs-{:016x}", digest())), folder.join("programs-0")).unwrap();
    let second = ground.open();
    attach(&second, 11).unwrap();
    let (name, after) = ("xdp_ingress-11", links(&folder));
    assert!(after[name].0 == before[name].0 && after[name].1 != before[name].1, "{before:?} {after:?}");
    // A device that is gone, and one that is not wanted.
    second.only_devices(&[]).unwrap();
    assert_eq!(drivers(&folder).unwrap().len(), 2, "these have links of their own");
    second.only_drivers(&[11]).unwrap();
    assert_eq!(drivers(&folder).unwrap(), [11]);
    netns.ip("link del one");
    second.only_drivers(&[]).unwrap();
    assert_eq!(drivers(&folder).unwrap(), [0; 0]);
    netns.ip("link add one index 11 type veth peer name other index 12");
    attach(&second, 11).unwrap();
    // What is removed leaves the driver at once: there is room for another's.
    remove(&folder).unwrap();
    let third = ground.open();
    attach(&third, 11).unwrap();
}

#[test]
fn maps_of_another_form_are_made_anew() {
    let Some(ground) = Ground::new("form") else { return };
    let folder = ground.folder();
    fs::create_dir_all(&folder).unwrap();
    raw::pin(&raw::create_hash("services4", 4, 4, 8).unwrap(), &folder.join("services4")).unwrap();
    let kernel = ground.open();
    assert_eq!(kernel.map::<ServiceKey<V4>, Service>("services4").unwrap().entries().unwrap(), []);
    let wrong = kernel.map::<u32, u32>("services4").unwrap_err();
    assert_eq!(wrong.kind(), io::ErrorKind::InvalidData, "{wrong}");
}

#[test]
fn entries_are_written_read_and_deleted_in_batches() {
    let Some(ground) = Ground::new("batch") else { return };
    let kernel = ground.open();
    let notes = kernel.map::<u32, BackendNote>("backend_notes").unwrap();
    let note = |n: u32| (n, BackendNote { instance: u64::from(n), ..BackendNote::default() });
    let all: Vec<_> = (0..10_000).map(note).collect();
    notes.put(&all).unwrap();
    let sorted = |mut entries: Vec<(u32, BackendNote)>| {
        entries.sort_by_key(|(n, _)| *n);
        entries
    };
    assert_eq!(sorted(notes.entries().unwrap()), all);
    assert_eq!(notes.put(&[note(10_000)]).unwrap_err().raw_os_error(), Some(libc::E2BIG));
    let even: Vec<u32> = (0..10_000).step_by(2).collect();
    notes.delete(&even).unwrap();
    notes.delete(&(0..10_000).collect::<Vec<_>>()[..5000]).unwrap();
    let left: Vec<_> = all.iter().copied().filter(|(n, _)| n % 2 == 1 && *n >= 5000).collect();
    assert_eq!(sorted(notes.entries().unwrap()), left);
    assert_eq!(notes.get(&5001).unwrap(), Some(note(5001).1));
    assert_eq!(notes.get(&5002).unwrap(), None);

    let slots = kernel.map::<u32, u32>("slots").unwrap();
    slots.put(&(70..8000).map(|n| (n, n + 1)).collect::<Vec<_>>()).unwrap();
    let read = slots.range(60, 9000).unwrap();
    assert_eq!(read.len(), 9000);
    assert_eq!((read[9], read[10], read[7939], read[7940]), (0, 71, 8000, 0));

    let counts = kernel.per_cpu::<mesh_ebpf_common::FrontendCounts>("frontend_counts").unwrap();
    counts.clear(&[3]).unwrap();
    counts.clear(&(0..9000).collect::<Vec<_>>()).unwrap();
    let mut seen = 0;
    counts.of_all_cpus(9, |_, values| seen += usize::from(values.iter().all(|v| v.denied == 0))).unwrap();
    assert_eq!(seen, 9);
}
