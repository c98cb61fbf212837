//! Flows: what becomes of the packets of those that are known, and how far their TCP is.

use super::{
    act::Act,
    cache::{MARKS, drop_lines, rewrite},
    checksum::difference,
    clock::now,
    direct,
    frame::Frame,
    ip::Ip,
    parse::{ACK, FIN, Kind, Packet, RST, SYN, TCP},
    pseudo, route,
    table::{Found, NOWHERE, end, end_of, find, remove, touch},
    work::{Steps, Work, work},
};
use crate::{
    atomic,
    choose::ended,
    maps::{BACKEND_COUNTS, BACKENDS, config},
};
use mesh_ebpf_common::{Backend, Config, Drop, Flow, FlowKey, Rewrite, direction, state};

/// The other direction of a flow, in memory of the map: there is too little stack for it.
struct Other<'a, A> {
    key: &'a mut FlowKey<A>,
    flow: &'a mut Flow<A>,
    half: &'a mut u32,
}

/// The key of the other direction.
#[inline(always)]
pub fn turned<A: Ip>(flow: &Flow<A>, protocol: u8) -> FlowKey<A> {
    FlowKey {
        source: flow.destination,
        destination: flow.source,
        source_port: flow.destination_port,
        destination_port: flow.source_port,
        protocol,
        pad: [0; 3],
    }
}

/// Whether a backend keeps the flows of that generation.
#[inline(always)]
fn keeps(backend: &Backend, generation: u32) -> bool {
    backend.generation == generation
        && backend.state & state::RESET == 0
        && backend.state & (state::ACTIVE | state::KEEPS) != 0
}

/// Looks a packet's flow up, notes what its TCP says, and makes its rewrite in a line of the cache. On the way out
/// only answers are ours.
#[inline(always)]
pub fn resolve<A: Steps, F: Frame>(frame: F, line: u32) -> Act {
    let (Some(config), Some(work)) = (config(), work::<A>()) else { return Act::NEXT };
    let Work { packet, back, reply, half, .. } = work;
    let packet = &*packet;
    *half = NOWHERE;
    let other = Other { key: back, flow: reply, half };
    let Some(Found { line: place, flow }) = find(&packet.key, end::EITHER) else { return Act::BEGIN };
    let reply = flow.bits & direction::REPLY != 0;
    if flow.bits & direction::GUEST != 0 {
        let bits = tcp(packet, true);
        if flow.bits & bits != bits {
            atomic::fetch_or(&raw mut flow.bits, bits);
        }
        return Act::NEXT;
    }
    if packet.leaves && !reply {
        return Act::NEXT;
    }
    let handed = flow.bits & direction::HANDED != 0;
    if handed && frame.device() == config.tunnel {
        // The client's way has changed: another node chose anew. It is not handed on once more.
        forget(packet, flow, other.key, config);
        return Act::BEGIN;
    }
    let whole = packet.kind == Kind::Ports;
    let tcp = packet.key.protocol == TCP;
    let flags = if tcp && whole { packet.flags } else { 0 };
    if flags & (MARKS | ACK) == SYN && !reply && flow.bits & direction::CLOSED != 0 {
        forget(packet, flow, other.key, config);
        return Act::BEGIN;
    }
    if flags & (MARKS | ACK) == SYN | ACK && reply && flow.bits & direction::CLOSED != 0 {
        // The backend answers a connection that came to it another way, from a port that the client uses again.
        forget(packet, flow, other.key, config);
        return Act::NEXT;
    }
    let backend = BACKENDS.get(flow.backend);
    let Some(backend) = backend.filter(|backend| keeps(backend, flow.generation)) else {
        return gone(packet, flow, place, other, config, flags);
    };
    note(packet, flow, place, other, flags, config);
    let Some(rewrite) = rewrite(line) else { return Act::NEXT };
    fill(rewrite, packet, flow);
    if packet.leaves || (!reply && backend.state & state::HERE != 0) {
        rewrite.device = 0;
        return Act::SEND;
    }
    let act = route::find(frame, packet, rewrite);
    if handed && act == Act::SEND {
        if rewrite.device != config.tunnel {
            return Act::drop(Drop::NoRoute);
        }
        direct::straighten(packet, rewrite);
    }
    act
}

/// The rewrite that a flow means, without where to send it.
#[inline(always)]
pub fn fill<A: Ip>(rewrite: &mut Rewrite<A>, packet: &Packet<A>, flow: &Flow<A>) {
    let key = &packet.key;
    rewrite.source = flow.source;
    rewrite.destination = flow.destination;
    rewrite.source_port = flow.source_port;
    rewrite.destination_port = flow.destination_port;
    rewrite.addresses =
        difference(key.source.sum() + key.destination.sum(), flow.source.sum() + flow.destination.sum());
    rewrite.ports = difference(
        u64::from(key.source_port) + u64::from(key.destination_port),
        u64::from(flow.source_port) + u64::from(flow.destination_port),
    );
    rewrite.pseudo = pseudo::sum(key);
    rewrite.bits = flow.bits & (direction::REPLY | direction::HANDED | direction::TAKEN);
    rewrite.backend = flow.backend;
}

/// What a packet with these flags of TCP, or a datagram with none, says of its flow.
#[inline(always)]
fn said(flags: u8, reply: bool) -> u32 {
    let mut bits = if reply { direction::ANSWERED } else { 0 };
    if flags & FIN != 0 {
        bits |= if reply { direction::FIN_BACKEND } else { direction::FIN_CLIENT };
    }
    if flags & RST != 0 {
        bits |= direction::CLOSED;
    }
    bits
}

/// The same of a whole packet.
#[inline(always)]
pub fn tcp<A: Ip>(packet: &Packet<A>, reply: bool) -> u32 {
    let whole = packet.kind == Kind::Ports && packet.key.protocol == TCP;
    said(if whole { packet.flags } else { 0 }, reply)
}

/// Notes in both directions what a packet says of its TCP, and once a second that the flow lives.
#[inline(always)]
fn note<A: Steps>(
    packet: &Packet<A>,
    flow: &mut Flow<A>,
    place: u32,
    other: Other<A>,
    flags: u8,
    config: &Config,
) {
    let reply = flow.bits & direction::REPLY != 0;
    let mut bits = said(flags, reply);
    let both = direction::FIN_CLIENT | direction::FIN_BACKEND;
    if (flow.bits | bits) & both == both {
        bits |= direction::CLOSED;
    }
    if flow.bits & direction::HANDED != 0 {
        // The backend's part is not seen: the client's says what there is to say.
        if bits & direction::FIN_CLIENT != 0 {
            bits |= direction::CLOSED;
        }
        if flags & (SYN | ACK) == ACK {
            bits |= direction::ANSWERED;
        }
    }
    if !reply && flow.bits & direction::ANSWERED != 0 && flags & (SYN | RST) == 0 {
        bits |= direction::OPEN;
    }
    let now = now();
    if flow.bits & bits == bits && now.wrapping_sub(flow.seen) < config.hz {
        return;
    }
    set(packet, flow, place, other, bits, now);
}

/// Sets bits in both directions, and the time. Who closes a flow counts it out.
#[inline(always)]
fn set<A: Steps>(packet: &Packet<A>, flow: &mut Flow<A>, place: u32, other: Other<A>, bits: u32, now: u32) {
    flow.seen = now;
    // The direction from the client says whether it is closed: of two CPUs that see both FINs one counts.
    let reply = flow.bits & direction::REPLY != 0;
    let mut before = atomic::fetch_or(&raw mut flow.bits, bits);
    touch::<A>(place, before | bits, now);
    let Other { key, flow: again, half } = other;
    *key = turned(flow, packet.key.protocol);
    if flow.bits & direction::HANDED != 0 {
        // There is no other direction here: what has that key is another's.
    } else if let Some(Found { line, flow: other }) = find(key, end_of(flow.bits ^ direction::REPLY)) {
        other.seen = now;
        let there = atomic::fetch_or(&raw mut other.bits, bits);
        touch::<A>(line, there | bits, now);
        if reply {
            before = there;
        }
    } else {
        *again = Flow {
            source: packet.key.destination,
            destination: packet.key.source,
            source_port: packet.key.destination_port,
            destination_port: packet.key.source_port,
            bits: (flow.bits | bits) ^ direction::REPLY,
            ..*flow
        };
        *half = place;
    }
    if bits & !before & direction::CLOSED != 0 && flow.bits & direction::TAKEN == 0 {
        ended(flow.backend, flow.generation);
    }
}

/// Adds the direction that [`resolve`] found missing: it was evicted.
#[inline(always)]
pub fn complete<A: Steps>() {
    if let Some(work) = work::<A>() {
        let _ = A::add(&work.back, &work.reply, work.half);
    }
}

/// Calls it where [`resolve`] has said so.
#[inline(always)]
pub fn completed<A: Steps>() {
    if work::<A>().is_some_and(|work| work.half != NOWHERE) {
        A::complete();
    }
}

/// A packet of a flow whose backend is gone. TCP is reset whichever side sends, and the flow stays so that the other
/// side is, too; datagrams of clients begin anew.
#[inline(always)]
fn gone<A: Steps>(
    packet: &Packet<A>,
    flow: &mut Flow<A>,
    place: u32,
    other: Other<A>,
    config: &Config,
    flags: u8,
) -> Act {
    if packet.key.protocol == TCP {
        if flow.bits & direction::CLOSED == 0 {
            if flow.bits & direction::TAKEN == 0
                && let Some(counts) = BACKEND_COUNTS.get_ptr_mut(flow.backend)
            {
                // SAFETY: the entry of this CPU, which runs one program of this kind at a time.
                unsafe { (*counts).reset += 1 };
            }
            set(packet, flow, place, other, direction::CLOSED, now());
        }
        let answered = packet.kind == Kind::Ports && flags & RST == 0;
        return if answered { Act::refuse(Drop::Gone) } else { Act::drop(Drop::Gone) };
    }
    if flow.bits & direction::REPLY != 0 {
        return Act::drop(Drop::Gone);
    }
    forget(packet, flow, other.key, config);
    Act::BEGIN
}

/// Forgets a client's flow; other CPUs do not use what they have at hand of it.
#[inline(always)]
fn forget<A: Steps>(packet: &Packet<A>, flow: &Flow<A>, back: &mut FlowKey<A>, config: &Config) {
    let Flow { backend, generation, bits, .. } = *flow;
    if bits & direction::HANDED == 0 {
        *back = turned(flow, packet.key.protocol);
        remove(back, end_of(bits ^ direction::REPLY));
    }
    // Of two CPUs that do so at once one counts.
    if remove(&packet.key, end_of(bits)) && bits & (direction::CLOSED | direction::TAKEN) == 0 {
        ended(backend, generation);
    }
    drop_lines(&packet.key, config);
}

/// Counts a packet's bytes. Those of a flow that was handed on were counted there.
#[inline(always)]
pub fn count<A: Ip>(packet: &Packet<A>, rewrite: &Rewrite<A>) {
    let Some(counts) = BACKEND_COUNTS.get_ptr_mut(rewrite.backend) else { return };
    // SAFETY: the entry of this CPU, which runs one program of this kind at a time.
    let counts = unsafe { &mut *counts };
    match rewrite.bits & (direction::REPLY | direction::TAKEN) {
        0 => counts.bytes_in += u64::from(packet.len),
        direction::TAKEN => {}
        _ => counts.bytes_out += u64::from(packet.len),
    }
}
