//! What is answered here: pings of VIPs, refusals, and errors about packets that cannot go on.
//!
//! Answers come from the address that the packet was for, and go back by the device it came by.

use super::{
    act::SHOT,
    checksum::{apply, difference, fold32, fold64, hops},
    frame::{ETHERNET, Frame, Skb, opaque},
    ip::{HOPS, Ip},
    parse::{ACK, FIN, Packet, RST, SYN, TCP, UDP, read, write},
    work::{Steps, work},
};
use aya_ebpf::{
    bindings::{BPF_F_INGRESS, BPF_F_INVALIDATE_HASH, BPF_F_RECOMPUTE_CSUM},
    helpers::generated::{
        bpf_csum_diff, bpf_csum_update, bpf_l4_csum_replace, bpf_redirect, bpf_skb_change_tail,
        bpf_skb_load_bytes, bpf_skb_store_bytes,
    },
};

/// Most bytes of a packet that an error about it quotes: what RFC 792 and RFC 4443 need to find the flow by, with all
/// options of IPv4 or several extension headers of IPv6.
const QUOTE: u32 = 128;
/// The least: a header of IPv4.
const LEAST: u32 = 20;

/// An ICMP error.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Error {
    /// Nobody serves this port.
    Refused = 0,
    /// The packet is longer than the path takes.
    TooBig = 1,
    /// Too many hops.
    Expired = 2,
}

impl Error {
    /// Type and code, in the order of the bytes.
    #[inline(always)]
    fn code<A: Ip>(number: u32) -> u32 {
        let (kind, code) = match (number, A::HEADER_SUM) {
            (0, true) => (3, 3),
            (1, true) => (3, 4),
            (_, true) => (11, 0),
            (0, false) => (1, 4),
            (1, false) => (2, 0),
            (_, false) => (3, 0),
        };
        kind | code << 8
    }
}

/// Sends what the packet has become back to where it came from.
#[inline(always)]
fn back(skb: Skb, leaves: bool) -> i32 {
    let Some(ethernet) = skb.at::<[u16; 6]>(0) else { return SHOT };
    let ethernet = ethernet.cast::<u16>();
    for number in 0..3 {
        let (to, from) = (ethernet.wrapping_add(number), ethernet.wrapping_add(number + 3));
        let (old, new) = (read(to), read(from));
        write(to, new);
        write(from, old);
    }
    let flags = if leaves { u64::from(BPF_F_INGRESS) } else { 0 };
    // SAFETY: the device is that of the packet.
    unsafe { bpf_redirect(skb.device(), flags) as i32 }
}

/// The sum of what TCP and ICMPv6 count of the header before them.
#[inline(always)]
fn pseudo<A: Ip>(packet: &Packet<A>, protocol: u8, len: u32) -> u64 {
    packet.key.source.sum() + packet.key.destination.sum() + u64::from((len + u32::from(protocol)).to_be())
}

/// Answers a ping.
#[inline(always)]
pub fn pong<A: Ip>(skb: Skb, packet: &Packet<A>) -> i32 {
    let (l3, l4) = (packet.l3 as usize, packet.l4 as usize);
    let Some(header) = skb.at::<[u16; 2]>(l4) else { return SHOT };
    let header = header.cast::<u16>();
    let (request, reply): (u16, u16) = if A::HEADER_SUM { (8, 0) } else { (128, 129) };
    let change = difference(u64::from(request), u64::from(reply));
    let sum = apply(read(header.wrapping_add(1)), change.into());
    write(header.cast::<u8>(), reply as u8);
    write(header.wrapping_add(1), sum);
    // Both swap, so that no sum changes but by the hops.
    if !A::write(skb, l3, packet.key.destination, packet.key.source, 0, HOPS as u8) {
        return SHOT;
    }
    if !A::HEADER_SUM {
        // SAFETY: the context is the kernel's.
        unsafe { bpf_csum_update(skb.0, hops(packet.ttl, HOPS as u8).into()) };
    }
    back(skb, packet.leaves)
}

/// Room for the longest answer: IPv6, ICMP, and what it quotes.
const WORDS: usize = 10 + 2 + QUOTE as usize / 4;

/// Answers with an ICMP error, from the address that the packet was for.
#[inline(always)]
pub fn error<A: Steps>(skb: Skb, error: u32, mtu: u32) -> i32 {
    let Some(work) = work::<A>() else { return SHOT };
    let packet = &work.packet;
    let head = if A::HEADER_SUM { 5 } else { 10 };
    let mut words = [0_u32; WORDS];
    let Some(over) = packet.len.checked_sub(LEAST) else { return SHOT };
    // Linux 6.1 keeps what it learns of a number of 32 bits to one register: the number is not compared once more.
    let quoted = LEAST + opaque(over.min(QUOTE - LEAST));
    // SAFETY: the buffer has room for `QUOTE` bytes behind the two headers.
    let loaded = unsafe {
        bpf_skb_load_bytes(skb.0.cast(), ETHERNET as u32, words[head + 2..].as_mut_ptr().cast(), quoted)
    };
    if loaded != 0 {
        return SHOT;
    }
    let len = 8 + quoted;
    A::header(&mut words, packet.key.destination, packet.key.source, A::ICMP, len);
    words[head] = Error::code::<A>(error);
    words[head + 1] = if A::HEADER_SUM { u32::from((mtu as u16).swap_bytes()) << 16 } else { mtu.to_be() };
    // SAFETY: the rest of the buffer in IPv6, and as much in IPv4; what is not quoted is 0.
    let sum =
        unsafe { bpf_csum_diff(core::ptr::null_mut(), 0, words[head..].as_mut_ptr(), 8 + QUOTE, 0) as u32 };
    let around = if A::HEADER_SUM { 0 } else { pseudo(packet, A::ICMP, len) };
    words[head] |= u32::from(!fold32(fold64(u64::from(sum) + around))) << 16;
    replace(skb, packet.leaves, words.as_ptr(), head as u32 * 4 + len)
}

/// Makes the packet what is in a buffer, and sends it back.
#[inline(always)]
fn replace(skb: Skb, leaves: bool, words: *const u32, len: u32) -> i32 {
    let flags = u64::from(BPF_F_RECOMPUTE_CSUM | BPF_F_INVALIDATE_HASH);
    // SAFETY: callers have `len` bytes at `words`.
    let done = unsafe {
        bpf_skb_change_tail(skb.0, ETHERNET as u32 + len, 0) == 0
            && bpf_skb_store_bytes(skb.0, ETHERNET as u32, words.cast(), len, flags) == 0
    };
    if done { back(skb, leaves) } else { SHOT }
}

/// Answers TCP with a reset that its sender believes (RFC 9293 section 3.5.2).
#[inline(always)]
pub fn reset<A: Steps>(skb: Skb) -> i32 {
    let Some(work) = work::<A>() else { return SHOT };
    let packet = &work.packet;
    let Some(header) = skb.at::<[u32; 5]>(packet.l4 as usize) else { return SHOT };
    let header = header.cast::<u32>();
    let (sequence, acknowledged) = (read(header.wrapping_add(1)), read(header.wrapping_add(2)));
    let offset = u32::from(read(header.cast::<u8>().wrapping_add(12)) >> 4) * 4;
    let head = if A::HEADER_SUM { 5 } else { 10 };
    let mut words = [0_u32; 15];
    A::header(&mut words, packet.key.destination, packet.key.source, TCP, 20);
    words[head] = u32::from(packet.key.destination_port) | u32::from(packet.key.source_port) << 16;
    let flags = if packet.flags & ACK != 0 {
        words[head + 1] = acknowledged;
        RST
    } else {
        let data = packet.len.wrapping_sub(packet.l4 - packet.l3).wrapping_sub(offset);
        let extra = u32::from(packet.flags & SYN != 0) + u32::from(packet.flags & FIN != 0);
        words[head + 2] = u32::from_be(sequence).wrapping_add(data).wrapping_add(extra).to_be();
        RST | ACK
    };
    // Data offset of five words, then the flags.
    words[head + 3] = 0x50 | u32::from(flags) << 8;
    let around = pseudo(packet, TCP, 20);
    let sum: u64 = words[head..head + 5].iter().map(|word| u64::from(*word)).sum();
    words[head + 4] = u32::from(!fold32(fold64(sum + around)));
    let partial = partial(skb, packet);
    if partial {
        words[head + 4] = u32::from(fold32(fold64(around)));
    }
    replace(skb, packet.leaves, words.as_ptr(), (head as u32 + 5) * 4)
}

/// Whether the packet's checksum is left to the device. A helper that changes what is not of the pseudo header changes
/// nothing then.
#[inline(always)]
fn partial<A: Ip>(skb: Skb, packet: &Packet<A>) -> bool {
    let offset = packet.l4 as usize + if packet.key.protocol == UDP { 6 } else { 16 };
    let Some(sum) = skb.at::<u16>(offset) else { return false };
    let before = read(sum);
    // SAFETY: the context is the kernel's.
    unsafe { bpf_l4_csum_replace(skb.0, offset as u32, 0, 1, 2) };
    let Some(sum) = skb.at::<u16>(offset) else { return false };
    let same = read(sum) == before;
    // As it was: the kernel's own sum over the packet did not follow.
    write(sum, before);
    same
}
