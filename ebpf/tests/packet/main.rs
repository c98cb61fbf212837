//! The packet programs, run over packets by `BPF_PROG_TEST_RUN`: byte for byte what comes out of what goes in.
//!
//! Every case is run with IPv4 and IPv6. What is expected is built from scratch, checksums included.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod answers;
mod bed;
mod cache;
mod direct;
mod forward;
mod fuzz;
mod guests;
mod icmp;
mod maps;
#[path = "../socket/netns.rs"]
mod netns;
mod packet;
mod plan;
mod race;
mod shapes;
mod state;
mod summed;
#[path = "../socket/tables.rs"]
mod tables;
mod traffic;
mod xdp;
mod xdp_bed;
