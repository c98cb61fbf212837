//! The file source: a folder of Compose-shaped files, or one, watched for changes.

mod folder;
mod scan;
#[cfg(test)]
mod tests;
mod watch;

pub use watch::FileSource;
