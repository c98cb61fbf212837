//! Sockets: a VIP becomes a backend when a program dials it.

use crate::{
    choose::choose,
    maps::{CONFIG, DIALLED},
    service::find,
};
use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};
use mesh_ebpf_common::{Dialled, ServiceKey};

#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    let _ = translate(&ctx);
    1
}

#[inline(always)]
fn translate(ctx: &SockAddrContext) -> Option<()> {
    let config = CONFIG.get(0)?;
    // SAFETY: the kernel gives a context that lives as long as the program runs.
    let address = unsafe { &mut *ctx.sock_addr };
    let netns = unsafe { aya_ebpf::helpers::bpf_get_netns_cookie(ctx.sock_addr.cast()) };
    if netns != config.netns {
        return None;
    }
    let key = ServiceKey {
        address: address.user_ip4.to_ne_bytes(),
        port: address.user_port as u16,
        protocol: address.protocol as u8,
        pad: 0,
    };
    let service = find(key.address, key.port, key.protocol)?;
    let (index, backend) = choose(service, key.address).ok()?;
    let mut dialled = Dialled { family: 4, port: key.port, backend: index, ..Dialled::default() };
    dialled.generation = backend.generation;
    if unsafe { DIALLED.get_or_insert_ptr_mut(ctx, Some(&mut dialled)) }.is_null() {
        return None;
    }
    let [a, b, c, d, ..] = backend.address;
    address.user_ip4 = u32::from_ne_bytes([a, b, c, d]);
    address.user_port = u32::from((backend.port + service.offset).to_be());
    Some(())
}
