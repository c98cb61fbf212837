//! A cgroup of the tests' own: what is attached to it concerns this process alone.

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

/// How many tests of this process are in it.
static USERS: Mutex<usize> = Mutex::new(0);

/// This process is in the cgroup for as long as one of these lives.
#[derive(Debug)]
pub(crate) struct Cgroup {
    path: PathBuf,
    before: PathBuf,
}

impl Cgroup {
    /// Moves this process into its cgroup.
    pub(crate) fn join() -> io::Result<Cgroup> {
        let mut users = USERS.lock().unwrap_or_else(PoisonError::into_inner);
        let mounts = fs::read_to_string("/proc/mounts")?;
        let root = mounts
            .lines()
            .find_map(|line| match line.split(' ').collect::<Vec<_>>()[..] {
                [_, path, "cgroup2", ..] => Some(PathBuf::from(path)),
                _ => None,
            })
            .ok_or_else(|| io::Error::other("no cgroup2 is mounted"))?;
        let path = root.join(format!("mesh-ebpf-test-{}", std::process::id()));
        // Who was killed left an empty one.
        for entry in fs::read_dir(&root)?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let pid = name.strip_prefix("mesh-ebpf-test-");
            if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
                let _ = fs::remove_dir(entry.path());
            }
        }
        if *users == 0 {
            fs::create_dir(&path)?;
            enter(&path)?;
        }
        *users += 1;
        Ok(Cgroup { path, before: root })
    }

    /// To attach programs to.
    pub(crate) fn open(&self) -> fs::File {
        fs::File::open(&self.path).unwrap()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let mut users = USERS.lock().unwrap_or_else(PoisonError::into_inner);
        *users -= 1;
        if *users == 0 {
            let _ = enter(&self.before);
            let _ = fs::remove_dir(&self.path);
        }
    }
}

fn enter(path: &Path) -> io::Result<()> {
    fs::OpenOptions::new().write(true).open(path.join("cgroup.procs"))?.write_all(b"0")
}
