//! New flows: which backend, from which address, and both directions into the table.

use super::{
    act::Act,
    cache::rewrite,
    clock::now,
    direct,
    flow::{fill, turned},
    frame::{Frame, Skb},
    ip::Ip,
    parse::{ACK, Packet, RST, SYN, TCP},
    route,
    table::{Found, NOWHERE, THERE, end, find, remove, touch},
    work::{Steps, Work, work},
};
use crate::{
    choose::{choose, ended},
    maps::{BACKENDS, PACE, config},
    service::find_of,
};
use aya_ebpf::helpers::bpf_get_prandom_u32;
use mesh_ebpf_common::{
    Backend, Config, Drop, Flow, FlowKey, Rewrite, Service, direct::node, direction, flag, hash::scale, state,
};

/// How many source ports are tried before the table counts as full.
const TRIES: u32 = 16;
/// The source ports of flows whose own is taken, as `net.ipv4.ip_local_port_range` has them.
const FIRST_PORT: u32 = 32_768;
const PORTS: u32 = 61_000 - FIRST_PORT;

/// Finds the frontend that a packet dials and chooses a backend; [`Act::BEGIN`] when there is one.
#[inline(always)]
pub fn choice<A: Steps>() -> Act {
    let (Some(config), Some(work)) = (config(), work::<A>()) else { return Act::NEXT };
    let packet = &work.packet;
    let key = &packet.key;
    let (port, protocol, handed) = (key.destination_port, key.protocol, work.token != 0);
    // What was handed on has an address of the other node.
    let service = find_of(key.destination, port, protocol, handed);
    if handed {
        return match direct::chosen(packet, work.token, service) {
            Ok(_) if !admitted(config) => Act::drop(Drop::Flood),
            Ok(index) => {
                work.service = service.copied().unwrap_or_default();
                work.backend = index;
                Act::BEGIN
            }
            Err(reason) => Act::drop(reason),
        };
    }
    let Some(service) = service else {
        let reset = key.protocol == TCP && packet.flags & RST != 0;
        if packet.leaves {
            return Act::NEXT;
        }
        return match key.destination.is_vip(config) {
            true if reset => Act::drop(Drop::NoBackend),
            true => Act::refuse(Drop::NoBackend),
            false => Act::NEXT,
        };
    };
    if packet.leaves {
        // Sockets of this host are led to backends where there are any; silence is kept here.
        let silent = service.flags & flag::SILENT != 0 && service.slots == 0;
        return if silent { Act::drop(Drop::NoBackend) } else { Act::NEXT };
    }
    if key.protocol == TCP
        && packet.flags & (SYN | ACK | RST) != SYN
        && let Some(act) = stray(service, packet.flags)
    {
        return act;
    }
    if !admitted(config) {
        return Act::drop(Drop::Flood);
    }
    match choose(service, key.source) {
        Ok((index, _)) => {
            work.service = *service;
            work.backend = index;
            Act::BEGIN
        }
        Err(Drop::NoBackend) if service.flags & flag::SILENT != 0 => Act::drop(Drop::NoBackend),
        Err(reason) => Act::refuse(reason),
    }
}

/// TCP in the middle of a flow that is not known. Where clients are spread by their address it goes on: another node
/// may have begun it. On this host's own addresses its own stack answers, as it may have the connection.
#[inline(always)]
fn stray(service: &Service, flags: u8) -> Option<Act> {
    if flags & RST != 0 {
        let published = service.flags & flag::PUBLISHED != 0;
        return Some(if published { Act::NEXT } else { Act::drop(Drop::Gone) });
    }
    match service.flags & flag::PICK {
        flag::PICK_HASH => None,
        _ if service.flags & flag::PUBLISHED != 0 => Some(Act::NEXT),
        _ => Some(Act::refuse(Drop::Gone)),
    }
}

/// Whether this CPU may begin another flow in this jiffy.
#[inline(always)]
fn admitted(config: &Config) -> bool {
    let Some(pace) = PACE.get_ptr_mut(0) else { return true };
    // SAFETY: the entry of this CPU, which runs one program of this kind at a time.
    let pace = unsafe { &mut *pace };
    let now = now();
    if pace.jiffy != now {
        (pace.jiffy, pace.flows, pace.events) = (now, 0, 0);
    }
    pace.flows += 1;
    config.new_flows == 0 || pace.flows <= config.new_flows
}

/// Makes a flow to the chosen backend of a packet, with its answers and their key, in [`Work`].
#[inline(always)]
pub fn open<A: Steps>(skb: Skb, line: u32) -> Act {
    let (Some(config), Some(work), Some(rewrite)) = (config(), work::<A>(), rewrite::<A>(line)) else {
        return Act::NEXT;
    };
    let Some(backend) = BACKENDS.get(work.backend) else { return Act::drop(Drop::NoBackend) };
    let act = make(skb, work, rewrite, config, backend);
    let Work { packet, token, back, flow, reply, backend: index, .. } = work;
    if act == Act::SEND {
        *reply = reply_of(packet, flow);
        *back = turned(flow, packet.key.protocol);
    } else if *token == 0 {
        ended(*index, backend.generation);
    }
    act
}

/// Writes down what [`open`] made, if that is not done; [`Act::BEGIN`] says that another CPU did at the same time.
#[inline(always)]
pub fn enroll<A: Steps>(line: u32, done: bool) -> Act {
    let (Some(work), Some(rewrite)) = (work::<A>(), rewrite::<A>(line)) else { return Act::NEXT };
    let Work { packet, token, back, flow, reply, .. } = work;
    let act = if done { Act::SEND } else { write_down(packet, back, flow, reply) };
    if act == Act::SEND {
        fill(rewrite, packet, flow);
        if flow.bits & direction::HANDED != 0 {
            direct::straighten(packet, rewrite);
        }
    } else if *token == 0 {
        ended(flow.backend, flow.generation);
    }
    act
}

/// Finds the way to the backend and the source address.
#[inline(always)]
fn make<A: Ip>(
    skb: Skb,
    work: &mut Work<A>,
    rewrite: &mut Rewrite<A>,
    config: &Config,
    backend: &Backend,
) -> Act {
    let Work { packet, service, backend: index, token, flow, .. } = work;
    let key = &packet.key;
    *flow = Flow {
        source: key.source,
        destination: A::narrow(&backend.address),
        source_port: key.source_port,
        destination_port: backend.port.wrapping_add(service.offset).to_be(),
        bits: if *token == 0 { 0 } else { direction::TAKEN },
        backend: *index,
        generation: backend.generation,
        frontend: service.frontend,
        seen: now(),
    };
    fill(rewrite, packet, flow);
    rewrite.device = 0;
    if backend.state & state::HERE == 0 {
        let act = route::find(skb, packet, rewrite);
        if act != Act::SEND {
            return act;
        }
        if direct::hands_on(skb, packet, rewrite, config, service, backend) {
            flow.bits = direction::HANDED;
        } else if *token == 0 && masquerades(skb, key.source, flow, rewrite.device, config, backend) {
            let overlay = backend.state & state::REMOTE != 0 || rewrite.device == config.overlay;
            flow.source = if overlay { A::overlay(config) } else { A::node(config) };
            if flow.source.is(A::ZERO) {
                return Act::drop(Drop::NoRoute);
            }
        }
    }
    Act::SEND
}

/// Writes both directions down, each by itself.
#[inline(always)]
fn write_down<A: Steps>(
    packet: &Packet<A>,
    back: &mut FlowKey<A>,
    flow: &mut Flow<A>,
    reply: &mut Flow<A>,
) -> Act {
    if A::locate(&packet.key, end::SOURCE) != NOWHERE {
        // Another CPU has begun it meanwhile, and its choice counts.
        return Act::BEGIN;
    }
    let handed = flow.bits & direction::HANDED != 0;
    let (answers, new) = if handed { (NOWHERE, false) } else { claim(packet, back, flow, reply) };
    if !handed && answers == NOWHERE {
        return Act::drop(Drop::Full);
    }
    match A::add(&packet.key, flow, answers) {
        line @ (NOWHERE | THERE) => {
            // The same a moment later: it may have found these answers and go by them.
            if new && !(line == THERE && goes_by(&packet.key, back)) {
                remove(back, end::DESTINATION);
            }
            if line == THERE { Act::BEGIN } else { Act::drop(Drop::Full) }
        }
        _ => Act::SEND,
    }
}

/// Whether the flow of a client's key is there and has these answers.
#[inline(always)]
fn goes_by<A: Steps>(key: &FlowKey<A>, back: &FlowKey<A>) -> bool {
    find(key, end::SOURCE).is_some_and(|Found { flow, .. }| {
        flow.destination.is(back.source)
            && flow.destination_port == back.source_port
            && flow.source.is(back.destination)
            && flow.source_port == back.destination_port
    })
}

/// Whether answers come back only to an address of this node.
#[inline(always)]
fn masquerades<A: Ip>(
    skb: Skb,
    client: A,
    flow: &Flow<A>,
    device: u32,
    config: &Config,
    backend: &Backend,
) -> bool {
    let remote = backend.state & state::REMOTE != 0;
    client.is(flow.destination)
        || backend.state & state::MASQUERADE != 0
        || (device == skb.device() && device != config.overlay)
        || (remote && client.node_bits() & node::UNDERLAY != 0)
}

/// What becomes of a flow's answers.
#[inline(always)]
fn reply_of<A: Ip>(packet: &Packet<A>, flow: &Flow<A>) -> Flow<A> {
    let key = &packet.key;
    Flow {
        source: key.destination,
        destination: key.source,
        source_port: key.destination_port,
        destination_port: key.source_port,
        bits: flow.bits | direction::REPLY,
        ..*flow
    }
}

/// Writes the answers' direction down, under the client's own port or another that is free; its line, or [`NOWHERE`], and
/// whether it was not there before.
#[inline(always)]
fn claim<A: Steps>(
    packet: &Packet<A>,
    back: &mut FlowKey<A>,
    flow: &mut Flow<A>,
    reply: &mut Flow<A>,
) -> (u32, bool) {
    for _ in 0..TRIES {
        match find(back, end::EITHER) {
            None => match A::add(back, reply, NOWHERE) {
                // Another CPU was here first: maybe with the same.
                THERE => continue,
                line => return (line, line != NOWHERE),
            },
            Some(Found { line, flow: taken }) => {
                let ours = taken.source.is(reply.source)
                    && taken.destination.is(reply.destination)
                    && taken.source_port == reply.source_port
                    && taken.destination_port == reply.destination_port;
                if ours {
                    // What is left of an earlier flow of the same ends.
                    *taken = *reply;
                    touch::<A>(line, reply.bits, reply.seen);
                    return (line, false);
                }
            }
        }
        // SAFETY: asks for nothing.
        let port = FIRST_PORT + scale(unsafe { bpf_get_prandom_u32() }, PORTS);
        flow.source_port = (port as u16).to_be();
        *back = turned(flow, packet.key.protocol);
    }
    (NOWHERE, false)
}
