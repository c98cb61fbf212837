//! Files and stdin that a command reads.

use super::exit::{Code, Failure};
use crate::sys;
use std::{
    io::{self, Read},
    path::Path,
};

/// Reads a regular file, or stdin for `-`, of at most `most` bytes.
pub(crate) fn read(path: &Path, most: u64) -> Result<Vec<u8>, Failure> {
    let fail = |e: io::Error| Failure::new(Code::NoInput, format!("{}: {e}", path.display()));
    let mut text = Vec::new();
    if path == Path::new("-") {
        io::stdin().lock().take(most + 1).read_to_end(&mut text).map_err(fail)?;
    } else {
        sys::file::open(path).and_then(|f| f.take(most + 1).read_to_end(&mut text)).map_err(fail)?;
    }
    if text.len() as u64 > most {
        return Err(Failure::new(Code::Data, format!("{} is larger than {most} bytes", path.display())));
    }
    Ok(text)
}
