//! Fragments: the first has the ports, later ones are known by the packet's identification.
//!
//! One that overtakes the first is not known. It is dropped where only frontends are, and passes elsewhere: it may be
//! the host's own.

use super::{ip::Ip, parse::Packet};
use mesh_ebpf_common::FragmentKey;

#[inline(always)]
fn key<A: Ip>(packet: &Packet<A>) -> FragmentKey<A> {
    FragmentKey {
        source: packet.key.source,
        destination: packet.key.destination,
        id: packet.id,
        protocol: packet.key.protocol,
        pad: [0; 3],
    }
}

/// Remembers the ports of a first fragment.
#[inline(always)]
pub fn remember<A: Ip>(packet: &Packet<A>) {
    let ports = [packet.key.source_port, packet.key.destination_port];
    let _ = A::fragments().insert(key(packet), ports, 0);
}

/// Gives a later fragment its ports; false when they are not known.
#[inline(always)]
pub fn recall<A: Ip>(packet: &mut Packet<A>) -> bool {
    let Some(ports) = A::fragments().get_ptr(key(packet)) else { return false };
    // SAFETY: an entry of this map stays memory of this map while the program runs.
    let [source, destination] = unsafe { *ports };
    (packet.key.source_port, packet.key.destination_port) = (source, destination);
    true
}
