//! The translation of a packet, and its way on.

use super::{
    act::{NEXT, SHOT},
    answer::Error,
    checksum::{apply, fold64, hops},
    direct,
    frame::{Frame, Skb},
    ip::Ip,
    parse::{Kind, Packet, TCP, UDP, read, write},
    pseudo::may_be_partial,
    work::Steps,
};
use aya_ebpf::{
    bindings::{BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, bpf_redir_neigh},
    helpers::generated::{bpf_csum_update, bpf_l4_csum_replace, bpf_redirect_neigh, bpf_skb_change_tail},
};
use mesh_ebpf_common::{Rewrite, direction};

/// Whether a packet may leave as it is: it has not come to the end of its time, and is not too long.
#[inline(always)]
pub fn goes<A: Ip>(skb: Skb, packet: &Packet<A>, rewrite: &Rewrite<A>) -> bool {
    let short = rewrite.mtu == 0 || packet.len <= rewrite.mtu || longest(skb, packet) <= rewrite.mtu;
    rewrite.device == 0 || (packet.ttl > 1 && short)
}

/// Rewrites a packet, or gives the verdict over it. What may not leave goes back as an error; what is too long and may be cut
/// is left to the host for that, unless its source or destination is the host's.
#[inline(always)]
pub fn rewritten<A: Steps>(skb: Skb, packet: &Packet<A>, rewrite: &Rewrite<A>) -> Result<(), i32> {
    let mut on = rewrite.device != 0;
    if !goes(skb, packet, rewrite) {
        if packet.ttl <= 1 {
            return Err(A::error(skb, Error::Expired as u32, 0));
        }
        let whole = rewrite.bits & direction::HANDED != 0 || !rewrite.source.is(packet.key.source);
        if whole || !packet.splits {
            return Err(A::error(skb, Error::TooBig as u32, rewrite.mtu));
        }
        on = false;
    }
    passed(skb, packet, rewrite, on)
}

/// Rewrites a packet that goes on from here, or up to the host.
#[inline(always)]
pub fn passed<A: Ip>(skb: Skb, packet: &Packet<A>, rewrite: &Rewrite<A>, on: bool) -> Result<(), i32> {
    if !translate(skb, packet, rewrite, packet.ttl - u8::from(on), on) {
        return Err(SHOT);
    }
    if on { Ok(()) } else { Err(NEXT) }
}

/// Adds to the kernel's own sum over a packet (`CHECKSUM_COMPLETE`), if it has one, which a packet that is redirected loses:
/// `bpf_redirect_neigh` adds the link-layer header that it came with to it, a veth at the other end takes off the one that it has
/// then, and what is left fits nothing. Receivers would say "hw csum failure" and add up the packet for themselves, as they
/// do now.
#[inline(always)]
pub fn summed(skb: Skb, change: u32, on: bool) {
    // SAFETY: the context is the kernel's.
    let has = unsafe { bpf_csum_update(skb.0, change) } >= 0;
    if has && on && skb.get().gso_size == 0 {
        let len = skb.len();
        // SAFETY: as above. What grows has no sum; a byte that were left over is behind the packet's end by its own header.
        unsafe {
            if bpf_skb_change_tail(skb.0, len + 1, 0) == 0 {
                bpf_skb_change_tail(skb.0, len, 0);
            }
        }
    }
}

/// Bytes of IP of the longest packet that this one is cut into: TCP in large pieces (GSO) is cut on its way out.
#[inline(always)]
fn longest<A: Ip>(skb: Skb, packet: &Packet<A>) -> u32 {
    let segment = skb.get().gso_size;
    if segment == 0 {
        return packet.len;
    }
    let header = match packet.key.protocol {
        TCP => skb
            .at::<[u32; 5]>(packet.l4 as usize)
            .map_or(20, |header| u32::from(read(header.cast::<u8>().wrapping_add(12)) >> 4) * 4),
        _ => 8,
    };
    packet.l4 - packet.l3 + header + segment
}

/// Writes the new addresses and ports and keeps every checksum right: the header's, TCP's and UDP's (which may be
/// partial, for a device to complete, or 0 where UDP has none), and the kernel's own sum over the packet.
#[inline(always)]
fn translate<A: Ip>(skb: Skb, packet: &Packet<A>, rewrite: &Rewrite<A>, ttl: u8, on: bool) -> bool {
    // What the kernel's own sum changes by.
    let mut sum = if A::HEADER_SUM { 0 } else { u64::from(hops(packet.ttl, ttl)) };
    let whole = packet.kind == Kind::Ports;
    let udp = packet.key.protocol == UDP;
    let offset = packet.l4 + if udp { 6 } else { 16 };
    let mut helpers = false;
    if whole {
        let Some(ports) = skb.at::<u32>(packet.l4 as usize) else { return false };
        write(ports, u32::from(rewrite.source_port) | u32::from(rewrite.destination_port) << 16);
        let Some(at) = skb.at::<u16>(offset as usize) else { return false };
        let old = read(at);
        if skb.get().gso_size != 0 || may_be_partial(packet, rewrite.pseudo, old) {
            helpers = true;
        } else if !udp || old != 0 {
            let new = apply(old, u32::from(rewrite.addresses) + u32::from(rewrite.ports));
            write(at, if udp && new == 0 { u16::MAX } else { new });
            if A::HEADER_SUM {
                // The header adds up to nothing, whatever its addresses; TCP and UDP count them without having them.
                sum = u64::from(!u32::from(rewrite.addresses));
            }
        } else if !A::HEADER_SUM {
            sum += u64::from(rewrite.addresses) + u64::from(rewrite.ports);
        } else {
            sum = u64::from(rewrite.ports);
        }
    } else if !A::HEADER_SUM {
        sum += u64::from(rewrite.addresses);
    }
    if !A::write(skb, packet.l3 as usize, rewrite.source, rewrite.destination, rewrite.addresses, ttl) {
        return false;
    }
    if helpers {
        let zero = if udp { u64::from(BPF_F_MARK_MANGLED_0) } else { 0 };
        let pseudo = zero | u64::from(BPF_F_PSEUDO_HDR);
        // SAFETY: the context is the kernel's; the offset is checked by the helper.
        unsafe {
            bpf_l4_csum_replace(skb.0, offset, 0, u64::from(rewrite.addresses), pseudo);
            bpf_l4_csum_replace(skb.0, offset, 0, u64::from(rewrite.ports), zero);
        }
        if !A::HEADER_SUM {
            // It took the addresses for changed within a header that has a sum of its own: what it took comes back.
            sum += u64::from(rewrite.addresses);
        }
    }
    summed(skb, fold64(sum), on);
    true
}

/// To where a rewrite says.
#[inline(always)]
pub fn leave<A: Ip>(skb: Skb, rewrite: &Rewrite<A>) -> i32 {
    if rewrite.device == 0 {
        return NEXT;
    }
    direct::mark(skb, rewrite);
    if rewrite.nexthop.is(A::ZERO) {
        // SAFETY: without a next hop the helper asks the routes for it.
        return unsafe { bpf_redirect_neigh(rewrite.device, core::ptr::null_mut(), 0, 0) } as i32;
    }
    let mut to = rewrite.nexthop.neighbour();
    // SAFETY: the structure is as long as is said.
    unsafe { bpf_redirect_neigh(rewrite.device, &raw mut to, size_of::<bpf_redir_neigh>() as i32, 0) as i32 }
}
