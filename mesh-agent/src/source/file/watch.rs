//! The shell: notifications of the kernel, a slow poll as a safety net, and the task that hands services on.

use super::{folder::Folder, scan::scan};
use crate::{
    config::FilesConfig,
    source::{
        compose::Context,
        local::{LocalService, SourceId},
        writer::{StateWriter, WriterError},
    },
};
use mesh_control::model::{NodeName, Origin};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{
    sync::mpsc,
    task::{JoinHandle, spawn_blocking},
    time::{Instant, timeout_at},
};
use tracing::{error, warn};

/// An edit is read when nothing has happened for so long …
const QUIET: Duration = Duration::from_millis(100);
/// … or after so long at the latest.
const LATEST: Duration = Duration::from_secs(1);

/// Watches a folder and says what its files say. Dropping it stops the watch and withdraws nothing.
///
/// It is `synced` after the first look that finds no refused file: while one is refused, nobody knows what it should
/// say, so nothing of an earlier run may be withdrawn as a leftover.
#[derive(Debug)]
pub struct FileSource {
    task: JoinHandle<()>,
}

impl FileSource {
    /// How it is known.
    #[must_use]
    pub fn id() -> SourceId {
        SourceId("file".into())
    }

    /// Starts watching.
    #[must_use]
    pub fn spawn(config: FilesConfig, node: NodeName, writer: StateWriter) -> Self {
        let origin = Origin::Node(node.clone());
        let source = Source {
            path: config.path,
            node,
            origin,
            writer,
            folder: Some(Folder::default()),
            told: None,
            errors: Vec::new(),
            synced: false,
        };
        FileSource { task: tokio::spawn(source.run(config.poll)) }
    }
}

impl Drop for FileSource {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Source {
    path: PathBuf,
    node: NodeName,
    origin: Origin,
    writer: StateWriter,
    /// Absent only while a look is under way.
    folder: Option<Folder>,
    told: Option<Vec<LocalService>>,
    errors: Vec<String>,
    synced: bool,
}

impl Source {
    async fn run(mut self, poll: Duration) {
        // One slot is enough: it says "look", not at what.
        let (rings, mut bell) = mpsc::channel(1);
        let mut watcher = watcher(rings);
        let mut watched = Watched::default();
        loop {
            if let Some(watcher) = &mut watcher {
                watched.renew(watcher, &self.path);
            }
            if self.look().await.is_err() {
                return;
            }
            if let Ok(Some(())) = timeout_at(Instant::now() + poll, bell.recv()).await {
                let latest = Instant::now() + LATEST;
                while Instant::now() < latest {
                    let quiet = latest.min(Instant::now() + QUIET);
                    if !matches!(timeout_at(quiet, bell.recv()).await, Ok(Some(()))) {
                        break;
                    }
                }
            } else if bell.is_closed() {
                // Without a watcher there is only the poll.
                tokio::time::sleep(poll).await;
            }
        }
    }

    async fn look(&mut self) -> Result<(), WriterError> {
        let id = FileSource::id();
        let mut folder = self.folder.take().unwrap_or_default();
        let (path, node, origin) = (self.path.clone(), self.node.clone(), self.origin.clone());
        let looked = spawn_blocking(move || {
            let whole = scan(&path).map(|seen| folder.update(seen, Context { node: &node, origin: &origin }));
            let (services, errors) = (folder.services(), folder.errors());
            (folder, services, whole.err(), errors)
        });
        let (folder, services, unread, mut errors) = match looked.await {
            Ok(found) => found,
            Err(e) => {
                // Only at shutdown, or by a defect; without the folder's memory nothing may be replaced.
                error!(error = %e, "the look at the service files did not end");
                let shown = "the service files are no longer watched: restart the agent, and report this";
                self.writer.set_errors(&id, vec![shown.to_owned()]).await?;
                return Err(WriterError::Closed);
            }
        };
        // The folder logs what it refuses of a file, the writer what it cannot tell.
        if let Some(error) = &unread
            && !self.errors.contains(error)
        {
            warn!(%error, "the service files cannot be read; what they said before goes on");
        }
        errors.splice(0..0, unread);
        let refused = !errors.is_empty();
        self.folder = Some(folder);
        if self.told.as_ref() != Some(&services) {
            match self.writer.replace(&id, services.clone()).await {
                Ok(()) => self.told = Some(services),
                Err(WriterError::Closed) => return Err(WriterError::Closed),
                // The writer tries again by itself, and this source at its next look, to see whether it was taken.
                Err(e) => errors.push(e.to_string()),
            }
        }
        if self.errors != errors {
            self.writer.set_errors(&id, errors.clone()).await?;
            self.errors = errors;
        }
        if !self.synced && !refused {
            self.synced = true;
            self.writer.synced(&id).await?;
        }
        Ok(())
    }
}

fn watcher(rings: mpsc::Sender<()>) -> Option<RecommendedWatcher> {
    let made = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Reading the files makes events of its own; an error may hide a change.
        if event.as_ref().map_or(true, |e| !e.kind.is_access()) {
            // A full slot already says the same.
            let _full = rings.try_send(());
        }
    });
    made.map_err(|e| warn!(error = %e, "no notifications of file changes; only the poll finds them")).ok()
}

/// What is watched: the path itself if it is a folder, and the folder around it, in which it may be replaced.
#[derive(Default)]
struct Watched {
    inner: Option<u64>,
    outer: bool,
}

impl Watched {
    fn renew(&mut self, watcher: &mut RecommendedWatcher, path: &Path) {
        use std::os::unix::fs::MetadataExt;
        let around = path.parent().map(|p| if p.as_os_str().is_empty() { Path::new(".") } else { p });
        if let Some(around) = around.filter(|_| !self.outer) {
            self.outer = watcher.watch(around, RecursiveMode::NonRecursive).is_ok();
        }
        // A folder that was replaced has another inode and needs another watch.
        let inode = path.metadata().ok().filter(std::fs::Metadata::is_dir).map(|m| m.ino());
        if inode != self.inner {
            if self.inner.is_some() {
                // The old watch is gone with its folder.
                drop(watcher.unwatch(path));
            }
            let watching = inode.is_some() && watcher.watch(path, RecursiveMode::NonRecursive).is_ok();
            self.inner = inode.filter(|_| watching);
        }
    }
}
