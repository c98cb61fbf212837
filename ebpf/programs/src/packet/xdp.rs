//! The program at XDP: packets of flows that are known leave before the kernel makes anything of them.
//!
//! It is the tc programs' fast path and does nothing of its own: new flows, what TCP's flags say, answers, errors, fragments,
//! options and backends of this host are for those, to which all passes untouched that is not sent on whole. A choice in
//! both places would count twice.

use super::{
    act::{Act, act},
    cache::{MARKS, elsewhere, epoch, glance, keep},
    checksum::{apply, fold32, fold64},
    flow::{completed, count, resolve},
    frame::{ETHERNET, Frame, Xdp},
    ip::Ip,
    parse::{Packet, TCP, UDP, read, write},
    plain::Plain,
    pseudo::may_be_partial,
    way::{self, HEAD, LONGEST, OUTER, Way},
    work::{Steps, work},
};
use crate::maps::config;
use aya_ebpf::{
    bindings::{
        xdp_action::{XDP_ABORTED, XDP_PASS, XDP_REDIRECT},
        xdp_md,
    },
    helpers::generated::{bpf_redirect, bpf_xdp_adjust_head},
    macros::xdp,
    programs::XdpContext,
};
use mesh_ebpf_common::{Config, Rewrite, V4, V6, direction};

/// `ETH_P_IP` and `ETH_P_IPV6`, in the order of the bytes.
const IPV4: u16 = 0x0800_u16.to_be();
const IPV6: u16 = 0x86dd_u16.to_be();

/// Packets that come in.
#[xdp]
pub fn xdp_ingress(ctx: XdpContext) -> u32 {
    let xdp = Xdp(ctx.ctx);
    let (Some(header), Some(config)) = (xdp.at::<[u16; 7]>(0), config()) else { return XDP_PASS };
    match read(header.cast::<u16>().wrapping_add(6)) {
        IPV4 => one::<V4>(xdp, config),
        IPV6 => one::<V6>(xdp, config),
        _ => XDP_PASS,
    }
}

/// Length of an IP header without options.
const fn head<A: Ip>() -> usize {
    if A::HEADER_SUM { 20 } else { 40 }
}

/// One packet.
#[inline(always)]
fn one<A: Fast>(xdp: Xdp, config: &Config) -> u32 {
    let Some(packet) = A::plain(xdp) else { return XDP_PASS };
    let packet = &packet;
    if packet.flags & MARKS != 0 || packet.ttl <= 1 {
        return XDP_PASS;
    }
    let Some((first, mut cached, known)) = glance(packet, config) else { return XDP_PASS };
    let mut line = first;
    if !known {
        let Some(work) = work::<A>() else { return XDP_PASS };
        work.packet = *packet;
        let Some((other, its, known)) = elsewhere::<A>(line) else { return XDP_PASS };
        (line, cached) = (other, its);
        if !known {
            let act = A::look(xdp, line);
            completed::<A>();
            if act.kind() != act::SEND {
                return XDP_PASS;
            }
            keep(cached, packet, epoch(line, config));
        }
    }
    let rewrite = &cached.rewrite;
    // A device of 0 is this host, an MTU of 0 a neighbour who is not known; what is handed on gets its token at tc.
    if rewrite.device == 0 || rewrite.bits & direction::HANDED != 0 || packet.len > rewrite.mtu {
        return XDP_PASS;
    }
    let way = if let Some(way) = way::glance(xdp, rewrite, config) {
        way
    } else {
        let Some(work) = work::<A>() else { return XDP_PASS };
        work.packet = *packet;
        let Some(way) = way::elsewhere(A::find(xdp, line)) else { return XDP_PASS };
        way
    };
    if way.verdict == XDP_PASS || packet.len > way.longest || !is_for(xdp, way.own) {
        return XDP_PASS;
    }
    let sent = if way.outer == 0 {
        direct(xdp, packet, rewrite, way)
    } else {
        encapsulate(xdp, packet, rewrite, way, first)
    };
    if sent == way.verdict {
        count(packet, rewrite);
        if sent == XDP_REDIRECT {
            // SAFETY: whether there is such a device the kernel looks.
            return unsafe { bpf_redirect(way.out, 0) } as u32;
        }
    }
    sent
}

/// Whether a frame has this link-layer address: others are seen, too, by a device that listens to all.
#[inline(always)]
fn is_for(xdp: Xdp, own: u64) -> bool {
    xdp.at::<u64>(0).is_some_and(|to| read(to) & 0xffff_ffff_ffff == own)
}

/// Translates a packet and gives it to its next hop. What cannot be done is found out before anything is written.
#[inline(always)]
fn direct<A: Ip>(xdp: Xdp, packet: &Packet<A>, rewrite: &Rewrite<A>, way: &Way) -> u32 {
    let Some(upper) = Upper::of::<A, 0>(xdp, packet) else { return XDP_PASS };
    if !upper.follows(packet, rewrite) || !translate::<A, 0>(xdp, packet, rewrite, upper) {
        return XDP_PASS;
    }
    let Some(frame) = xdp.at::<[u32; 3]>(0) else { return XDP_ABORTED };
    write(frame.cast::<u64>(), way.head[0]);
    write(frame.cast::<u32>().wrapping_add(2), way.head[1] as u32);
    way.verdict
}

/// Translates a packet and wraps it up for another node of the overlay (RFC 7348 section 5).
#[inline(always)]
fn encapsulate<A: Ip>(xdp: Xdp, packet: &Packet<A>, rewrite: &Rewrite<A>, way: &Way, line: u32) -> u32 {
    let Some(upper) = Upper::of::<A, 0>(xdp, packet) else { return XDP_PASS };
    // SAFETY: the context is the kernel's; where there is no room nothing is done.
    if !upper.follows(packet, rewrite) || unsafe { bpf_xdp_adjust_head(xdp.0, -(OUTER as i32)) } != 0 {
        return XDP_PASS;
    }
    // All that is read from here on was there before.
    let Some(upper) = Upper::of::<A, OUTER>(xdp, packet) else { return XDP_ABORTED };
    if !translate::<A, OUTER>(xdp, packet, rewrite, upper) {
        return XDP_ABORTED;
    }
    let sum = upper.sum;
    // What differs from packet to packet, but for those that are alike.
    let id = read(sum);
    let Some(frame) = xdp.at::<[u8; LONGEST]>(0) else { return XDP_ABORTED };
    let words = frame.cast::<u64>();
    for number in 0..HEAD - 1 {
        write(words.wrapping_add(number), way.head[number]);
    }
    let last = way.head[HEAD - 1];
    write(words.wrapping_add(HEAD - 1).cast::<u32>(), last as u32);
    write(words.wrapping_add(HEAD - 1).cast::<u16>().wrapping_add(2), (last >> 32) as u16);
    let half = |at: usize, value: u16| write(frame.cast::<u8>().wrapping_add(at).cast::<u16>(), value);
    let len = packet.len + OUTER as u32;
    let (outer, inner) = ((len as u16).to_be(), (len as u16 - 20).to_be());
    half(16, outer);
    half(18, id);
    half(24, !fold32(fold64(u64::from(way.sum) + u64::from(outer) + u64::from(id))));
    // A port of those that are nobody's for each flow, so that receivers can spread them.
    half(34, (0xc000 | line as u16 & 0x3fff).to_be());
    half(38, inner);
    way.verdict
}

/// The header of TCP or UDP.
#[derive(Clone, Copy)]
struct Upper {
    ports: *mut u32,
    sum: *mut u16,
}

impl Upper {
    /// Behind so many bytes that are not the packet's.
    #[inline(always)]
    fn of<A: Ip, const BASE: usize>(xdp: Xdp, packet: &Packet<A>) -> Option<Upper> {
        let l4 = BASE + ETHERNET + head::<A>();
        if packet.key.protocol == UDP {
            let ports = xdp.at::<[u32; 2]>(l4)?.cast::<u32>();
            Some(Upper { ports, sum: ports.cast::<u16>().wrapping_add(3) })
        } else {
            let ports = xdp.at::<[u32; 5]>(l4)?.cast::<u32>();
            Some(Upper { ports, sum: ports.cast::<u16>().wrapping_add(8) })
        }
    }

    /// Whether the checksum is one that can follow what is rewritten: not left to a device that will not see it, nor
    /// missing in IPv6.
    #[inline(always)]
    fn follows<A: Ip>(self, packet: &Packet<A>, rewrite: &Rewrite<A>) -> bool {
        let sum = read(self.sum);
        !may_be_partial(packet, rewrite.pseudo, sum)
            && (A::HEADER_SUM || sum != 0 || packet.key.protocol == TCP)
    }
}

/// Writes the new addresses and ports and keeps the checksums right, or writes nothing.
#[inline(always)]
fn translate<A: Ip, const BASE: usize>(
    xdp: Xdp,
    packet: &Packet<A>,
    rewrite: &Rewrite<A>,
    upper: Upper,
) -> bool {
    let ttl = packet.ttl - 1;
    if !A::write(xdp, BASE + ETHERNET, rewrite.source, rewrite.destination, rewrite.addresses, ttl) {
        return false;
    }
    write(upper.ports, u32::from(rewrite.source_port) | u32::from(rewrite.destination_port) << 16);
    let udp = packet.key.protocol == UDP;
    let old = read(upper.sum);
    if !udp || old != 0 {
        let new = apply(old, u32::from(rewrite.addresses) + u32::from(rewrite.ports));
        write(upper.sum, if udp && new == 0 { u16::MAX } else { new });
    }
    true
}

/// What is a function of the kernel's kind here.
trait Fast: Steps + Plain {
    /// [`resolve`].
    fn look(xdp: Xdp, line: u32) -> Act;
    /// [`way::find`].
    fn find(xdp: Xdp, line: u32) -> u32;
}

macro_rules! fast {
    ($family:ty, $look:ident, $find:ident) => {
        impl Fast for $family {
            #[inline(always)]
            fn look(xdp: Xdp, line: u32) -> Act {
                Act::of($look(xdp.0, line))
            }
            #[inline(always)]
            fn find(xdp: Xdp, line: u32) -> u32 {
                $find(xdp.0, line)
            }
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $look(xdp: *mut xdp_md, line: u32) -> u32 {
            resolve::<$family, Xdp>(Xdp(xdp), line).number()
        }
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $find(xdp: *mut xdp_md, line: u32) -> u32 {
            way::find::<$family>(Xdp(xdp), line)
        }
    };
}

fast!(V4, mesh_xdp_resolve4, mesh_xdp_way4);
fast!(V6, mesh_xdp_resolve6, mesh_xdp_way6);
