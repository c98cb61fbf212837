//! Guests: flows that another node began and translates, to a backend here. The host's own stack takes them to the backend
//! and their answers back; here they only hold the place of their answers.

use super::{
    clock::now,
    flow::tcp,
    frame::{Frame as _, Skb},
    parse::{SYN, read},
    table::{Found, NOWHERE, end, find, touch},
    work::{Steps, Work, work},
};
use crate::atomic;
use mesh_ebpf_common::{CLASH_MARK, Flow, FlowKey, direction};

/// Writes down that answers to this packet are a guest's. Where a flow of this node has that place, or one that another
/// node began, because the client used one port to dial both, the packet is marked: the host gives it another port.
#[inline(always)]
pub fn welcome<A: Steps>(skb: Skb) {
    let Some(work) = work::<A>() else { return };
    // The end of the address that the other node has on the overlay's link, which is its own.
    let Some(other) = skb.at::<[u8; 4]>(8).map(|end| read(end)) else { return };
    let other = u32::from_ne_bytes(other);
    let Work { packet, back, reply, .. } = work;
    let key = &packet.key;
    *back = FlowKey {
        source: key.destination,
        destination: key.source,
        source_port: key.destination_port,
        destination_port: key.source_port,
        protocol: key.protocol,
        pad: [0; 3],
    };
    let Some(Found { line, flow: there }) = find(back, end::EITHER) else {
        *reply = Flow {
            source: key.destination,
            destination: key.source,
            source_port: key.destination_port,
            destination_port: key.source_port,
            bits: direction::GUEST | direction::REPLY | tcp(packet, false),
            backend: other,
            generation: 0,
            frontend: u32::MAX,
            seen: now(),
        };
        let _ = A::add(back, reply, NOWHERE);
        return;
    };
    if there.bits & direction::GUEST == 0 || there.backend != other {
        skb.mark(CLASH_MARK);
        return;
    }
    let (bits, now) = (tcp(packet, false), now());
    if packet.flags & SYN != 0 && ended(there.bits) {
        there.bits = direction::GUEST | direction::REPLY;
    }
    if there.bits & bits != bits {
        atomic::fetch_or(&raw mut there.bits, bits);
    }
    if there.seen != now {
        there.seen = now;
        touch::<A>(line, there.bits, now);
    }
}

fn ended(bits: u32) -> bool {
    let both = direction::FIN_CLIENT | direction::FIN_BACKEND;
    bits & direction::CLOSED != 0 || bits & both == both
}
