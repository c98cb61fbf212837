//! Reads the folder.

use super::folder::Seen;
use crate::config::yaml::read_file;
use std::{ffi::OsStr, fs, io, path::Path};

/// Most files of one folder.
const MAX_FILES: usize = 1024;

/// Reads every service file of a folder, or the one file. Blocks.
///
/// # Errors
/// Why the folder itself, or the one file, cannot be looked at; then nothing is known and what ran before goes on.
pub(super) fn scan(path: &Path) -> Result<Seen, String> {
    let fail = |e: io::Error| format!("{}: cannot be read: {e}", path.display());
    if !fs::metadata(path).map_err(fail)?.is_dir() {
        return Ok([(path.display().to_string(), read_file(path))].into());
    }
    let mut seen = Seen::new();
    for entry in fs::read_dir(path).map_err(fail)? {
        let file = entry.map_err(fail)?.path();
        // A file may vanish between the two calls; then it is not there.
        if !is_ours(&file) || !fs::metadata(&file).is_ok_and(|m| m.is_file()) {
            continue;
        }
        if seen.len() == MAX_FILES {
            return Err(format!("{}: has more than {MAX_FILES} files: join some", path.display()));
        }
        seen.insert(file.display().to_string(), read_file(&file));
    }
    Ok(seen)
}

/// `*.yaml` and `*.yml`, without what editors put beside them (`.web.yaml.swp`, `.#web.yaml`, `#web.yaml#`).
fn is_ours(file: &Path) -> bool {
    let extension = file.extension().and_then(OsStr::to_str);
    let name = file.file_name().and_then(OsStr::to_str);
    matches!(extension, Some("yaml" | "yml")) && name.is_some_and(|n| !n.starts_with(['.', '#']))
}
