//! Keeps the records in a file, whole and atomically.

use crate::{
    api::ControlError,
    hlc::Now,
    model::NodeName,
    record::Record,
    state_file::{self, Kept, MAX_FILE},
};
use std::{
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};
use tokio::task::JoinHandle;

/// Between two writes, in milliseconds.
const PERIOD: u64 = 2_000;
/// Records from which writes come apart twice as far, thrice as far, and so on: each writes all of them.
const MANY: u64 = 20_000;

/// When to write next, after a write of `records` records at `now`.
pub(super) fn next(now: Now, records: usize) -> u64 {
    now.mono + PERIOD * (1 + records as u64 / MANY)
}

/// The file of one node.
pub(super) struct Keeper {
    path: PathBuf,
    /// The state hash that the file has, or will have.
    kept: Option<u64>,
    running: Option<JoinHandle<io::Result<()>>>,
}

impl Keeper {
    /// Reads what is kept in `dir`, which is made if it does not exist.
    pub(super) async fn open(
        dir: &Path,
        node: &NodeName,
        now: Now,
    ) -> Result<(Keeper, Vec<Record>), ControlError> {
        let path = dir.join("state");
        let state_error = |problem| ControlError::State { path: path.clone(), problem };
        let (file, dir) = (path.clone(), dir.to_owned());
        let read = tokio::task::spawn_blocking(move || {
            // Made for the agent alone; a folder that is there keeps its mode.
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
            match std::fs::File::open(&file) {
                Ok(file) => {
                    let mut bytes = Vec::new();
                    file.take(MAX_FILE).read_to_end(&mut bytes)?;
                    Ok(Some(bytes))
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(e) => Err(e),
            }
        });
        let bytes =
            read.await.map_err(io::Error::other).flatten().map_err(|e| {
                state_error(format!("{e}: make data_dir readable and writable for the agent"))
            })?;
        let records = match bytes.map(|bytes| state_file::decode(&bytes, node, now)) {
            None => Vec::new(),
            Some(Ok(Kept::Records(records))) => records,
            Some(Ok(Kept::TooOld(age))) => {
                let hours = age / 3_600_000;
                tracing::warn!(path = %path.display(), hours, "kept state is too old to use: starting empty");
                Vec::new()
            }
            Some(Err(e)) => return Err(state_error(e.to_string())),
        };
        Ok((Keeper { path, kept: None, running: None }, records))
    }

    /// Whether a write of state `hash` may begin.
    pub(super) fn wants(&self, hash: u64) -> bool {
        self.kept != Some(hash) && self.running.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Begins to write `records`, what this node holds at state `hash`; the write before was seen to be finished.
    /// Encoding them may take long: it is not done on the caller's thread.
    pub(super) async fn keep(&mut self, hash: u64, node: NodeName, records: Vec<Record>, now: Now) {
        self.finish().await;
        let path = self.path.clone();
        self.kept = Some(hash);
        self.running = Some(tokio::task::spawn_blocking(move || {
            write(&path, &state_file::encode(&node, records.iter(), now))
        }));
    }

    /// Waits for the running write.
    pub(super) async fn finish(&mut self) {
        if let Some(running) = self.running.take()
            && let Err(error) = running.await.map_err(io::Error::other).flatten()
        {
            self.kept = None;
            tracing::warn!(path = %self.path.display(), %error, "cannot keep the state; trying again");
        }
    }
}

/// Writes a new file and puts it in the place of the old one: after a crash either is there, whole. Only the agent may
/// read it.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let fresh = path.with_extension("new");
    // One that a crash left may be anybody's to read.
    match std::fs::remove_file(&fresh) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&fresh, path)?;
    // The rename itself is on the disk only once the folder is.
    match path.parent() {
        Some(dir) => std::fs::File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}
