//! The programs at tcx, or in `clsact`, on every device of this node that has addresses.
//!
//! On the way in packets are translated and leave at once by the device that the routes say, or go up to a program of
//! this host. On the way out answers of such programs get the address back that was dialled.

use super::{
    act::{Act, NEXT, SHOT, act},
    answer::{Error, pong},
    cache::{MARKS, epoch, glance, keep, seat},
    direct::{came_with, pass, stamp},
    events::dropped,
    flow::{completed, count},
    fragment::{recall, remember},
    frame::{ETHERNET, Frame, Skb},
    nat::{goes, leave, passed, rewritten},
    parse::{Kind, Packet, TCP, read},
    plain::Plain,
    work::{Steps, work},
};
use crate::maps::config;
use aya_ebpf::{EbpfContext as _, macros::classifier, programs::TcContext};
use mesh_ebpf_common::{Config, Drop, GUEST_MARK, Rewrite, V4, V6, direct, direction};

/// `ETH_P_IP` and `ETH_P_IPV6`, in the order of the bytes.
const IPV4: u16 = 0x0800_u16.to_be();
const IPV6: u16 = 0x86dd_u16.to_be();
/// `PACKET_HOST`: for this host by its link-layer address.
const HOST: u32 = 0;

/// Packets that come in. Within the program itself: as a function of its own it would be one call more, and Linux 6.1 counts 32
/// bytes of the 512 that a chain of calls has for each.
#[classifier]
#[inline(always)]
pub fn tc_ingress(ctx: TcContext) -> i32 {
    let skb = Skb(ctx.as_ptr().cast());
    if skb.get().pkt_type == HOST { enter(skb, false) } else { NEXT }
}

/// Packets that go out; as above.
#[classifier]
#[inline(always)]
pub fn tc_egress(ctx: TcContext) -> i32 {
    let skb = Skb(ctx.as_ptr().cast());
    // What came in by a device was seen there.
    if skb.get().ingress_ifindex == 0 {
        return enter(skb, true);
    }
    let [handed, mask] = direct::MARK;
    if skb.get().mark & mask == handed { stamp(skb) } else { NEXT }
}

/// Tells the families apart. What has a VLAN's tag is for the VLAN's own device, and a device without Ethernet is none
/// of ours. Answers of guests have their mark already where a bridge lets the host's tables see its packets.
#[inline(always)]
fn enter(skb: Skb, leaves: bool) -> i32 {
    let protocol = skb.get().protocol as u16;
    let [guest, mask] = GUEST_MARK;
    if skb.get().vlan_present != 0 || skb.get().mark & mask == guest {
        return NEXT;
    }
    skb.headers();
    if skb.at::<[u16; 7]>(0).is_none_or(|header| read(header.cast::<u16>().wrapping_add(6)) != protocol) {
        return NEXT;
    }
    let Some(config) = config() else { return NEXT };
    match protocol {
        IPV4 => one::<V4>(skb, config, leaves),
        IPV6 => one::<V6>(skb, config, leaves),
        _ => NEXT,
    }
}

/// Whether a packet that is to be handed on was handed on to this node: it is not handed on from here.
#[inline(always)]
fn returned<A>(skb: Skb, rewrite: &Rewrite<A>, config: &Config) -> bool {
    rewrite.bits & direction::HANDED != 0 && skb.device() == config.tunnel
}

/// What becomes of a plain packet of a flow that the cache knows: it has been in no memory by then. Nothing, where there is
/// more to it; then nothing has been touched.
#[inline(always)]
fn swift<A: Steps>(skb: Skb, packet: &Packet<A>, config: &Config, leaves: bool) -> Option<i32> {
    let (_, cached, known) = glance(packet, config)?;
    let rewrite = &cached.rewrite;
    if !known || packet.flags & MARKS != 0 || returned(skb, rewrite, config) {
        return None;
    }
    if leaves && rewrite.bits & direction::REPLY == 0 {
        return Some(NEXT);
    }
    if !goes(skb, packet, rewrite) {
        return None;
    }
    count(packet, rewrite);
    Some(match passed(skb, packet, rewrite, rewrite.device != 0) {
        Ok(()) => leave(skb, rewrite),
        Err(verdict) => verdict,
    })
}

/// One packet.
#[inline(always)]
fn one<A: Steps + Plain>(skb: Skb, config: &Config, leaves: bool) -> i32 {
    let plain = A::plain(skb);
    if let Some(packet) = &plain
        && let Some(verdict) = swift(skb, packet, config, leaves)
    {
        return verdict;
    }
    let Some(work) = work::<A>() else { return NEXT };
    let packet = &mut work.packet;
    if let Some(plain) = plain {
        *packet = Packet { leaves, ..plain };
    } else {
        *packet = Packet::new(A::ZERO, leaves);
        A::parse::<Skb, false>(skb, ETHERNET, packet);
        match packet.kind {
            Kind::Ports | Kind::Error => {}
            Kind::LaterFragment => {
                if !recall(packet) {
                    return if packet.key.destination.is_vip(config) {
                        turn_away::<A>(skb, Act::drop(Drop::Fragment))
                    } else {
                        pass(skb)
                    };
                }
            }
            Kind::Echo if packet.key.destination.answers() => return pong(skb, packet),
            Kind::Malformed if packet.key.destination.is_vip(config) => {
                return turn_away::<A>(skb, Act::drop(Drop::Malformed));
            }
            _ => return pass(skb),
        }
    }
    let Some((line, cached, known)) = seat(packet, config) else { return NEXT };
    if packet.kind == Kind::Error || !known || returned(skb, &cached.rewrite, config) {
        work.token = came_with(skb);
        let act = if packet.kind == Kind::Error {
            A::concern(skb, line)
        } else {
            decide::<A>(skb, packet, config, line)
        };
        match act.kind() {
            act::SEND if packet.kind == Kind::Error => {}
            act::SEND => keep(cached, packet, epoch(line, config)),
            act::NEXT => return pass(skb),
            _ => return turn_away::<A>(skb, act),
        }
    } else if leaves && cached.rewrite.bits & direction::REPLY == 0 {
        return NEXT;
    }
    if packet.kind != Kind::Error {
        count(packet, &cached.rewrite);
        if packet.first {
            remember(packet);
        }
        if let Err(verdict) = rewritten(skb, packet, &cached.rewrite) {
            return verdict;
        }
    }
    leave(skb, &cached.rewrite)
}

/// What becomes of a packet that the cache does not know.
#[inline(always)]
fn decide<A: Steps>(skb: Skb, packet: &Packet<A>, config: &Config, line: u32) -> Act {
    let act = found::<A>(skb, line);
    if act != Act::BEGIN {
        return act;
    }
    if packet.kind != Kind::Ports || (packet.leaves && !packet.key.destination.is_vip(config)) {
        return Act::NEXT;
    }
    let act = A::choice();
    if act == Act::NEXT && !packet.leaves && skb.device() == config.tunnel {
        A::welcome(skb);
    }
    if act != Act::BEGIN {
        return act;
    }
    match A::open(skb, line) {
        Act::SEND => {
            let done = A::add_both();
            match A::enroll(line, done) {
                Act::BEGIN => found::<A>(skb, line),
                act => act,
            }
        }
        act => act,
    }
}

/// What becomes of it when its flow is known.
#[inline(always)]
fn found<A: Steps>(skb: Skb, line: u32) -> Act {
    let act = A::resolve(skb, line);
    completed::<A>();
    act
}

/// Away with a packet.
#[inline(always)]
fn turn_away<A: Steps>(skb: Skb, act: Act) -> i32 {
    let Some(work) = work::<A>() else { return SHOT };
    dropped(&work.packet, act.reason());
    match act.kind() {
        // Its client is told by the node that handed it on.
        _ if work.token != 0 => SHOT,
        act::REFUSE if work.packet.key.protocol == TCP => A::reset(skb),
        act::REFUSE => A::error(skb, Error::Refused as u32, 0),
        _ => SHOT,
    }
}
