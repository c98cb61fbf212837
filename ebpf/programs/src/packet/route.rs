//! Where a packet goes on, as the host's own routes have it.

use super::{
    act::Act,
    frame::Frame,
    ip::{Ip, zeroed},
    parse::Packet,
};
use aya_ebpf::{
    bindings::{
        BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_NOT_FWDED,
        BPF_FIB_LKUP_RET_SUCCESS, bpf_fib_lookup,
    },
    helpers::generated::bpf_fib_lookup as lookup,
};
use mesh_ebpf_common::{Drop, Rewrite};

/// Asked for this length, so that the answer has the route's MTU and nothing is too long for it.
const SHORT: u16 = 1;

/// Finds device, next hop and MTU for a packet that was given new addresses. A device of 0 is the host itself.
#[inline(always)]
pub fn find<A: Ip, F: Frame>(frame: F, packet: &Packet<A>, rewrite: &mut Rewrite<A>) -> Act {
    let mut fib: bpf_fib_lookup = zeroed();
    fib.family = A::FAMILY;
    fib.l4_protocol = packet.key.protocol;
    fib.sport = rewrite.source_port;
    fib.dport = rewrite.destination_port;
    fib.__bindgen_anon_1.tot_len = SHORT;
    fib.ifindex = frame.device();
    A::ask(&mut fib, rewrite.source, rewrite.destination);
    // SAFETY: the context is the kernel's, the structure as long as is said.
    let found = unsafe { lookup(frame.context(), &raw mut fib, size_of::<bpf_fib_lookup>() as i32, 0) };
    match found as u32 {
        BPF_FIB_LKUP_RET_SUCCESS | BPF_FIB_LKUP_RET_NO_NEIGH | BPF_FIB_LKUP_RET_FRAG_NEEDED => {
            // SAFETY: a number. Where the neighbour is not known yet it is still what was asked for: no MTU.
            let mtu = u32::from(unsafe { fib.__bindgen_anon_1.mtu_result });
            rewrite.mtu = if mtu > u32::from(SHORT) { mtu } else { 0 };
            rewrite.device = fib.ifindex;
            rewrite.nexthop = if fib.family == A::FAMILY { A::hop(&fib) } else { A::ZERO };
            Act::SEND
        }
        BPF_FIB_LKUP_RET_NOT_FWDED if rewrite.destination.is_local() => {
            rewrite.device = 0;
            Act::SEND
        }
        _ => Act::drop(Drop::NoRoute),
    }
}
