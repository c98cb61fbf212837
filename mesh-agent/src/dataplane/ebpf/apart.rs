//! Pins and a cgroup of this process's own, for tests and demos: the programs see the sockets of its children and no
//! others, and all is gone with it.

use mesh_ebpf::place;
use std::{
    fs, io,
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, Weak},
};

/// What such cgroups are called, with the number of the process.
const PREFIX: &str = "mesh-agent-apart-";

/// A BPF file system that is mounted nowhere, and a cgroup that this process is in while this lives.
#[derive(Debug)]
pub struct Apart {
    bpffs: OwnedFd,
    cgroup: Arc<Cgroup>,
}

impl Apart {
    /// Makes both; sockets that are opened and processes that are started from now on are in the cgroup.
    ///
    /// # Errors
    /// The system's.
    pub fn new() -> io::Result<Apart> {
        Ok(Apart { bpffs: place::private_bpffs()?, cgroup: Cgroup::join()? })
    }

    /// The file system, as it is seen by every process that may look into this one.
    #[must_use]
    pub fn bpffs(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), self.bpffs.as_raw_fd()))
    }

    /// The cgroup's folder.
    #[must_use]
    pub fn cgroup(&self) -> &Path {
        &self.cgroup.path
    }

    /// The section of a configuration, in one line.
    #[must_use]
    pub fn yaml(&self) -> String {
        format!("ebpf: {{bpffs: {}, cgroup: {}}}\n", self.bpffs().display(), self.cgroup().display())
    }
}

/// This process is in it from its making on, and out of it when it goes.
#[derive(Debug)]
struct Cgroup {
    path: PathBuf,
    /// Where the process was before.
    before: PathBuf,
}

/// All of one process share theirs.
static SHARED: Mutex<Weak<Cgroup>> = Mutex::new(Weak::new());

impl Cgroup {
    /// Makes it (cgroups(7), version 2) and joins it.
    fn join() -> io::Result<Arc<Cgroup>> {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cgroup) = shared.upgrade() {
            return Ok(cgroup);
        }
        let root = place::cgroups()?;
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
        match fs::create_dir(&path) {
            // It had processes when this one's last went.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => other?,
        }
        let cgroup = Arc::new(Cgroup { path, before: root.join(own) });
        enter(&cgroup.path)?;
        *shared = Arc::downgrade(&cgroup);
        Ok(cgroup)
    }
}

fn enter(cgroup: &Path) -> io::Result<()> {
    fs::write(cgroup.join("cgroup.procs"), std::process::id().to_string())
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Err(error) = enter(&self.before).and_then(|()| fs::remove_dir(&self.path)) {
            tracing::warn!(cgroup = %self.path.display(), %error, "left behind");
        }
    }
}
