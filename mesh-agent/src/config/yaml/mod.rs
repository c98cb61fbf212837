//! YAML with line numbers: a document becomes a tree of [`Node`]s, typed getters of [`Field`] read it and collect
//! every problem with file, line, key, value and fix. The configuration and service files both stand on it.
//!
//! Safe on hostile text: the file's size, the nesting, and the size after expanding aliases are all bounded.

mod duration;
mod field;
mod node;
mod parse;
mod problem;
mod suggest;
#[cfg(test)]
mod tests;

pub use duration::parse_duration;
pub use field::{Field, Map, Report};
pub use node::{Entry, Node, Value};
pub use parse::{MAX_BYTES, parse, read_file};
pub use problem::{Problem, Problems};
