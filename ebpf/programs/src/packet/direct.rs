//! Direct return: at the node that a flow comes in by, packets are handed on as they are; at that of its backend they are
//! translated, and the answers go straight to the client (`mesh_ebpf_common::direct`).

use super::{
    act::{NEXT, SHOT},
    frame::{Frame as _, Skb},
    ip::Ip,
    parse::{Packet, RST, TCP, read, write},
};
use crate::maps::{BACKENDS, MEMBERS, config};
use aya_ebpf::bindings::__sk_buff;
use mesh_ebpf_common::{
    Backend, Config, Drop, MemberKey, Rewrite, Service,
    direct::{LINK, MARK, node, token},
    direction, flag, state,
};

/// The first half of a link-layer source, of which the rest is a token.
const FIRST: u16 = u16::from_ne_bytes(LINK);

/// What a packet that another node handed on came with, else 0.
#[inline(always)]
pub fn came_with(skb: Skb) -> u32 {
    mesh_token(skb.0)
}

/// On with a packet that is none of ours; not with one that was handed on: its destination is the other node.
#[inline(always)]
pub fn pass(skb: Skb) -> i32 {
    if came_with(skb) == 0 { NEXT } else { SHOT }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn mesh_token(skb: *mut __sk_buff) -> u32 {
    let skb = Skb(skb);
    if config().is_none_or(|config| config.tunnel != skb.device()) {
        return 0;
    }
    let Some(header) = skb.at::<[u16; 6]>(0) else { return 0 };
    let source = header.cast::<u16>().wrapping_add(3);
    if read(source) == FIRST { read(source.wrapping_add(1).cast()) } else { 0 }
}

/// The index of the backend that the other node chose. What begins no flow here may be in the middle of one that was
/// forgotten: it goes where it went.
#[inline(always)]
pub fn chosen<A: Ip>(packet: &Packet<A>, with: u32, service: Option<&Service>) -> Result<u32, Drop> {
    if packet.key.protocol == TCP && packet.flags & RST != 0 {
        return Err(Drop::Gone);
    }
    let frontend = service.ok_or(Drop::NoBackend)?.frontend;
    let key = MemberKey { id: u64::from(with), frontend, short: 1 };
    // SAFETY: entries of this map are replaced, never written to, and freed after programs that may see them.
    let index = *unsafe { MEMBERS.get(key) }.ok_or(Drop::NoBackend)?;
    let backend = BACKENDS.get(index).ok_or(Drop::NoBackend)?;
    let open = backend.state & (state::ACTIVE | state::KEEPS) != 0;
    let here = backend.state & (state::REMOTE | state::MASQUERADE) == 0 && token(backend.id) == with;
    if open && here { Ok(index) } else { Err(Drop::NoBackend) }
}

/// Whether a new flow is handed on: from a client that every node reaches as this one does, to a node that takes it, of a
/// frontend for which nobody has to know when connections end.
#[inline(always)]
pub fn hands_on<A: Ip>(
    skb: Skb,
    packet: &Packet<A>,
    rewrite: &Rewrite<A>,
    config: &Config,
    service: &Service,
    backend: &Backend,
) -> bool {
    config.underlay != 0
        && skb.device() == config.underlay
        && rewrite.device == config.tunnel
        && backend.state & state::REMOTE != 0
        && service.flags & (flag::PUBLISHED | flag::LIMIT) == flag::PUBLISHED
        && service.flags & flag::PICK != flag::PICK_LEAST
        && packet.key.source.node_bits() & node::UNDERLAY == 0
        && rewrite.nexthop.node_bits() & node::DIRECT != 0
}

/// Turns the rewrite of a flow that is handed on, whose way is found, into one that leaves the packet as it is.
#[inline(always)]
pub fn straighten<A: Ip>(packet: &Packet<A>, rewrite: &mut Rewrite<A>) {
    rewrite.source = packet.key.source;
    rewrite.destination = packet.key.destination;
    rewrite.source_port = packet.key.source_port;
    rewrite.destination_port = packet.key.destination_port;
    (rewrite.addresses, rewrite.ports) = (0, 0);
}

/// Says at the overlay's device which backend is meant.
#[inline(always)]
pub fn mark<A: Ip>(skb: Skb, rewrite: &Rewrite<A>) {
    if rewrite.bits & direction::HANDED != 0 {
        skb.mark(MARK[0] | rewrite.backend);
    }
}

/// Writes the choice into a packet that is handed on, at the overlay's device. The outer packet has no mark.
#[inline(always)]
pub fn stamp(skb: Skb) -> i32 {
    mesh_stamp(skb.0)
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn mesh_stamp(skb: *mut __sk_buff) -> i32 {
    let skb = Skb(skb);
    if config().is_none_or(|config| config.tunnel != skb.device()) {
        return NEXT;
    }
    let index = skb.get().mark & !MARK[1];
    skb.mark(0);
    let Some(backend) = BACKENDS.get(index) else { return SHOT };
    let Some(header) = skb.at::<[u16; 6]>(0) else { return SHOT };
    let source = header.cast::<u16>().wrapping_add(3);
    write(source, FIRST);
    write(source.wrapping_add(1).cast(), token(backend.id));
    NEXT
}
