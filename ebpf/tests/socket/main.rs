//! The socket programs on real sockets: in a cgroup of the tests' own, each test in a namespace of its own.

mod cgroup;
mod choice;
mod netns;
mod tcp;
mod udp;
mod world;
