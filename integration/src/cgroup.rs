//! A cgroup of this process's own, so that programs of the kernel for sockets see the sockets of a test and no others.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, Weak},
};

/// What a test's cgroups are called.
const PREFIX: &str = "mesh-test-";

/// This process is in it from its making on, and out of it when it goes.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    /// Where the process was before.
    before: PathBuf,
}

/// Tests of one process share theirs.
static SHARED: Mutex<Weak<Cgroup>> = Mutex::new(Weak::new());

impl Cgroup {
    /// Makes it (cgroups(7), version 2) and joins it.
    ///
    /// # Errors
    /// The system's.
    pub fn join() -> io::Result<Arc<Cgroup>> {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cgroup) = shared.upgrade() {
            return Ok(cgroup);
        }
        let root = mesh_ebpf::place::cgroups()?;
        let own = fs::read_to_string("/proc/self/cgroup")?;
        let own = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or("");
        // A process that was killed left its own behind.
        for left in fs::read_dir(&root)?.flatten() {
            let name = left.file_name().to_string_lossy().into_owned();
            let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.parse::<u32>().ok());
            if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
                // Somebody else may have been faster.
                let _ = fs::remove_dir(left.path());
            }
        }
        let path = root.join(format!("{PREFIX}{}", std::process::id()));
        fs::create_dir(&path)?;
        let cgroup = Arc::new(Cgroup { path, before: root.join(own) });
        enter(&cgroup.path)?;
        *shared = Arc::downgrade(&cgroup);
        Ok(cgroup)
    }

    /// Its folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn enter(cgroup: &Path) -> io::Result<()> {
    fs::write(cgroup.join("cgroup.procs"), std::process::id().to_string())
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Err(error) = enter(&self.before).and_then(|()| fs::remove_dir(&self.path)) {
            eprintln!("{} is left behind: {error}", self.path.display());
        }
    }
}
