//! The socket programs on real sockets: in a cgroup of the tests' own, each test in a namespace of its own.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod cgroup;
mod choice;
mod netns;
mod tables;
mod tcp;
mod udp;
mod world;
