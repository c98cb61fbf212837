//! A network namespace with a name in /run/netns, where ip-netns(8) and nsenter(1) find it.

use crate::sys::netns::Netns;
use std::{
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process,
    sync::Arc,
};

const FOLDER: &str = "/run/netns";

/// The name goes with this. It is only a link to what this process holds, so that a demo that is killed keeps no
/// namespace alive.
#[derive(Debug)]
pub(super) struct Host {
    /// The namespace.
    pub(super) netns: Arc<Netns>,
    /// The name: `/run/netns/mesh-demo-PID-NAME`.
    pub(super) path: PathBuf,
}

impl Host {
    /// A new namespace.
    ///
    /// # Errors
    /// What the kernel says, and when it cannot be given a name.
    pub(super) fn new(name: &str) -> io::Result<Host> {
        let netns = Arc::new(Netns::new()?);
        let path = Path::new(FOLDER).join(format!("mesh-demo-{}-{name}", process::id()));
        let named = fs::create_dir_all(FOLDER).and_then(|()| symlink(netns.path(), &path));
        named.map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))?;
        Ok(Host { netns, path })
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            eprintln!("could not remove {}: {error}", self.path.display());
        }
    }
}

/// Removes the names that demos left behind which were killed.
pub(super) fn sweep() {
    let Ok(names) = fs::read_dir(FOLDER) else { return };
    let ours = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        let named = name.is_some_and(|name| name.starts_with("mesh-demo-")) && path.is_symlink();
        // What this process may not look into is no less there.
        named && path.try_exists().is_ok_and(|exists| !exists)
    };
    for path in names.flatten().map(|name| name.path()).filter(ours) {
        // Another demo may sweep at the same time.
        drop(fs::remove_file(path));
    }
}
