//! The fast path: most queries, answered from packet to packet without a message in between.
//!
//! What a name stands for is found by the code that finds it for every other query ([`crate::resolve`]); only reading
//! and writing are done here, for queries of the plainest form. All others, and all replies that would be long, go the
//! common way through hickory. `tests.rs` holds that both ways say the same.

mod query;
mod reply;
#[cfg(test)]
mod tests;
mod warm;

pub(crate) use query::Query;
pub(crate) use reply::{Context, Outcome, reply};
pub(crate) use warm::warm;
