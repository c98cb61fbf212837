//! The overlay on the real kernel: nodes, their containers and an underlay, each a network namespace without a name.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on must stop, also outside the test function")]

mod agents;
mod attach;
mod checksums;
mod foreign;
mod keep;
mod large;
mod measure;
mod return_path;
mod sealed;
mod talk;
mod traffic;
mod world;
