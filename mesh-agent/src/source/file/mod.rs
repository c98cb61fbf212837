//! The file source: a folder of Compose-shaped files, or one, watched for changes.

mod folder;
mod scan;
#[cfg(test)]
mod tests;
mod watch;

pub use watch::FileSource;

use super::{compose::Context, local::LocalService};
use mesh_control::model::{NodeName, Origin};
use std::path::Path;

/// What a folder of service files, or one file, declares on a node now. Files that are refused declare nothing.
///
/// # Errors
/// Why the folder or the file cannot be read.
pub fn declared(path: &Path, node: &NodeName) -> Result<Vec<LocalService>, String> {
    let mut folder = folder::Folder::default();
    folder.update(scan::scan(path)?, Context { node, origin: &Origin::Node(node.clone()) });
    Ok(folder.services())
}
