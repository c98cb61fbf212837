//! Most packets: TCP or UDP right after an IP header of the usual length, whole. They are read at once, into registers; what
//! is known of one lies in no memory until somebody asks for it.

use super::{
    frame::{ETHERNET, Frame},
    ip::Ip,
    parse::{Kind, Packet, TCP, UDP, read},
};
use core::mem::transmute;
use mesh_ebpf_common::{FlowKey, V4, V6};

/// What [`Packet`] says of where things are.
const L3: u32 = ETHERNET as u32;

/// A family whose usual packets are known at a glance.
pub trait Plain: Ip {
    /// The packet, if it is one of those, and has all that its headers say.
    fn plain<F: Frame>(frame: F) -> Option<Packet<Self>>;
}

/// What both families have: the least length that goes with a protocol, and flags. Bytes up to the end of a UDP header are there.
#[inline(always)]
fn upper<F: Frame>(frame: F, protocol: u8, l4: usize) -> Option<(u32, u8)> {
    match protocol {
        TCP => Some((20, read(frame.at::<[u32; 5]>(l4)?.cast::<u8>().wrapping_add(13)))),
        UDP => Some((8, 0)),
        _ => None,
    }
}

impl Plain for V4 {
    #[inline(always)]
    fn plain<F: Frame>(frame: F) -> Option<Packet<V4>> {
        const HEADER: u32 = 20;
        let header = frame.at::<[u32; 7]>(ETHERNET)?.cast::<u32>();
        let [first, second, third]: [u32; 3] = [0, 1, 2].map(|word| read(header.wrapping_add(word)));
        // Version 4, five words; neither a fragment nor followed by one.
        let fragment = (second >> 16) as u16;
        if first & 0xff != 0x45 || fragment & 0x3fff_u16.to_be() != 0 {
            return None;
        }
        let (protocol, len) = ((third >> 8) as u8, u32::from(((first >> 16) as u16).swap_bytes()));
        let (least, flags) = upper(frame, protocol, ETHERNET + HEADER as usize)?;
        if len < HEADER + least || len > frame.len().wrapping_sub(L3) {
            return None;
        }
        let addresses: u64 = read(header.wrapping_add(3).cast());
        let ports: u32 = read(header.wrapping_add(5));
        let words = [addresses, u64::from(ports) | u64::from(protocol) << 32];
        Some(Packet {
            // SAFETY: numbers of the same size, in the order of the bytes.
            key: unsafe { transmute::<[u64; 2], FlowKey<V4>>(words) },
            l3: L3,
            l4: L3 + HEADER,
            len,
            id: second & 0xffff,
            kind: Kind::Ports,
            first: false,
            flags,
            ttl: third as u8,
            splits: fragment & 0x4000_u16.to_be() == 0,
            leaves: false,
        })
    }
}

impl Plain for V6 {
    #[inline(always)]
    fn plain<F: Frame>(frame: F) -> Option<Packet<V6>> {
        const HEADER: u32 = 40;
        let header = frame.at::<[u32; 12]>(ETHERNET)?.cast::<u32>();
        let [first, second]: [u32; 2] = [0, 1].map(|word| read(header.wrapping_add(word)));
        if first & 0xf0 != 0x60 {
            return None;
        }
        let (protocol, data) = ((second >> 16) as u8, u32::from((second as u16).swap_bytes()));
        let (least, flags) = upper(frame, protocol, ETHERNET + HEADER as usize)?;
        if data < least || data + HEADER > frame.len().wrapping_sub(L3) {
            return None;
        }
        let eight = |number: usize| -> u64 { read(header.wrapping_add(2 + number * 2).cast()) };
        let ports: u32 = read(header.wrapping_add(10));
        let words = [eight(0), eight(1), eight(2), eight(3), u64::from(ports) | u64::from(protocol) << 32];
        Some(Packet {
            // SAFETY: as above.
            key: unsafe { transmute::<[u64; 5], FlowKey<V6>>(words) },
            l3: L3,
            l4: L3 + HEADER,
            len: data + HEADER,
            id: 0,
            kind: Kind::Ports,
            first: false,
            flags,
            ttl: (second >> 24) as u8,
            splits: false,
            leaves: false,
        })
    }
}
