//! The translation of a packet, and its way on.

use super::{
    answer::Error,
    checksum::{fold64, hops},
    frame::{Frame, Skb},
    ip::Ip,
    parse::{Kind, Packet, TCP, UDP, read, write},
    work::Steps,
};
use aya_ebpf::{
    bindings::{BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, bpf_redir_neigh},
    helpers::generated::{bpf_csum_update, bpf_l4_csum_replace, bpf_redirect_neigh},
};
use mesh_ebpf_common::Rewrite;

/// `TCX_NEXT`: the next program, then the host.
pub const NEXT: i32 = -1;
/// `TCX_DROP`.
pub const SHOT: i32 = 2;

/// Rewrites a packet and sends it on. One that has come to the end of its time, or is too long, goes back as an error;
/// one that may be cut is left to the host for that, unless its source is the host's, which it would not believe.
#[inline(always)]
pub fn send<A: Steps>(skb: Skb, packet: &Packet<A>, rewrite: &Rewrite<A>) -> i32 {
    let mut on = rewrite.device != 0;
    if on && packet.ttl <= 1 {
        return A::error(skb, Error::Expired as u32, 0);
    }
    if on && rewrite.mtu != 0 && packet.len > rewrite.mtu && longest(skb, packet) > rewrite.mtu {
        if !packet.splits || !rewrite.source.is(packet.key.source) {
            return A::error(skb, Error::TooBig as u32, rewrite.mtu);
        }
        on = false;
    }
    if !translate(skb, packet, rewrite, packet.ttl - u8::from(on)) {
        return SHOT;
    }
    if on { leave(rewrite) } else { NEXT }
}

/// Bytes of IP of the longest packet that this one is cut into: TCP in large pieces (GSO) is cut on its way out.
#[inline(always)]
fn longest<A: Ip>(skb: Skb, packet: &Packet<A>) -> u32 {
    let segment = skb.get().gso_size;
    if segment == 0 {
        return packet.len;
    }
    let header = match packet.key.protocol {
        TCP => skb.at::<[u32; 5]>(packet.l4 as usize).map_or(20, |header| {
            u32::from(read(header.cast::<u8>().wrapping_add(12)) >> 4) * 4
        }),
        _ => 8,
    };
    packet.l4 - packet.l3 + header + segment
}

/// Writes the new addresses and ports and keeps every checksum right: the header's, TCP's and UDP's (which may be
/// partial, for a device to complete, or 0 where UDP has none), and the kernel's own sum over the packet.
#[inline(always)]
fn translate<A: Ip>(skb: Skb, packet: &Packet<A>, rewrite: &Rewrite<A>, ttl: u8) -> bool {
    let whole = packet.kind == Kind::Ports;
    if whole {
        let Some(ports) = skb.at::<u32>(packet.l4 as usize) else { return false };
        write(ports, u32::from(rewrite.source_port) | u32::from(rewrite.destination_port) << 16);
    }
    if !A::write(skb, packet.l3 as usize, rewrite.source, rewrite.destination, rewrite.addresses, ttl) {
        return false;
    }
    if whole {
        let (offset, zero) = match packet.key.protocol {
            UDP => (packet.l4 + 6, u64::from(BPF_F_MARK_MANGLED_0)),
            _ => (packet.l4 + 16, 0),
        };
        let pseudo = zero | u64::from(BPF_F_PSEUDO_HDR);
        // SAFETY: the context is the kernel's; the offset is checked by the helper.
        unsafe { bpf_l4_csum_replace(skb.0, offset, 0, u64::from(rewrite.addresses), pseudo) };
        if rewrite.ports != 0 && rewrite.ports != u32::MAX {
            // SAFETY: as above.
            unsafe { bpf_l4_csum_replace(skb.0, offset, 0, u64::from(rewrite.ports), zero) };
        }
    }
    if !A::HEADER_SUM {
        // The helper above takes the addresses for changed within a header that has a sum of its own. IPv6's has
        // none: what it took from the kernel's sum comes back, and the hop limit counts.
        let change = u64::from(rewrite.addresses) + u64::from(hops(packet.ttl, ttl));
        // SAFETY: as above.
        unsafe { bpf_csum_update(skb.0, fold64(change)) };
    }
    true
}

/// To where a rewrite says.
#[inline(always)]
pub fn leave<A: Ip>(rewrite: &Rewrite<A>) -> i32 {
    if rewrite.device == 0 {
        return NEXT;
    }
    if rewrite.nexthop.is(A::ZERO) {
        // SAFETY: without a next hop the helper asks the routes for it.
        return unsafe { bpf_redirect_neigh(rewrite.device, core::ptr::null_mut(), 0, 0) } as i32;
    }
    let mut to = rewrite.nexthop.neighbour();
    // SAFETY: the structure is as long as is said.
    unsafe { bpf_redirect_neigh(rewrite.device, &raw mut to, size_of::<bpf_redir_neigh>() as i32, 0) as i32 }
}
