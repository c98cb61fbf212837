//! The admin API, its metrics and the command line, over real sockets against a backend in memory.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on must stop, also outside the test function")]

mod api;
mod attach;
mod cli;
mod cli_commands;
mod dns;
mod doors;
mod events;
mod fake;
mod hostile;
mod keys;
mod mesh;
mod metrics;
mod openapi;
mod signals;
mod world;
