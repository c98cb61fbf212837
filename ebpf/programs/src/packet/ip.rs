//! What differs between IPv4 and IPv6 for packets.

use super::{
    checksum::{apply, fold32, fold64},
    frame::Frame,
    parse::{self, Packet, read, write},
};
use crate::{
    maps::{
        ASIDE4, ASIDE6, FLOWS4, FLOWS6, FRAGMENTS4, FRAGMENTS6, LINES4, LINES6, NODES4, NODES6, VIPS4, VIPS6,
    },
    service::{Family, halves},
};
use aya_ebpf::{
    bindings::{bpf_fib_lookup, bpf_redir_neigh},
    maps::{Array, LruHashMap, PerCpuArray},
};
use mesh_ebpf_common::{
    Cached, Config, FragmentKey, V4, V6,
    table::{Address, Entry, Line4, Line6},
};

/// Time to live of what is made here.
pub const HOPS: u32 = 64;

/// An address of one family, with what packets of that family need.
pub trait Ip: Family + Address {
    /// `AF_INET` or `AF_INET6`.
    const FAMILY: u8;
    /// Whether the IP header has a checksum.
    const HEADER_SUM: bool;
    /// The protocol number of its ICMP.
    const ICMP: u8;
    /// A line of the table of flows.
    fn flows(line: u32) -> Option<*mut Entry<Self>>;
    /// Rewrites: the lines of each CPU one after the other.
    fn lines() -> &'static Array<Cached<Self>>;
    /// What is in no line.
    fn aside() -> &'static PerCpuArray<Cached<Self>>;
    /// Ports of fragmented packets.
    fn fragments() -> &'static LruHashMap<FragmentKey<Self>, [u16; 2]>;
    /// Reads the headers; `QUOTED` within an ICMP error.
    fn parse<F: Frame, const QUOTED: bool>(frame: F, l3: usize, packet: &mut Packet<Self>);
    /// Writes addresses and the time to live; keeps the header's checksum right. `difference` is
    /// that of the addresses. False where the packet has no such header.
    fn write<F: Frame>(
        frame: F,
        l3: usize,
        source: Self,
        destination: Self,
        difference: u16,
        ttl: u8,
    ) -> bool;
    /// A header of 20 or 40 bytes for `len` bytes after it, at the start of `words`; checksum of it included.
    fn header(words: &mut [u32], source: Self, destination: Self, protocol: u8, len: u32);
    /// Whether pings of it are answered here.
    fn answers(self) -> bool;
    /// Whether it is the same, compared by words.
    fn is(self, other: Self) -> bool;
    /// What is known of it as a node's: bits of [`mesh_ebpf_common::direct::node`].
    fn node_bits(self) -> u8;
    /// This node's address on the overlay, zero without one.
    fn overlay(config: &Config) -> Self;
    /// Its words added up, for a difference of checksums.
    fn sum(self) -> u64;
    /// Asks for a route.
    fn ask(fib: &mut bpf_fib_lookup, source: Self, destination: Self);
    /// The next hop of a route.
    fn hop(fib: &bpf_fib_lookup) -> Self;
    /// The same, as a redirection has it.
    fn neighbour(self) -> bpf_redir_neigh;
}

impl Ip for V4 {
    const FAMILY: u8 = 2;
    const HEADER_SUM: bool = true;
    const ICMP: u8 = parse::ICMP4;

    #[inline(always)]
    fn flows(line: u32) -> Option<*mut Entry<V4>> {
        FLOWS4.get_ptr_mut(line).map(<*mut Line4>::cast)
    }

    #[inline(always)]
    fn lines() -> &'static Array<Cached<V4>> {
        &LINES4
    }

    #[inline(always)]
    fn aside() -> &'static PerCpuArray<Cached<V4>> {
        &ASIDE4
    }

    #[inline(always)]
    fn fragments() -> &'static LruHashMap<FragmentKey<V4>, [u16; 2]> {
        &FRAGMENTS4
    }

    #[inline(always)]
    fn parse<F: Frame, const QUOTED: bool>(frame: F, l3: usize, packet: &mut Packet<V4>) {
        parse::parse4::<F, QUOTED>(frame, l3, packet);
    }

    #[inline(always)]
    fn write<F: Frame>(frame: F, l3: usize, source: V4, destination: V4, difference: u16, ttl: u8) -> bool {
        let Some(header) = frame.at::<[u32; 5]>(l3) else { return false };
        let header = header.cast::<u32>();
        let third = read(header.wrapping_add(2));
        let new = third & 0xff00 | u32::from(ttl);
        // The word that has the time to live goes, and comes back with another.
        let changes = (!third & 0xffff) + new + u32::from(difference);
        let sum = apply((third >> 16) as u16, changes);
        write(header.wrapping_add(2), new | u32::from(sum) << 16);
        write(header.wrapping_add(3), u32::from_ne_bytes(source));
        write(header.wrapping_add(4), u32::from_ne_bytes(destination));
        true
    }

    #[inline(always)]
    fn header(words: &mut [u32], source: V4, destination: V4, protocol: u8, len: u32) {
        words[0] = 0x45 | u32::from((len as u16 + 20).swap_bytes()) << 16;
        // Not to be fragmented, so without an identification (RFC 6864).
        words[1] = 0x40 << 16;
        words[2] = HOPS | u32::from(protocol) << 8;
        words[3] = u32::from_ne_bytes(source);
        words[4] = u32::from_ne_bytes(destination);
        let sum = words[..5].iter().map(|word| u64::from(*word)).sum();
        words[2] |= u32::from(!fold32(fold64(sum))) << 16;
    }

    #[inline(always)]
    fn answers(self) -> bool {
        VIPS4.get_ptr(self).is_some()
    }

    #[inline(always)]
    fn is(self, other: V4) -> bool {
        self == other
    }

    #[inline(always)]
    fn node_bits(self) -> u8 {
        // SAFETY: entries of this map are replaced, never written to, and freed after programs that may see them.
        unsafe { NODES4.get(self) }.map_or(0, |bits| *bits)
    }

    #[inline(always)]
    fn overlay(config: &Config) -> V4 {
        config.overlay4
    }

    #[inline(always)]
    fn sum(self) -> u64 {
        u64::from(u32::from_ne_bytes(self))
    }

    #[inline(always)]
    fn ask(fib: &mut bpf_fib_lookup, source: V4, destination: V4) {
        fib.__bindgen_anon_3.ipv4_src = u32::from_ne_bytes(source);
        fib.__bindgen_anon_4.ipv4_dst = u32::from_ne_bytes(destination);
    }

    #[inline(always)]
    fn hop(fib: &bpf_fib_lookup) -> V4 {
        // SAFETY: numbers.
        unsafe { fib.__bindgen_anon_4.ipv4_dst }.to_ne_bytes()
    }

    #[inline(always)]
    fn neighbour(self) -> bpf_redir_neigh {
        let mut to = bpf_redir_neigh { nh_family: u32::from(Self::FAMILY), ..zeroed() };
        to.__bindgen_anon_1.ipv4_nh = u32::from_ne_bytes(self);
        to
    }
}

impl Ip for V6 {
    const FAMILY: u8 = 10;
    const HEADER_SUM: bool = false;
    const ICMP: u8 = parse::ICMP6;

    #[inline(always)]
    fn flows(line: u32) -> Option<*mut Entry<V6>> {
        FLOWS6.get_ptr_mut(line).map(<*mut Line6>::cast)
    }

    #[inline(always)]
    fn lines() -> &'static Array<Cached<V6>> {
        &LINES6
    }

    #[inline(always)]
    fn aside() -> &'static PerCpuArray<Cached<V6>> {
        &ASIDE6
    }

    #[inline(always)]
    fn fragments() -> &'static LruHashMap<FragmentKey<V6>, [u16; 2]> {
        &FRAGMENTS6
    }

    #[inline(always)]
    fn parse<F: Frame, const QUOTED: bool>(frame: F, l3: usize, packet: &mut Packet<V6>) {
        parse::parse6::<F, QUOTED>(frame, l3, packet);
    }

    #[inline(always)]
    fn write<F: Frame>(frame: F, l3: usize, source: V6, destination: V6, _: u16, ttl: u8) -> bool {
        let Some(header) = frame.at::<[u32; 10]>(l3) else { return false };
        let header = header.cast::<u32>();
        write(header.cast::<u8>().wrapping_add(7), ttl);
        let (source, destination) = (words(source), words(destination));
        for number in 0..4 {
            write(header.wrapping_add(2 + number), source[number]);
            write(header.wrapping_add(6 + number), destination[number]);
        }
        true
    }

    #[inline(always)]
    fn header(words: &mut [u32], source: V6, destination: V6, protocol: u8, len: u32) {
        let (source, destination) = (self::words(source), self::words(destination));
        words[0] = 0x60;
        words[1] = u32::from((len as u16).swap_bytes()) | u32::from(protocol) << 16 | HOPS << 24;
        words[2..6].copy_from_slice(&source);
        words[6..10].copy_from_slice(&destination);
    }

    #[inline(always)]
    fn answers(self) -> bool {
        VIPS6.get_ptr(self).is_some()
    }

    #[inline(always)]
    fn is(self, other: V6) -> bool {
        let ([a, b], [c, d]) = (halves(self), halves(other));
        (a ^ c) | (b ^ d) == 0
    }

    #[inline(always)]
    fn node_bits(self) -> u8 {
        // SAFETY: entries of this map are replaced, never written to, and freed after programs that may see them.
        unsafe { NODES6.get(self) }.map_or(0, |bits| *bits)
    }

    #[inline(always)]
    fn overlay(config: &Config) -> V6 {
        config.overlay6
    }

    #[inline(always)]
    fn sum(self) -> u64 {
        words(self).into_iter().map(u64::from).sum()
    }

    #[inline(always)]
    fn ask(fib: &mut bpf_fib_lookup, source: V6, destination: V6) {
        fib.__bindgen_anon_3.ipv6_src = words(source);
        fib.__bindgen_anon_4.ipv6_dst = words(destination);
    }

    #[inline(always)]
    fn hop(fib: &bpf_fib_lookup) -> V6 {
        // SAFETY: numbers.
        bytes(unsafe { fib.__bindgen_anon_4.ipv6_dst })
    }

    #[inline(always)]
    fn neighbour(self) -> bpf_redir_neigh {
        let mut to = bpf_redir_neigh { nh_family: u32::from(Self::FAMILY), ..zeroed() };
        to.__bindgen_anon_1.ipv6_nh = words(self);
        to
    }
}

/// A structure of the kernel's interface with nothing in it.
#[inline(always)]
pub fn zeroed<T: Copy>() -> T {
    // SAFETY: for structures of numbers alone, as those of `linux/bpf.h` are.
    unsafe { core::mem::zeroed() }
}

#[inline(always)]
pub fn words(address: V6) -> [u32; 4] {
    // SAFETY: numbers of the same size.
    unsafe { core::mem::transmute(address) }
}

#[inline(always)]
pub fn bytes(words: [u32; 4]) -> V6 {
    // SAFETY: as above.
    unsafe { core::mem::transmute(words) }
}
