//! Sockets: a program dials a VIP and is connected to a backend, without translation of a single packet.
//!
//! | hook | does |
//! |---|---|
//! | connect | TCP and connected UDP: the address becomes that of a backend, once |
//! | sendmsg | UDP without a peer: with every datagram |
//! | recvmsg, getpeername | the backend's address becomes what was dialled |
//! | release | the flow has ended |
//!
//! A socket of the IPv6 kind may carry IPv4 in mapped addresses (RFC 4291, section 2.5.5.2): its connect, recvmsg and
//! getpeername come to the hooks for IPv6, its sendmsg to that for IPv4.

mod connect;
mod datagram;
mod memory;
mod named;
mod place;
mod release;

use crate::{choose::ended, maps::config, service::Family};
use aya_ebpf::{
    helpers::{bpf_get_netns_cookie, bpf_set_retval},
    programs::SockAddrContext,
};
use mesh_ebpf_common::{Backend, Config, Dialled, Service};

/// Go on.
const PASS: i32 = 1;
/// The system call fails.
const FAIL: i32 = 0;

/// Of `errno.h`.
const ECONNREFUSED: i32 = 111;

/// The configuration, when it is about the socket's network namespace.
#[inline(always)]
fn here(ctx: &SockAddrContext) -> Option<&'static Config> {
    let config = config()?;
    // SAFETY: the kernel gave this context.
    let netns = unsafe { bpf_get_netns_cookie(ctx.sock_addr.cast()) };
    (netns == config.netns).then_some(config)
}

/// The system call fails as if the peer had refused.
#[inline(always)]
fn refuse() -> i32 {
    // SAFETY: asks for nothing. Linux 5.18; older ones are not served.
    unsafe { bpf_set_retval(-ECONNREFUSED) };
    FAIL
}

/// The entry of a flow from `address`, `port` (network order) to a backend.
#[inline(always)]
fn entry<A: Family>(address: A, port: u16, service: &Service, index: u32, backend: &Backend) -> Dialled {
    Dialled {
        address: address.wide(),
        peer: backend.address,
        port,
        peer_port: peer_port(service, backend),
        family: A::NUMBER,
        backend: index,
        generation: backend.generation,
    }
}

/// The port of a backend for a port of a frontend, network order.
#[inline(always)]
fn peer_port(service: &Service, backend: &Backend) -> u16 {
    backend.port.wrapping_add(service.offset).to_be()
}

/// The socket leaves the backend that it had.
#[inline(always)]
fn leave(was: &mut Dialled) {
    if was.family != 0 {
        ended(was.backend, was.generation);
        was.family = 0;
    }
}
