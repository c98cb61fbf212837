//! The pseudo header, which TCP and UDP count in their checksums (RFC 9293 section 3.1, RFC 768).

use super::{
    checksum::{fold32, fold64},
    ip::Ip,
    parse::Packet,
};
use mesh_ebpf_common::FlowKey;

/// What the pseudo header of TCP and UDP adds up to, but for the length.
#[inline(always)]
pub fn sum<A: Ip>(key: &FlowKey<A>) -> u32 {
    let protocol = u64::from(u16::from(key.protocol).to_be());
    u32::from(fold32(fold64(key.source.sum() + key.destination.sum() + protocol)))
}

/// Whether a checksum can be one that is left to the device: then it is the sum of the pseudo header alone, and ports do
/// not count yet. One packet in 65,536 only looks so. `known` is what [`sum`] says of it.
#[inline(always)]
pub fn may_be_partial<A>(packet: &Packet<A>, known: u32, checksum: u16) -> bool {
    // Of no more bytes than 16 bits say, and those in the upper half: this adds up to 32 bits.
    let len = packet.len - (packet.l4 - packet.l3);
    let pseudo = fold32(known + len.to_be());
    checksum == pseudo || checksum == !pseudo && matches!(checksum, 0 | u16::MAX)
}
