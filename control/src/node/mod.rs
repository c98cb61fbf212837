//! A whole node without I/O: `handle(input, now) -> outputs`. The shell and the simulation drive the same code.

mod claiming;
mod core;
mod datagrams;
mod exchange;
mod exchanges;
mod io;
mod keeping;
mod records;
mod submit;

pub use self::{
    core::{Node, NodeConfig},
    io::{ExchangeId, Input, Output, Target},
};

#[cfg(test)]
mod tests;
