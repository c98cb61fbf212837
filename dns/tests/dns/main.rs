//! Tests of the DNS from outside: tables of answers, the live view, real sockets, upstreams, and garbage.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test fails the test by panicking, as the test itself does"
)]

mod answers;
mod caching;
mod chains;
mod client;
mod clients;
mod defects;
mod encrypted;
mod explain;
mod follow;
mod garbage;
mod lengths;
mod load;
mod mesh;
mod metrics;
mod networks;
mod pipelined;
mod programs;
mod properties;
mod reasons;
mod regressions;
mod rfc8906;
mod size;
mod sockets;
mod start;
mod table;
mod tables;
mod troubles;
mod upstreams;
mod view;
