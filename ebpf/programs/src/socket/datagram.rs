//! sendmsg() with an address: UDP without a peer. Every datagram goes to the backend that the first one chose, while
//! that keeps its flows.

use super::{
    PASS, entry, here, leave, peer_port,
    place::{Ip4, Ip6, Place, client, port, protocol, set_port},
    refuse,
};
use crate::{
    choose::{choose, ended},
    maps::{BACKENDS, DIALLED, UDP_BACK4, UDP_BACK6, UDP_OUT4, UDP_OUT6},
    service::{Family, find},
};
use aya_ebpf::{
    helpers::bpf_get_socket_cookie, macros::cgroup_sock_addr, maps::LruHashMap, programs::SockAddrContext,
};
use mesh_ebpf_common::{Backend, Chosen, Dialled, Drop, Peer, PeerKey, V4, V6, flag, state};

#[cgroup_sock_addr(sendmsg4)]
pub fn sendmsg4(ctx: SockAddrContext) -> i32 {
    send::<Ip4>(&ctx)
}

#[cgroup_sock_addr(sendmsg6)]
pub fn sendmsg6(ctx: SockAddrContext) -> i32 {
    send::<Ip6>(&ctx)
}

/// The maps of sockets that send to several frontends.
pub trait Datagrams: Family {
    /// By what was dialled.
    fn out() -> &'static LruHashMap<PeerKey<Self>, Chosen>;
    /// By the backend.
    fn back() -> &'static LruHashMap<PeerKey<Self>, Peer<Self>>;
}

impl Datagrams for V4 {
    #[inline(always)]
    fn out() -> &'static LruHashMap<PeerKey<V4>, Chosen> {
        &UDP_OUT4
    }

    #[inline(always)]
    fn back() -> &'static LruHashMap<PeerKey<V4>, Peer<V4>> {
        &UDP_BACK4
    }
}

impl Datagrams for V6 {
    #[inline(always)]
    fn out() -> &'static LruHashMap<PeerKey<V6>, Chosen> {
        &UDP_OUT6
    }

    #[inline(always)]
    fn back() -> &'static LruHashMap<PeerKey<V6>, Peer<V6>> {
        &UDP_BACK6
    }
}

/// A key of those maps.
#[inline(always)]
pub fn key<A: Datagrams>(ctx: &SockAddrContext, address: A, port: u16) -> PeerKey<A> {
    // SAFETY: the kernel gave this context.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.sock_addr.cast()) };
    PeerKey { cookie: [cookie as u32, (cookie >> 32) as u32], address, port, pad: 0 }
}

#[inline(always)]
fn send<P: Place<Address: Datagrams>>(ctx: &SockAddrContext) -> i32 {
    let Some(config) = here(ctx) else { return PASS };
    let (address, port) = (P::get(ctx), port(ctx));
    let Some(service) = find(address, port, protocol(ctx)) else {
        return if address.is_vip(config) { refuse() } else { PASS };
    };
    // SAFETY: the kernel gives every context of this kind a socket, and locks it while this runs.
    let mut was = unsafe { DIALLED.get_ptr_mut(ctx).as_mut() };
    let mut elsewhere = false;
    if let Some(was) = &mut was {
        let same = was.family == P::Address::NUMBER
            && was.port == port
            && P::Address::narrow(&was.address) == address;
        if same {
            if kept(was.backend, was.generation).is_some() {
                return to::<P>(ctx, P::Address::narrow(&was.peer), was.peer_port);
            }
            leave(was);
        } else if was.family != 0 {
            if let Some(backend) = remembered(ctx, address, port) {
                return to::<P>(ctx, P::Address::narrow(&backend.address), peer_port(service, backend));
            }
            elsewhere = true;
        }
    }
    let (index, backend) = match choose(service, client::<P>(ctx, config)) {
        Ok(chosen) => chosen,
        // Silence is what the packets find.
        Err(Drop::NoBackend) if service.flags & flag::SILENT != 0 => return PASS,
        Err(_) => return refuse(),
    };
    let mut dialled = entry(address, port, service, index, backend);
    match was {
        Some(_) if elsewhere => remember(ctx, address, &dialled),
        Some(was) => *was = dialled,
        None => {
            // SAFETY: as above. Where memory is short, the next datagram chooses again.
            unsafe { DIALLED.get_or_insert_ptr_mut(ctx, Some(&mut dialled)) };
        }
    }
    to::<P>(ctx, P::Address::narrow(&dialled.peer), dialled.peer_port)
}

#[inline(always)]
fn to<P: Place>(ctx: &SockAddrContext, address: P::Address, port: u16) -> i32 {
    P::set(ctx, address);
    set_port(ctx, port);
    PASS
}

/// The backend of a flow, while it keeps those it has.
#[inline(always)]
fn kept(index: u32, generation: u32) -> Option<&'static Backend> {
    let backend = BACKENDS.get(index)?;
    let keeps = backend.generation == generation
        && backend.state & state::RESET == 0
        && backend.state & (state::ACTIVE | state::KEEPS) != 0;
    keeps.then_some(backend)
}

/// Where a socket that sends to several frontends sends what is for this one.
#[inline(always)]
fn remembered<A: Datagrams>(ctx: &SockAddrContext, address: A, port: u16) -> Option<&'static Backend> {
    // SAFETY: an entry of this map stays memory of this map while the program runs.
    let chosen = unsafe { A::out().get(key(ctx, address, port)) }?;
    kept(chosen.backend, chosen.generation)
}

/// Nobody says when such a flow ends: it is no open one.
#[inline(always)]
fn remember<A: Datagrams>(ctx: &SockAddrContext, address: A, dialled: &Dialled) {
    let chosen = Chosen { backend: dialled.backend, generation: dialled.generation };
    let _ = A::out().insert(key(ctx, address, dialled.port), chosen, 0);
    let back = key(ctx, A::narrow(&dialled.peer), dialled.peer_port);
    let _ = A::back().insert(back, Peer { address, port: dialled.port, pad: 0 }, 0);
    ended(dialled.backend, dialled.generation);
}
