//! What is told of packets that are not forwarded.

use super::{clock::now, ip::Ip, parse::Packet};
use crate::maps::{DROPS, EVENTS, PACE};
use mesh_ebpf_common::Event;

/// Events of a CPU in a jiffy; more are counted only.
const EVENTS_PER_JIFFY: u32 = 4;

/// Counts a packet by its reason, and tells it to the log unless too many were told. A function of its own: within
/// others an event takes up their stack.
#[inline(never)]
pub fn dropped<A: Ip>(packet: &Packet<A>, reason: u32) {
    if let Some(count) = DROPS.get_ptr_mut(reason) {
        // SAFETY: the entry of this CPU, which runs one program of this kind at a time.
        unsafe { *count += 1 };
    }
    let Some(pace) = PACE.get_ptr_mut(0) else { return };
    // SAFETY: as above.
    let pace = unsafe { &mut *pace };
    let now = now();
    if pace.jiffy != now {
        (pace.jiffy, pace.flows, pace.events) = (now, 0, 0);
    }
    pace.events += 1;
    if pace.events > EVENTS_PER_JIFFY {
        return;
    }
    let Some(mut event) = EVENTS.reserve::<Event>(0) else { return };
    event.write(Event {
        source: packet.key.source.wide(),
        destination: packet.key.destination.wide(),
        source_port: packet.key.source_port,
        destination_port: packet.key.destination_port,
        family: if A::HEADER_SUM { 4 } else { 6 },
        protocol: packet.key.protocol,
        reason: reason as u16,
    });
    event.submit(0);
}
