//! The cache in front of the table of flows: what each CPU has at hand of flows whose packets it has just seen.

use super::{
    clock::now,
    ip::Ip,
    parse::{FIN, Packet, RST, SYN},
    table::{same, word},
    work::{Steps, work},
};
use crate::maps::{CACHE_EPOCHS, config};
use aya_ebpf::helpers::bpf_get_smp_processor_id;
use mesh_ebpf_common::{CACHE_EPOCH_COUNT, Cached, Config, FlowKey, Rewrite, SHAPE};

/// Flags of TCP that the cache does not answer for.
pub const MARKS: u8 = FIN | SYN | RST;

/// The line of this CPU where a flow is looked for first. Beside it are the other lines of its set.
#[inline(always)]
fn line<A>(key: &FlowKey<A>, config: &Config) -> u32 {
    // Who does not know the seed cannot tell which flows share a set.
    let mut mixed = u64::from(config.seed);
    for number in 0..size_of::<FlowKey<A>>() / 8 {
        mixed = (mixed ^ word(key, number)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed ^= mixed >> 32;
    }
    // SAFETY: asks for nothing.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    cpu * (config.cached + 1) + (mixed as u32 & config.cached)
}

/// What a line of the cache is good for.
#[inline(always)]
pub fn epoch(line: u32, config: &Config) -> u32 {
    CACHE_EPOCHS
        .get(share(line, config))
        .map_or(0, |epoch| *epoch)
        .wrapping_add(config.epoch)
        .wrapping_add(SHAPE)
}

/// Lines of a set, a power of two: with twice as many lines as flows 1 in 27 finds no place.
const SET: u32 = 4;

/// The bit of what [`beside`] says that means: this line is what becomes of the packet.
const KNOWN: u32 = 1 << 31;

/// No line of the cache: for packets that it does not answer for, or has no room for, and after which it need not know
/// their flow.
const ASIDE: u32 = KNOWN - 1;

/// A line of the cache on this CPU.
#[inline(always)]
fn at<A: Ip>(line: u32) -> Option<&'static mut Cached<A>> {
    let line = if line == ASIDE { A::aside().get_ptr_mut(0) } else { A::lines().get_ptr_mut(line) };
    // SAFETY: the entry of this CPU, which runs one program of this kind at a time.
    line.map(|cached| unsafe { &mut *cached })
}

/// Where the flow of a packet that the cache may answer for is, at first sight, and whether that is what becomes of the
/// packet.
#[inline(always)]
pub fn glance<A: Ip>(packet: &Packet<A>, config: &Config) -> Option<(u32, &'static mut Cached<A>, bool)> {
    let line = line(&packet.key, config);
    let cached = at::<A>(line)?;
    let known = holds(cached, packet, epoch(line, config), config);
    Some((line, cached, known))
}

/// Where the flow of the packet at hand is in the cache, or may be put, and whether that is what becomes of the packet.
#[inline(always)]
pub fn seat<A: Steps>(packet: &Packet<A>, config: &Config) -> Option<(u32, &'static mut Cached<A>, bool)> {
    if packet.flags & MARKS != 0 {
        // A flood of beginnings leaves the cache to flows that are open.
        return Some((ASIDE, at::<A>(ASIDE)?, false));
    }
    let first = glance(packet, config)?;
    if first.2 { Some(first) } else { elsewhere(first.0) }
}

/// The same when the flow is not in its first line.
#[inline(always)]
pub fn elsewhere<A: Steps>(line: u32) -> Option<(u32, &'static mut Cached<A>, bool)> {
    let said = A::beside(line);
    let line = said & !KNOWN;
    Some((line, at::<A>(line)?, said & KNOWN != 0))
}

/// What [`elsewhere`] asks, for the packet at hand: it may be in each line of its set, and be put into one whose flow was
/// looked up more than a second ago. Flows that give way to each other would all be looked up, for each packet; so those that
/// are there stay for their second, and of more than have room the busy ones are soon among them.
#[inline(always)]
pub fn beside<A: Steps>(line: u32) -> u32 {
    let (Some(config), Some(work)) = (config(), work::<A>()) else { return ASIDE };
    let (epoch, mut free) = (epoch(line, config), ASIDE);
    for step in (0..SET).rev() {
        let Some(cached) = at::<A>(line ^ step) else { return ASIDE };
        if !fresh(cached, epoch, config) {
            free = line ^ step;
        } else if same(&cached.key, &work.packet.key) {
            return line ^ step | KNOWN;
        }
    }
    free
}

/// Which entry of `cache_epochs` a line has, and the others of its set.
#[inline(always)]
fn share(line: u32, config: &Config) -> u32 {
    (line & config.cached) / SET % CACHE_EPOCH_COUNT
}

/// Whether a line of the cache is what becomes of a packet.
#[inline(always)]
fn holds<A: Ip>(cached: &Cached<A>, packet: &Packet<A>, epoch: u32, config: &Config) -> bool {
    fresh(cached, epoch, config) && same(&cached.key, &packet.key)
}

/// Whether a line is some flow's.
#[inline(always)]
fn fresh<A: Ip>(cached: &Cached<A>, epoch: u32, config: &Config) -> bool {
    cached.epoch == epoch && now().wrapping_sub(cached.since) < config.hz
}

/// Lets a line of the cache, whose rewrite was made for this packet, be used for those after it.
#[inline(always)]
pub fn keep<A: Ip>(cached: &mut Cached<A>, packet: &Packet<A>, epoch: u32) {
    if packet.flags & MARKS != 0 {
        return;
    }
    if cached.rewrite.device == 0 || cached.rewrite.mtu != 0 {
        cached.key = packet.key;
        cached.epoch = epoch;
        cached.since = now();
    }
}

/// The line of the cache in which a packet's rewrite is made. It is nobody's until [`keep`].
#[inline(always)]
pub fn rewrite<A: Ip>(line: u32) -> Option<&'static mut Rewrite<A>> {
    let cached = at::<A>(line)?;
    // No epoch of now. Should the line be a flow's, that one finds room anew.
    cached.epoch = 0;
    Some(&mut cached.rewrite)
}

/// What is in it after that.
#[inline(always)]
pub fn made<A: Ip>(line: u32) -> Option<&'static Rewrite<A>> {
    at::<A>(line).map(|cached| &cached.rewrite)
}

/// Has every CPU look a flow up again, and those that share an epoch with it.
#[inline(always)]
pub fn drop_lines<A: Ip>(key: &FlowKey<A>, config: &Config) {
    if let Some(epoch) = CACHE_EPOCHS.get_ptr_mut(share(line(key, config), config)) {
        // SAFETY: a number of this map. Of two CPUs that raise it at once one may do so in vain: both have raised it.
        unsafe { *epoch = (*epoch).wrapping_add(1) };
    }
}
