//! Follows a resolv.conf: notifications of the kernel, and a slow poll as a safety net.

use super::resolv_conf::nameservers;
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use std::{
    collections::HashSet,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{sync::mpsc, time::timeout};

/// An edit is read when nothing has happened for so long, …
const QUIET: Duration = Duration::from_millis(100);
/// … or after so many of these at the latest.
const MAX_QUIETS: u32 = 10;
const POLL: Duration = Duration::from_secs(30);

/// Says the file's servers to `apply` whenever they have changed from `known`. A file that is gone, cannot be read or
/// names nobody changes nothing: it may be being written.
pub(super) async fn follow(
    path: PathBuf,
    behind_stub: PathBuf,
    mut known: Vec<SocketAddr>,
    apply: impl Fn(&[SocketAddr]),
) {
    // One slot is enough: it says "look", not at what.
    let (rings, mut bell) = mpsc::channel(1);
    let mut watcher = watcher(rings);
    let mut watched = HashSet::new();
    loop {
        if let Some(watcher) = &mut watcher {
            renew(watcher, &mut watched, &[&path, &behind_stub]);
        }
        match nameservers(&path, &behind_stub) {
            Ok(found) if found == known => {}
            Ok(found) if found.is_empty() => {
                tracing::warn!(path = %path.display(), ?known, "no nameserver in it any more; those known are asked on");
            }
            Ok(found) => {
                tracing::info!(path = %path.display(), ?found, "the upstreams have changed");
                apply(&found);
                known = found;
            }
            Err(error) => tracing::debug!(path = %path.display(), %error, "not read"),
        }
        match timeout(POLL, bell.recv()).await {
            Ok(Some(())) => {
                for _ in 0..MAX_QUIETS {
                    if timeout(QUIET, bell.recv()).await.is_err() {
                        break;
                    }
                }
            }
            // Without a watcher there is only the poll.
            Ok(None) => tokio::time::sleep(POLL).await,
            Err(_) => {}
        }
    }
}

fn watcher(rings: mpsc::Sender<()>) -> Option<RecommendedWatcher> {
    let made = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Reading the file makes events of its own; an error may hide a change.
        if event.as_ref().map_or(true, |e| !e.kind.is_access()) {
            // A full slot already says the same.
            let _full = rings.try_send(());
        }
    });
    made.map_err(|error| tracing::warn!(%error, "no notifications of file changes; only a poll finds them"))
        .ok()
}

/// Watches the folders in which the files, or what they link to, may be replaced: a file is often written beside its
/// place and renamed. A folder that was removed is watched anew when it is back, by the poll at the latest.
fn renew(watcher: &mut RecommendedWatcher, watched: &mut HashSet<PathBuf>, files: &[&Path]) {
    let mut wanted = HashSet::new();
    for file in files {
        let mut path = file.to_path_buf();
        // Each link of the way there may be changed; the kernel follows no more than 40 (path_resolution(7)).
        for _ in 0..40 {
            let around = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            wanted.extend(around.canonicalize());
            match std::fs::read_link(&path) {
                Ok(target) => path = around.join(target),
                Err(_) => break,
            }
        }
    }
    for gone in watched.difference(&wanted) {
        // The watch of a removed folder is gone already.
        drop(watcher.unwatch(gone));
    }
    watched.retain(|folder| wanted.contains(folder));
    for folder in wanted {
        if !watched.contains(&folder) && watcher.watch(&folder, RecursiveMode::NonRecursive).is_ok() {
            watched.insert(folder);
        }
    }
}
