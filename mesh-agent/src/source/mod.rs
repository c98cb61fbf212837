//! Sources: where services and endpoints come from.
//!
//! A source owns what it writes and can never touch another's: it replaces or upserts through a [`StateWriter`]
//! under its own [`SourceId`], and says [`StateWriter::synced`] when it has told everything once.

pub mod api;
pub mod compose;
pub mod file;
mod instance;
mod local;
mod merge;
#[cfg(test)]
mod merge_tests;
mod state;
#[cfg(test)]
pub(crate) mod testing;
mod writer;
#[cfg(test)]
mod writer_tests;

pub use instance::Health;
pub use local::{ExecCheck, LocalService, Process, SourceId, Verdict};
pub use merge::{Merge, NoSuchEndpoint, Refused};
pub use state::{LocalState, LocalView, SourceStatus};
pub use writer::{StateWriter, WriterError};
