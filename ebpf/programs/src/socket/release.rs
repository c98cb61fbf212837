//! close(): the socket's flow has ended.

use super::{PASS, leave};
use crate::maps::DIALLED;
use aya_ebpf::{helpers::generated::bpf_sk_storage_get, macros::cgroup_sock, programs::SockContext};
use core::ptr;
use mesh_ebpf_common::Dialled;

#[cgroup_sock(sock_release)]
pub fn sock_release(ctx: SockContext) -> i32 {
    let map = (&raw const DIALLED).cast_mut().cast();
    // SAFETY: the kernel gave this socket, and nobody else has it any more.
    let dialled = unsafe { bpf_sk_storage_get(map, ctx.sock.cast(), ptr::null_mut(), 0) }.cast::<Dialled>();
    // SAFETY: as above.
    if let Some(dialled) = unsafe { dialled.as_mut() } {
        leave(dialled);
    }
    PASS
}
