//! UDP: sessions from a client's address to a backend.

mod batch;
pub(super) mod serve;
mod session;
