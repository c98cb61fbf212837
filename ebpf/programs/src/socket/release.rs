//! close(): the socket's flow has ended.

use super::{PASS, leave, memory::Memory};
use aya_ebpf::{macros::cgroup_sock, programs::SockContext};

#[cgroup_sock(sock_release)]
pub fn sock_release(ctx: SockContext) -> i32 {
    let memory = Memory::of_socket(&ctx);
    if let Some(dialled) = memory.known() {
        leave(dialled);
        memory.forget();
    }
    PASS
}
