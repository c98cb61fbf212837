//! ICMP errors about packets of our flows: to whom they concern, about the packet as it was sent.
//!
//! ```text
//! client ─ C→V ─▶ this node ─ S→B ─▶ router ✗        the answers' direction, B→S, says: V→C
//!        ◀─ V→C: about C→V ─      ◀─ R→S: about S→B ─
//! ```

use super::{
    act::Act,
    cache::rewrite,
    checksum::{apply, difference, hops},
    direct,
    flow::fill,
    frame::{ETHERNET, Frame as _, Skb},
    ip::Ip,
    nat::summed,
    parse::{Kind, Packet, TCP, UDP, read, write},
    route,
    table::{Found, end, find},
    work::{Steps, Work, work},
};
use crate::maps::{BACKENDS, config};
use mesh_ebpf_common::{Config, Drop, FlowKey, direction, state};

/// Translates an error, where it is about a packet of ours; then its way on is in a line of the cache.
#[inline(always)]
pub fn translate<A: Steps>(skb: Skb, line: u32) -> Act {
    let Some(work) = work::<A>() else { return Act::NEXT };
    let Work { packet, back, .. } = work;
    let mut inner = Packet::new(A::ZERO, packet.leaves);
    A::parse::<Skb, true>(skb, packet.l4 as usize + 8, &mut inner);
    // What Ethernet adds behind the packet is not quoted.
    if inner.kind != Kind::Ports || inner.l4 + 8 > packet.l3 + packet.len {
        return Act::NEXT;
    }
    let about = inner.key;
    *back = FlowKey {
        source: about.destination,
        destination: about.source,
        source_port: about.destination_port,
        destination_port: about.source_port,
        ..about
    };
    let key = &*back;
    let Some(Found { flow, .. }) = find(key, end::EITHER) else { return Act::NEXT };
    let reply = flow.bits & direction::REPLY != 0;
    if packet.leaves && !reply {
        return Act::NEXT;
    }
    let Some(rewrite) = rewrite(line) else { return Act::NEXT };
    fill(rewrite, packet, flow);
    if !packet.key.source.is(key.source) {
        // From a router on the way: it stays who it is.
        rewrite.source = packet.key.source;
    }
    rewrite.addresses = difference(
        packet.key.source.sum() + packet.key.destination.sum(),
        rewrite.source.sum() + rewrite.destination.sum(),
    );
    let here = BACKENDS.get(flow.backend).is_some_and(|backend| backend.state & state::HERE != 0);
    rewrite.device = 0;
    if !packet.leaves && (reply || !here) {
        let act = route::find(skb, packet, rewrite);
        if act != Act::SEND {
            return act;
        }
        if rewrite.device != 0 && packet.ttl <= 1 {
            return Act::drop(Drop::Malformed);
        }
    }
    let handed = flow.bits & direction::HANDED != 0;
    if handed {
        let there = |config: &Config| rewrite.device == config.tunnel && skb.device() != config.tunnel;
        if !config().is_some_and(there) {
            return Act::drop(Drop::NoRoute);
        }
        direct::straighten(packet, rewrite);
    }
    // Not before the way was looked for: a chain of calls has 512 bytes of stack, which Linux 6.1 counts by 32 a call.
    // Should another flow take the place meanwhile, one error quotes a packet of that one.
    let (source, destination) = (flow.destination, flow.source);
    let ports = u32::from(flow.destination_port) | u32::from(flow.source_port) << 16;
    let ttl = packet.ttl - u8::from(rewrite.device != 0);
    if !(handed || quote(skb, packet, &inner, source, destination, ports, rewrite.addresses))
        || !A::write(skb, ETHERNET, rewrite.source, rewrite.destination, rewrite.addresses, ttl)
    {
        return Act::drop(Drop::Malformed);
    }
    // The hop limit, in the kernel's own sum over the packet; all else adds up to nothing.
    let change = if A::HEADER_SUM { 0 } else { hops(packet.ttl, ttl).into() };
    summed(skb, change, rewrite.device != 0);
    Act::SEND
}

/// Rewrites the quoted packet, with its checksum where that is quoted, and the error's own checksum.
#[inline(always)]
fn quote<A: Ip>(
    skb: Skb,
    packet: &Packet<A>,
    inner: &Packet<A>,
    source: A,
    destination: A,
    ports: u32,
    around: u16,
) -> bool {
    let (l3, l4) = (inner.l3 as usize, inner.l4 as usize);
    let about = &inner.key;
    let addresses =
        difference(about.source.sum() + about.destination.sum(), source.sum() + destination.sum());
    let old = u32::from(about.source_port) | u32::from(about.destination_port) << 16;
    let changed = difference(u64::from(old), u64::from(ports));
    // IPv4's own checksum makes up for its addresses.
    let mut change = u32::from(changed);
    if !A::HEADER_SUM {
        change += u32::from(addresses) + u32::from(around);
    }
    let offset = match about.protocol {
        UDP => l4 + 6,
        TCP => l4 + 16,
        _ => return false,
    };
    if offset as u32 + 2 <= packet.l3 + packet.len
        && let Some(at) = skb.at::<u16>(offset)
    {
        let sum = read(at);
        if sum != 0 || about.protocol == TCP {
            let mut new = apply(sum, u32::from(addresses) + u32::from(changed));
            if new == 0 && about.protocol == UDP {
                new = u16::MAX;
            }
            write(at, new);
            change += u32::from(difference(u64::from(sum), u64::from(new)));
        }
    }
    let Some(at) = skb.at::<u32>(l4) else { return false };
    write(at, ports);
    if !A::write(skb, l3, source, destination, addresses, inner.ttl) {
        return false;
    }
    let Some(at) = skb.at::<u16>(packet.l4 as usize + 2) else { return false };
    write(at, apply(read(at), change));
    true
}
