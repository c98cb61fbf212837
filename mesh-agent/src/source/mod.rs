//! Sources: where services and endpoints come from.
//!
//! A source owns what it writes and can never touch another's: it replaces or upserts through a [`StateWriter`]
//! under its own [`SourceId`], and says [`StateWriter::synced`] when it has told everything once.

pub mod compose;
mod local;
mod writer;

pub use local::{ExecCheck, LocalService, SourceId, Verdict};
pub use writer::StateWriter;
