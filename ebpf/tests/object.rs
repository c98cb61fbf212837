//! The committed object: of the committed sources, and such that this kernel's verifier takes it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use aya::EbpfLoader;
use mesh_ebpf::OBJECT;
use ring::digest::{SHA256, digest};
use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

/// The folder that the names in the list of sums are relative to.
fn folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The files below a folder.
fn sources(of: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(of).unwrap() {
        let path: PathBuf = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else {
            found.insert(path.strip_prefix(folder()).unwrap().to_str().unwrap().to_owned());
        }
    }
}

#[test]
fn the_object_is_of_its_sources() {
    let list = fs::read_to_string(folder().join("object/sums")).unwrap();
    let mut listed = BTreeSet::new();
    let mut changed = Vec::new();
    for line in list.lines().filter(|line| !line.starts_with('#')) {
        let (sum, name) = line.split_once("  ").unwrap();
        let bytes = fs::read(folder().join(name)).unwrap_or_default();
        let is: String = digest(&SHA256, &bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        if is != sum {
            changed.push(name);
        }
        listed.insert(name.to_owned());
    }
    let single = [
        "object/floors.o",
        "object/mesh.o",
        "common/Cargo.toml",
        "programs/Cargo.toml",
        "programs/Cargo.lock",
    ];
    let mut there = single.map(str::to_owned).into();
    sources(&folder().join("common/src"), &mut there);
    sources(&folder().join("programs/src"), &mut there);
    assert_eq!(listed, there, "files were added or removed since `make ebpf`");
    assert!(changed.is_empty(), "changed since `make ebpf`: {changed:?}");
}

/// Nothing in it names the machine that built it.
#[test]
fn the_object_has_no_path_of_a_machine() {
    let text = String::from_utf8_lossy(OBJECT);
    for path in ["/home/", "/root/", "/work/", "/tmp/", "/usr/", ".cargo/"] {
        assert!(!text.contains(path), "{path}");
    }
}

/// A program that the compiler makes a call of its own body has one frame more, of whose 512 bytes Linux 6.1 takes 32: more
/// than the chain of calls at tc has left.
#[test]
fn no_program_for_packets_only_calls_its_body() {
    let text = String::from_utf8_lossy(OBJECT);
    for program in ["tc_ingress", "tc_egress", "xdp_ingress"] {
        let body = text.split('\0').find(|name| name.starts_with("_R") && name.ends_with(program));
        assert_eq!(body, None, "{program} wants #[inline(always)]");
    }
}

#[test]
fn every_program_passes_the_verifier() {
    let mut ebpf = match EbpfLoader::new().load(OBJECT) {
        Ok(ebpf) => ebpf,
        Err(error) if may_not(&error) => {
            assert!(std::env::var_os("CI").is_none(), "CI skips nothing: {error}");
            eprintln!("SKIPPED: every_program_passes_the_verifier needs root");
            return;
        }
        Err(error) => panic!("{error:?}"),
    };
    for (name, _) in ebpf.maps() {
        assert!(
            !name.starts_with('.'),
            "{name}: a section of data is a map that no other version can take over"
        );
    }
    let mut loaded = 0;
    for (name, program) in ebpf.programs_mut() {
        mesh_ebpf::load(program).unwrap_or_else(|error| panic!("{name}: {error:?}"));
        let instructions = program.info().unwrap().verified_instruction_count().unwrap_or(0);
        println!("{name}: {instructions} instructions verified");
        // The verifier gives up at a million; older kernels see more paths.
        assert!(instructions < 400_000, "{name}: {instructions}");
        loaded += 1;
    }
    assert!(loaded >= 9, "{loaded} programs");
}

/// Whether it is for want of privileges.
fn may_not(error: &aya::EbpfError) -> bool {
    let mut source: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = source {
        if error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::PermissionDenied) {
            return true;
        }
        source = error.source();
    }
    false
}
