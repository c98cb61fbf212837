//! connect(): TCP, and UDP with a peer.

use super::{
    PASS, entry, here, leave,
    place::{Ip4, Ip6, Mapped, Place, client, is_mapped, port, protocol, set_port},
    refuse,
};
use crate::{
    choose::choose,
    maps::DIALLED,
    service::{Family, find},
};
use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};
use mesh_ebpf_common::{Drop, flag};

/// `IPPROTO_TCP`.
const TCP: u8 = 6;

#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    connect::<Ip4>(&ctx)
}

#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    if is_mapped(&ctx) { connect::<Mapped>(&ctx) } else { connect::<Ip6>(&ctx) }
}

#[inline(always)]
fn connect<P: Place>(ctx: &SockAddrContext) -> i32 {
    let Some(config) = here(ctx) else { return PASS };
    let (address, port, protocol) = (P::get(ctx), port(ctx), protocol(ctx));
    // SAFETY: the kernel gives every context of this kind a socket, and locks it while this runs.
    let was = unsafe { DIALLED.get_ptr_mut(ctx).as_mut() };
    let Some(service) = find(address, port, protocol) else {
        if let Some(was) = was {
            leave(was);
        }
        // A datagram socket is connected to ask for a route, too, as ping and getaddrinfo() do.
        return if protocol == TCP && address.is_vip(config) { refuse() } else { PASS };
    };
    let (index, backend) = match choose(service, client::<P>(ctx, config)) {
        Ok(chosen) => chosen,
        // Silence is what the packets find.
        Err(Drop::NoBackend) if service.flags & flag::SILENT != 0 => return PASS,
        Err(_) => return refuse(),
    };
    let mut dialled = entry(address, port, service, index, backend);
    match was {
        Some(was) => {
            leave(was);
            *was = dialled;
        }
        None => {
            // SAFETY: as above. Where memory is short, only getpeername() says the backend's address.
            unsafe { DIALLED.get_or_insert_ptr_mut(ctx, Some(&mut dialled)) };
        }
    }
    P::set(ctx, P::Address::narrow(&dialled.peer));
    set_port(ctx, dialled.peer_port);
    PASS
}
