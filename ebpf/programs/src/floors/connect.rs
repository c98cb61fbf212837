//! connect(): a program that knows one address by heart, and one of the shape of Cilium's socket balancing: frontend,
//! slot and backend by hash, and what was dialled in an LRU by cookie and backend (`bpf/bpf_sock.c`, `__sock4_xlate_fwd`).

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    helpers::{bpf_get_prandom_u32, bpf_get_socket_cookie},
    macros::{cgroup_sock_addr, map},
    maps::{HashMap, LruHashMap},
    programs::SockAddrContext,
};

/// 10.96.0.0:80, the one address, and where it leads: 127.0.0.1:8080.
const DIALLED: (u32, u32) = (u32::from_ne_bytes([10, 96, 0, 0]), 80_u16.to_be() as u32);
const BACKEND: (u32, u32) = (u32::from_ne_bytes([127, 0, 0, 1]), 8080_u16.to_be() as u32);

#[repr(C)]
#[derive(Clone, Copy)]
struct Service {
    address: u32,
    port: u16,
    /// 0 the service itself.
    slot: u16,
    protocol: u8,
    scope: u8,
    pad: [u8; 2],
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Slot {
    backend: u32,
    count: u16,
    number: u16,
    flags: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Backend {
    address: u32,
    port: u16,
    protocol: u8,
    flags: u8,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Reverse {
    cookie: u64,
    address: u32,
    port: u16,
    pad: u16,
}

#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
struct Original {
    address: u32,
    port: u16,
    number: u16,
}

#[map(name = "floor_services")]
static SERVICES: HashMap<Service, Slot> = HashMap::with_max_entries(1 << 18, BPF_F_NO_PREALLOC);
#[map(name = "floor_backends")]
static BACKENDS: HashMap<u32, Backend> = HashMap::with_max_entries(1 << 18, BPF_F_NO_PREALLOC);
#[map(name = "floor_reverse")]
static REVERSE: LruHashMap<Reverse, Original> = LruHashMap::with_max_entries(1 << 18, 0);

#[cgroup_sock_addr(connect4)]
pub fn floor_trivial(ctx: SockAddrContext) -> i32 {
    // SAFETY: the kernel gives a context that lives as long as the program runs.
    let context = unsafe { &mut *ctx.sock_addr };
    if (context.user_ip4, context.user_port) == DIALLED {
        (context.user_ip4, context.user_port) = BACKEND;
    }
    1
}

#[cgroup_sock_addr(connect4)]
pub fn floor_lookups(ctx: SockAddrContext) -> i32 {
    lookups(&ctx);
    1
}

#[inline(always)]
fn lookups(ctx: &SockAddrContext) -> Option<()> {
    // SAFETY: the kernel gives a context that lives as long as the program runs.
    let context = unsafe { &mut *ctx.sock_addr };
    let port = context.user_port as u16;
    let mut key = Service {
        address: context.user_ip4,
        port,
        slot: 0,
        protocol: context.protocol as u8,
        scope: 0,
        pad: [0; 2],
    };
    // SAFETY: nobody writes to these maps while the bench runs.
    let service = unsafe { SERVICES.get(key) }?;
    let original = Original { address: key.address, port, number: service.number };
    // SAFETY: asks for nothing.
    key.slot = 1 + (unsafe { bpf_get_prandom_u32() } % u32::from(service.count.max(1))) as u16;
    // SAFETY: as above.
    let slot = unsafe { SERVICES.get(key) }?;
    // SAFETY: as above.
    let backend = unsafe { BACKENDS.get(slot.backend) }?;
    // SAFETY: the kernel gave this context.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.sock_addr.cast()) };
    let reverse = Reverse { cookie, address: backend.address, port: backend.port, pad: 0 };
    // SAFETY: as above.
    if unsafe { REVERSE.get(reverse) } != Some(&original) {
        REVERSE.insert(reverse, original, 0).ok()?;
    }
    context.user_ip4 = backend.address;
    context.user_port = u32::from(backend.port);
    Some(())
}
