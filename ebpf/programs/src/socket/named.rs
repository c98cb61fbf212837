//! Whom a socket is said to talk to: getpeername() and the source of a datagram are what was dialled.

use super::{
    PASS,
    datagram::{Datagrams, key},
    place::{Ip4, Ip6, Mapped, Place, is_mapped, port, set_port},
};
use crate::{maps::DIALLED, service::Family};
use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};

#[cgroup_sock_addr(getpeername4)]
pub fn getpeername4(ctx: SockAddrContext) -> i32 {
    name::<Ip4>(&ctx);
    PASS
}

#[cgroup_sock_addr(getpeername6)]
pub fn getpeername6(ctx: SockAddrContext) -> i32 {
    if is_mapped(&ctx) {
        name::<Mapped>(&ctx)
    } else {
        name::<Ip6>(&ctx)
    }
    PASS
}

#[cgroup_sock_addr(recvmsg4)]
pub fn recvmsg4(ctx: SockAddrContext) -> i32 {
    name::<Ip4>(&ctx);
    PASS
}

#[cgroup_sock_addr(recvmsg6)]
pub fn recvmsg6(ctx: SockAddrContext) -> i32 {
    if is_mapped(&ctx) {
        name::<Mapped>(&ctx)
    } else {
        name::<Ip6>(&ctx)
    }
    PASS
}

#[inline(always)]
fn name<P: Place<Address: Datagrams>>(ctx: &SockAddrContext) {
    // SAFETY: the kernel gives every context of this kind a socket, and locks it while this runs.
    let Some(dialled) = (unsafe { DIALLED.get_ptr_mut(ctx).as_ref() }) else { return };
    let (address, port) = (P::get(ctx), port(ctx));
    if dialled.family == P::Address::NUMBER
        && dialled.peer_port == port
        && P::Address::narrow(&dialled.peer) == address
    {
        P::set(ctx, P::Address::narrow(&dialled.address));
        set_port(ctx, dialled.port);
        return;
    }
    // SAFETY: an entry of this map stays memory of this map while the program runs.
    if let Some(peer) = unsafe { P::Address::back().get(key(ctx, address, port)) } {
        P::set(ctx, peer.address);
        set_port(ctx, peer.port);
    }
}
