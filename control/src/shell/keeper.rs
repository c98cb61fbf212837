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
    path::{Path, PathBuf},
};
use tokio::task::JoinHandle;

/// Between two writes, in milliseconds.
pub(super) const PERIOD: u64 = 2_000;

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
            std::fs::create_dir_all(&dir)?;
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

    /// Begins to write; the one before was seen to be finished.
    pub(super) async fn keep(&mut self, hash: u64, bytes: Vec<u8>) {
        self.finish().await;
        let path = self.path.clone();
        self.kept = Some(hash);
        self.running = Some(tokio::task::spawn_blocking(move || write(&path, &bytes)));
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

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let fresh = path.with_extension("new");
    let mut file = std::fs::File::create(&fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&fresh, path)
}
