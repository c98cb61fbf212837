//! Where pins and cgroups are, and which network namespace this is.

use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, fsconfig_create, fsmount, fsopen,
};
use std::{
    fs, io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::net::UnixDatagram,
    },
    path::{Path, PathBuf},
};

/// `BPF_FS_MAGIC` of linux/magic.h.
const BPF_FS: u64 = 0xcafe_4a11;

/// Where a BPF file system is looked for before one is mounted at the first of them.
const USUAL: [&str; 2] = ["/run/mesh-agent/bpf", "/sys/fs/bpf"];

/// Whether that folder is of a BPF file system.
fn is_bpffs(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|fs| u64::try_from(fs.f_type).is_ok_and(|kind| kind == BPF_FS))
}

/// The first kernel that the programs are tried on.
const OLDEST: (u32, u32) = (6, 1);
/// The first with tcx.
const TCX: (u32, u32) = (6, 6);

/// The first two numbers of a release, as `uname -r` says it.
fn numbers(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// Why a kernel of that release (as `uname -r` says it) cannot run the programs. A release that is none is not judged.
#[must_use]
pub fn too_old(release: &str) -> Option<String> {
    let old = numbers(release).is_some_and(|version| version < OLDEST);
    old.then(|| {
        format!("Linux {release} is too old for the programs: boot Linux {}.{} or later", OLDEST.0, OLDEST.1)
    })
}

/// Whether a kernel of that release has tcx; one that is none is taken to have it.
#[must_use]
pub fn has_tcx(release: &str) -> bool {
    numbers(release).is_none_or(|version| version >= TCX)
}

/// The BPF file system that [`bpffs`] would give, unless it would have to be mounted.
#[must_use]
pub fn mounted_bpffs(wanted: Option<&Path>) -> Option<PathBuf> {
    let usual = || USUAL.iter().map(Path::new).find(|path| is_bpffs(path));
    wanted.or_else(usual).filter(|path| is_bpffs(path)).map(Path::to_owned)
}

/// A folder of a BPF file system: `wanted`, or a usual one; one is mounted where there is none (mount(2)).
///
/// # Errors
/// The system's.
pub fn bpffs(wanted: Option<&Path>) -> io::Result<PathBuf> {
    if let Some(mounted) = mounted_bpffs(wanted) {
        return Ok(mounted);
    }
    let path = wanted.unwrap_or(Path::new(USUAL[0]));
    fs::create_dir_all(path)?;
    rustix::mount::mount("bpf", path, "bpf", MountFlags::empty(), None)?;
    Ok(path.to_owned())
}

/// A BPF file system that is mounted nowhere: it is seen at `/proc/self/fd/N` and goes with the descriptor, and all its
/// pins with it (fsopen(2), Linux 5.2). For tests.
///
/// # Errors
/// The system's.
pub fn private_bpffs() -> io::Result<OwnedFd> {
    let new = fsopen("bpf", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(new.as_fd())?;
    Ok(fsmount(new.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?)
}

/// Where cgroups of version 2 are mounted.
///
/// # Errors
/// The system's; `NotFound` where they are not.
pub fn cgroups() -> io::Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let found = mounts.lines().find_map(|line| {
        let mut words = line.split(' ').skip(1);
        let path = words.next()?;
        (words.next()? == "cgroup2").then(|| PathBuf::from(path))
    });
    found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no cgroup2 is mounted"))
}

/// The cookie of the calling thread's network namespace (`SO_NETNS_COOKIE`, Linux 5.14): unique while the host runs.
///
/// # Errors
/// The system's.
pub fn netns_cookie() -> io::Result<u64> {
    let socket = UnixDatagram::unbound()?;
    let (mut cookie, mut length) = (0_u64, libc::socklen_t::try_from(size_of::<u64>()).unwrap_or(8));
    // SAFETY: the kernel writes as many bytes as said.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            std::ptr::from_mut(&mut cookie).cast(),
            &raw mut length,
        )
    };
    if done == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_kernels_are_told() {
        for (release, old, tcx) in [
            ("5.15.0-91-generic", true, false),
            ("6.0.1", true, false),
            ("6.1.0-56-cloud-amd64", false, false),
            ("6.5.13", false, false),
            ("6.6.0", false, true),
            ("7.0-rc1", false, true),
            ("x", false, true),
        ] {
            assert_eq!((too_old(release).is_some(), has_tcx(release)), (old, tcx), "{release}");
        }
    }
}
