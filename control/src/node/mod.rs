//! A whole node without I/O: `handle(input, now) -> outputs`. The shell and the simulation drive the same code.

mod claiming;
mod core;
mod datagrams;
mod exchange;
mod exchanges;
mod forget;
mod io;
mod keeping;
mod keys;
mod measured;
mod names;
mod naming;
mod own_subnets;
mod peers;
mod records;
mod submit;
mod subnets;

pub use self::{
    core::{Node, NodeConfig},
    io::{ExchangeId, Input, Output, Target},
};

#[cfg(test)]
mod growth;
#[cfg(test)]
pub(crate) mod tests;
