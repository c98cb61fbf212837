//! Files that somebody named, opened so that none of them can hold the reader up.

use rustix::fs::OFlags;
use std::{
    fs::{File, FileType},
    io,
    os::unix::fs::{FileTypeExt, OpenOptionsExt},
    path::Path,
};

/// Opens a regular file to read it. Never waits, as an open of a FIFO would until somebody writes.
///
/// # Errors
/// The system's, and what the path leads to when that is no regular file.
pub fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = File::options().read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
    let kind = file.metadata()?.file_type();
    if kind.is_file() {
        return Ok(file);
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, format!("is {}: name a file", named(kind))))
}

fn named(kind: FileType) -> &'static str {
    if kind.is_dir() {
        "a folder"
    } else if kind.is_fifo() {
        "a FIFO"
    } else {
        "a device"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, FileType as Node, Mode, mknodat};

    #[test]
    fn what_is_no_regular_file_is_refused_without_waiting() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("fifo");
        mknodat(CWD, &fifo, Node::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&fifo, &link).unwrap();
        let refused = |path: &Path| open(path).unwrap_err().to_string();
        assert_eq!(refused(&fifo), "is a FIFO: name a file");
        assert_eq!(refused(&link), "is a FIFO: name a file");
        assert_eq!(refused(folder.path()), "is a folder: name a file");
        assert_eq!(refused(Path::new("/dev/zero")), "is a device: name a file");
        let file = folder.path().join("file");
        std::fs::write(&file, "x").unwrap();
        assert_eq!(io::read_to_string(open(&file).unwrap()).unwrap(), "x");
    }
}
