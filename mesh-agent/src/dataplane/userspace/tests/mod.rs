//! Tests on real sockets of the loopback network. Each test has an address of its own.

mod lifecycle;
mod policy;
mod support;
mod tcp;
mod udp;
