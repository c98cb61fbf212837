//! Cgroups of the bench's own: what is attached to one concerns sockets that were made in it.

use anyhow::Context as _;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// A cgroup; removed when dropped.
#[derive(Debug)]
pub(crate) struct Cgroup {
    root: PathBuf,
    path: PathBuf,
}

impl Cgroup {
    /// Makes one.
    pub(crate) fn new(name: &str) -> anyhow::Result<Cgroup> {
        let mounts = fs::read_to_string("/proc/mounts")?;
        let mount = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let root = mount.clone().find_map(|words| match words[..] {
            [_, path, "cgroup2", ..] => Some(PathBuf::from(path)),
            _ => None,
        });
        let root = root.context("no cgroup2 is mounted")?;
        let path = root.join(format!("mesh-bench-{}-{name}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("make {}", path.display()))?;
        Ok(Cgroup { root, path })
    }

    /// Its folder.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Moves this process into it.
    pub(super) fn enter(&self) -> anyhow::Result<()> {
        fs::write(self.path.join("cgroup.procs"), "0")
            .with_context(|| format!("enter {}", self.path.display()))
    }

    /// To attach programs to.
    pub(super) fn open(&self) -> anyhow::Result<fs::File> {
        fs::File::open(&self.path).with_context(|| format!("open {}", self.path.display()))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // It can only go when nobody is in it.
        let _ = fs::write(self.root.join("cgroup.procs"), "0");
        let _ = fs::remove_dir(&self.path);
    }
}
