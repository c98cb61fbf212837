//! `api.json`: the endpoints that the API added on this node.

use crate::sys;
use mesh_control::model::{Endpoint, ServiceKey};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

/// Largest file that is read.
const MAX_BYTES: u64 = 64 << 20;
const VERSION: u32 = 1;

/// This node's endpoints by service.
pub(super) type Kept = BTreeMap<ServiceKey, Vec<Endpoint>>;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: u32,
    services: Vec<Service>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Service {
    service: ServiceKey,
    endpoints: Vec<Endpoint>,
}

/// What happened to the file.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It cannot be understood and was put aside.
    #[error("{file}: is damaged ({reason}); it is kept as {aside}, and its endpoints must be added again")]
    Damaged {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        reason: String,
        /// Where it is now.
        aside: PathBuf,
    },
    /// The system refused.
    #[error("{file}: {action}: {source}")]
    Io {
        /// The file.
        file: PathBuf,
        /// What was tried.
        action: &'static str,
        /// The system's answer.
        source: io::Error,
    },
}

/// Reads the file; one that is not there is empty. A damaged one is put aside.
pub(super) fn load(file: &Path) -> Result<Kept, StoreError> {
    let failed = |action| move |source| StoreError::Io { file: file.to_owned(), action, source };
    let mut text = String::new();
    let reason = match sys::file::open(file) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Kept::new()),
        Err(e) => return Err(failed("open")(e)),
        Ok(opened) => match opened.take(MAX_BYTES + 1).read_to_string(&mut text) {
            Err(e) if e.kind() != io::ErrorKind::InvalidData => return Err(failed("read")(e)),
            Err(_) => "it is not UTF-8".to_owned(),
            Ok(_) if text.len() as u64 > MAX_BYTES => format!("it is larger than {} MiB", MAX_BYTES >> 20),
            Ok(_) => match serde_json::from_str::<Document>(&text) {
                Ok(d) if d.version == VERSION => {
                    return Ok(d.services.into_iter().map(|s| (s.service, s.endpoints)).collect());
                }
                Ok(d) => format!("it has version {}, this build knows {VERSION}", d.version),
                Err(e) => e.to_string(),
            },
        },
    };
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut aside = file.as_os_str().to_owned();
    aside.push(format!(".damaged-{}", since.as_millis()));
    let aside = PathBuf::from(aside);
    fs::rename(file, &aside).map_err(failed("put aside"))?;
    Err(StoreError::Damaged { file: file.to_owned(), reason, aside })
}

/// Replaces the file, whole or not at all, also over a loss of power.
pub(super) fn save(file: &Path, kept: &Kept) -> Result<(), StoreError> {
    let failed = |action| move |source| StoreError::Io { file: file.to_owned(), action, source };
    let services = kept.iter().map(|(k, e)| Service { service: k.clone(), endpoints: e.clone() }).collect();
    let text = serde_json::to_vec_pretty(&Document { version: VERSION, services })
        .map_err(|e| failed("write")(e.into()))?;
    let folder = file.parent().unwrap_or(Path::new("."));
    let fresh = file.with_extension("json.new");
    let write = || {
        fs::create_dir_all(folder)?;
        let mut out = File::create(&fresh)?;
        out.write_all(&text)?;
        out.sync_all()?;
        fs::rename(&fresh, file)?;
        File::open(folder)?.sync_all()
    };
    write().map_err(failed("write"))
}
