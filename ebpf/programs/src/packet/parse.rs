//! What a packet is: addresses, ports, and where its headers are.
//!
//! Only what may be translated is looked into: TCP, UDP, ICMP echo and ICMP errors, in IPv4 with options (RFC 791) or
//! IPv6 with extension headers (RFC 8200). All else is [`Kind::Other`] and passes untouched: so do authentication
//! headers, which no translation survives, and routing headers that name another destination.

use super::frame::Frame;
use core::mem::offset_of;
use mesh_ebpf_common::{FlowKey, V4, V6};

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMP4: u8 = 1;
pub const ICMP6: u8 = 58;

/// TCP's flags.
pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const ACK: u8 = 0x10;

/// Most extension headers of a packet that is looked into; Linux sends three at most.
const EXTENSIONS: usize = 6;

/// What may be done with a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// TCP or UDP, with its ports.
    Ports,
    /// A part of a packet that has no ports.
    LaterFragment,
    /// A ping.
    Echo,
    /// An ICMP error.
    Error,
    /// None of our business.
    Other,
    /// It says more than it has.
    Malformed,
}

/// What is known of a packet.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub struct Packet<A> {
    /// Addresses and ports.
    pub key: FlowKey<A>,
    /// Where the IP header begins.
    pub l3: u32,
    /// Where the header after it begins.
    pub l4: u32,
    /// Bytes from `l3` on, as the IP header has it.
    pub len: u32,
    /// Identification of a fragmented packet, as it is in the header.
    pub id: u32,
    /// What it is.
    pub kind: Kind,
    /// Whether it is the first fragment of several.
    pub first: bool,
    /// Flags of TCP.
    pub flags: u8,
    /// Time to live, hop limit.
    pub ttl: u8,
    /// Whether routers may cut it.
    pub splits: bool,
    /// Whether it is on its way out of this host.
    pub leaves: bool,
}

impl<A: Copy> Packet<A> {
    /// Nothing yet.
    #[inline(always)]
    pub fn new(zero: A, leaves: bool) -> Packet<A> {
        let key = FlowKey {
            source: zero,
            destination: zero,
            source_port: 0,
            destination_port: 0,
            protocol: 0,
            pad: [0; 3],
        };
        Packet {
            key,
            l3: 0,
            l4: 0,
            len: 0,
            id: 0,
            kind: Kind::Malformed,
            first: false,
            flags: 0,
            ttl: 0,
            splits: false,
            leaves,
        }
    }
}

/// Reads where reading is said to be possible. Packets are not aligned; machines that run eBPF do not mind.
#[inline(always)]
pub fn read<T: Copy>(at: *const T) -> T {
    // SAFETY: from `Frame::at`, which checks that the packet has these bytes. The compiler for this target makes loads
    // of the type's size, which every machine whose verifier allows them does at any address.
    unsafe { *at }
}

/// Writes likewise.
#[inline(always)]
pub fn write<T: Copy>(at: *mut T, value: T) {
    // SAFETY: as in `read`.
    unsafe { *at = value };
}

/// Eight bytes of a key. They are compared at once, and what was written in parts is not at hand for that at once.
#[inline(always)]
fn part<A>(key: &mut FlowKey<A>, offset: usize) -> *mut u64 {
    core::ptr::from_mut(key).cast::<u8>().wrapping_add(offset).cast()
}

/// The ports, and TCP's flags.
#[inline(always)]
fn ports<A, F: Frame, const QUOTED: bool>(frame: F, packet: &mut Packet<A>) {
    let l4 = packet.l4 as usize;
    let least = if packet.key.protocol == TCP { 20 } else { 8 };
    if packet.len < packet.l4 - packet.l3 + least && !QUOTED {
        return;
    }
    let ports: u32 = if packet.key.protocol == TCP && !QUOTED {
        let Some(header) = frame.at::<[u32; 5]>(l4) else { return };
        packet.flags = read(header.cast::<u8>().wrapping_add(13));
        read(header.cast())
    } else {
        let Some(header) = frame.at::<[u32; 2]>(l4) else { return };
        read(header.cast())
    };
    let words = u64::from(ports) | u64::from(packet.key.protocol) << 32;
    write(part(&mut packet.key, offset_of!(FlowKey<A>, source_port)), words);
    packet.kind = Kind::Ports;
}

/// Reads an IPv4 header at `l3` and what follows; `QUOTED` within an ICMP error, which has only its beginning.
#[inline(always)]
pub fn parse4<F: Frame, const QUOTED: bool>(frame: F, l3: usize, packet: &mut Packet<V4>) {
    packet.l3 = l3 as u32;
    let Some(header) = frame.at::<[u32; 5]>(l3) else { return };
    let [first, second, third]: [u32; 3] =
        [0, 1, 2].map(|word| read(header.cast::<u32>().wrapping_add(word)));
    let words = first & 0xf;
    if first >> 4 & 0xf != 4 || words < 5 {
        return;
    }
    let l4 = l3 + words as usize * 4;
    packet.l4 = l4 as u32;
    let addresses = header.cast::<u32>().wrapping_add(3).cast::<u64>();
    write(part(&mut packet.key, offset_of!(FlowKey<V4>, source)), read(addresses));
    packet.key.protocol = (third >> 8) as u8;
    packet.ttl = third as u8;
    let rest = frame.len().wrapping_sub(l3 as u32);
    packet.len = u32::from(((first >> 16) as u16).swap_bytes());
    if packet.len == 0 {
        // BIG TCP: longer than the header can say.
        packet.len = rest;
    }
    if packet.len < words * 4 || (packet.len > rest && !QUOTED) {
        return;
    }
    let fragment = ((second >> 16) as u16).swap_bytes();
    packet.id = second & 0xffff;
    packet.splits = fragment & 0x4000 == 0;
    if fragment & 0x1fff != 0 {
        packet.kind =
            if matches!(packet.key.protocol, TCP | UDP) { Kind::LaterFragment } else { Kind::Other };
        return;
    }
    packet.first = fragment & 0x2000 != 0;
    match packet.key.protocol {
        TCP | UDP => ports::<V4, F, QUOTED>(frame, packet),
        ICMP4 if packet.len >= words * 4 + 8 => {
            let Some(header) = frame.at::<[u32; 2]>(l4) else { return };
            packet.kind = match read(header.cast::<u8>()) {
                8 if !packet.first => Kind::Echo,
                3 | 11 | 12 if !packet.first => Kind::Error,
                _ => Kind::Other,
            };
        }
        _ => packet.kind = Kind::Other,
    }
}

/// Reads an IPv6 header at `l3` and what follows, likewise.
#[inline(always)]
pub fn parse6<F: Frame, const QUOTED: bool>(frame: F, l3: usize, packet: &mut Packet<V6>) {
    packet.l3 = l3 as u32;
    let Some(header) = frame.at::<[u32; 10]>(l3) else { return };
    let word = |number: usize| -> u32 { read(header.cast::<u32>().wrapping_add(number)) };
    let second = word(1);
    if word(0) >> 4 & 0xf != 6 {
        return;
    }
    for number in 0..4 {
        let eight = header.cast::<u32>().wrapping_add(2 + number * 2).cast::<u64>();
        write(part(&mut packet.key, offset_of!(FlowKey<V6>, source) + number * 8), read(eight));
    }
    packet.ttl = (second >> 24) as u8;
    let rest = frame.len().wrapping_sub(l3 as u32);
    packet.len = u32::from((second as u16).swap_bytes()) + 40;
    if packet.len == 40 {
        // BIG TCP: longer than the header can say.
        packet.len = rest;
    }
    if packet.len > rest && !QUOTED {
        return;
    }
    let mut next = (second >> 16) as u8;
    let mut l4 = l3 + 40;
    if !matches!(next, TCP | UDP | ICMP6) {
        frame.pull();
        let Some((after, at)) = walk(frame, next, l4, packet) else { return };
        (next, l4) = (after, at);
    }
    packet.l4 = l4 as u32;
    packet.key.protocol = next;
    if packet.kind == Kind::LaterFragment {
        if !matches!(next, TCP | UDP) {
            packet.kind = Kind::Other;
        }
        return;
    }
    match next {
        TCP | UDP => ports::<V6, F, QUOTED>(frame, packet),
        ICMP6 if packet.len >= packet.l4 - packet.l3 + 8 => {
            let Some(header) = frame.at::<[u32; 2]>(l4) else { return };
            packet.kind = match read(header.cast::<u8>()) {
                128 if !packet.first => Kind::Echo,
                1..=4 if !packet.first => Kind::Error,
                _ => Kind::Other,
            };
        }
        _ => packet.kind = Kind::Other,
    }
}

/// Goes past extension headers; gives the protocol and where its header begins. Leaves the kind of a fragment.
#[inline(always)]
fn walk<F: Frame>(frame: F, mut next: u8, mut l4: usize, packet: &mut Packet<V6>) -> Option<(u8, usize)> {
    for _ in 0..EXTENSIONS {
        match next {
            // Hop-by-hop options, routing, destination options.
            0 | 43 | 60 => {
                let header = frame.at::<[u8; 8]>(l4)?.cast::<u8>();
                if next == 43 && read(header.wrapping_add(3)) != 0 {
                    packet.kind = Kind::Other;
                    return None;
                }
                next = read(header);
                l4 += (usize::from(read(header.wrapping_add(1))) + 1) * 8;
            }
            44 => {
                let header = frame.at::<[u32; 2]>(l4)?;
                let place = read(header.cast::<u16>().wrapping_add(1)).swap_bytes();
                packet.id = read(header.cast::<u32>().wrapping_add(1));
                next = read(header.cast::<u8>());
                l4 += 8;
                if place & 0xfff8 != 0 {
                    packet.kind = Kind::LaterFragment;
                    return Some((next, l4));
                }
                packet.first = place & 1 != 0;
            }
            TCP | UDP | ICMP6 => return Some((next, l4)),
            _ => break,
        }
    }
    packet.kind = Kind::Other;
    None
}
