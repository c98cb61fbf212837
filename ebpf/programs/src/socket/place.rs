//! Where a hook's context has the address. The kernel lets programs read and write it in words only.

use crate::service::Family;
use aya_ebpf::programs::SockAddrContext;
use mesh_ebpf_common::{Config, V4, V6};

/// A place for an address in the context.
pub trait Place {
    /// What is in it.
    type Address: Family;
    /// Reads it.
    fn get(ctx: &SockAddrContext) -> Self::Address;
    /// Writes it.
    fn set(ctx: &SockAddrContext, address: Self::Address);
    /// What the socket is bound to.
    fn bound(ctx: &SockAddrContext) -> Self::Address;
}

/// The address of an IPv4 hook.
pub struct Ip4;
/// The address of an IPv6 hook.
pub struct Ip6;
/// The IPv4 address in that of an IPv6 hook.
pub struct Mapped;

/// A word of the context.
macro_rules! word {
    ($ctx:expr, $($field:tt)+) => {
        // SAFETY: the kernel gives a context that lives as long as the program runs.
        unsafe { (&raw mut (*$ctx.sock_addr).$($field)+).read_volatile() }
    };
}

/// Sets a word of the context.
macro_rules! set_word {
    ($ctx:expr, $value:expr, $($field:tt)+) => {
        // SAFETY: as above; nobody else has it.
        unsafe { (&raw mut (*$ctx.sock_addr).$($field)+).write_volatile($value) }
    };
}

impl Place for Ip4 {
    type Address = V4;

    #[inline(always)]
    fn get(ctx: &SockAddrContext) -> V4 {
        word!(ctx, user_ip4).to_ne_bytes()
    }

    #[inline(always)]
    fn set(ctx: &SockAddrContext, address: V4) {
        set_word!(ctx, u32::from_ne_bytes(address), user_ip4);
    }

    #[inline(always)]
    fn bound(ctx: &SockAddrContext) -> V4 {
        // SAFETY: the kernel gives every context of this kind a socket.
        unsafe { (*(*ctx.sock_addr).__bindgen_anon_1.sk).src_ip4 }.to_ne_bytes()
    }
}

impl Place for Ip6 {
    type Address = V6;

    #[inline(always)]
    fn get(ctx: &SockAddrContext) -> V6 {
        bytes([
            word!(ctx, user_ip6[0]),
            word!(ctx, user_ip6[1]),
            word!(ctx, user_ip6[2]),
            word!(ctx, user_ip6[3]),
        ])
    }

    #[inline(always)]
    fn set(ctx: &SockAddrContext, address: V6) {
        let [a, b, c, d] = words(address);
        set_word!(ctx, a, user_ip6[0]);
        set_word!(ctx, b, user_ip6[1]);
        set_word!(ctx, c, user_ip6[2]);
        set_word!(ctx, d, user_ip6[3]);
    }

    #[inline(always)]
    fn bound(ctx: &SockAddrContext) -> V6 {
        // SAFETY: the kernel gives every context of this kind a socket.
        bytes(unsafe { (*(*ctx.sock_addr).__bindgen_anon_1.sk).src_ip6 })
    }
}

impl Place for Mapped {
    type Address = V4;

    #[inline(always)]
    fn get(ctx: &SockAddrContext) -> V4 {
        word!(ctx, user_ip6[3]).to_ne_bytes()
    }

    #[inline(always)]
    fn set(ctx: &SockAddrContext, address: V4) {
        set_word!(ctx, u32::from_ne_bytes(address), user_ip6[3]);
    }

    #[inline(always)]
    fn bound(ctx: &SockAddrContext) -> V4 {
        Ip4::bound(ctx)
    }
}

/// Whether an IPv6 hook's address is one of IPv4.
#[inline(always)]
pub fn is_mapped(ctx: &SockAddrContext) -> bool {
    word!(ctx, user_ip6[0]) == 0
        && word!(ctx, user_ip6[1]) == 0
        && word!(ctx, user_ip6[2]) == 0xffff_u32.to_be()
}

/// The port, network order.
#[inline(always)]
pub fn port(ctx: &SockAddrContext) -> u16 {
    word!(ctx, user_port) as u16
}

/// Sets the port, network order.
#[inline(always)]
pub fn set_port(ctx: &SockAddrContext, port: u16) {
    set_word!(ctx, u32::from(port), user_port);
}

/// `IPPROTO_*` of the socket.
#[inline(always)]
pub fn protocol(ctx: &SockAddrContext) -> u8 {
    word!(ctx, protocol) as u8
}

/// Who dials: what the socket is bound to, else this node.
#[inline(always)]
pub fn client<P: Place>(ctx: &SockAddrContext, config: &Config) -> P::Address {
    let bound = P::bound(ctx);
    if bound == P::Address::ZERO || bound.is_loopback() { P::Address::node(config) } else { bound }
}

#[inline(always)]
fn bytes([a, b, c, d]: [u32; 4]) -> V6 {
    let ([a0, a1, a2, a3], [b0, b1, b2, b3]) = (a.to_ne_bytes(), b.to_ne_bytes());
    let ([c0, c1, c2, c3], [d0, d1, d2, d3]) = (c.to_ne_bytes(), d.to_ne_bytes());
    [a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3, d0, d1, d2, d3]
}

#[inline(always)]
fn words(address: V6) -> [u32; 4] {
    let [a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3, d0, d1, d2, d3] = address;
    [[a0, a1, a2, a3], [b0, b1, b2, b3], [c0, c1, c2, c3], [d0, d1, d2, d3]].map(u32::from_ne_bytes)
}
