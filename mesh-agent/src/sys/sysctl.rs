//! Kernel parameters of the network namespace that the calling thread is in.

use std::{fs, io, path::PathBuf};

/// The file of `net/…`; `/proc/sys/net` shows each thread its own namespace (proc(5)).
fn path(key: &str) -> PathBuf {
    PathBuf::from("/proc/sys/net").join(key)
}

/// Reads `key`, as `ipv4/ip_forward`, without surrounding blanks; absent when this kernel or namespace has no such
/// parameter, as one of a link that is gone.
///
/// # Errors
/// The key and what the kernel says.
pub fn read(key: &str) -> io::Result<Option<String>> {
    match fs::read_to_string(path(key)) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io::Error::new(error.kind(), format!("net/{key}: {error}"))),
    }
}

/// Writes `key`.
///
/// # Errors
/// The key and what the kernel says; `EROFS` in a container whose `/proc/sys` is read-only.
pub fn write(key: &str, value: &str) -> io::Result<()> {
    fs::write(path(key), value)
        .map_err(|error| io::Error::new(error.kind(), format!("net/{key} = {value}: {error}")))
}
