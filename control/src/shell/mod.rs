//! Sockets, clocks and files around the node. It decides nothing.

mod handle;
mod keeper;
mod start;
mod stream;
mod task;

pub use self::{handle::ControlHandle, start::Control};
