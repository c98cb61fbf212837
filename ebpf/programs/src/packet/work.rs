//! The packet at hand, for functions that the verifier looks at by themselves, once: those have numbers and the context
//! as arguments. Inlined they would multiply each other's paths, and together they need more than the 512 bytes of stack.

use super::{act::Act, frame::Skb, ip::Ip, parse::Packet};
use aya_ebpf::{macros::map, maps::PerCpuArray};
use mesh_ebpf_common::{Flow, FlowKey, Service, V4, V6};

/// What is being worked at on this CPU.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Work<A> {
    /// A key that is looked for beside the packet's: that of the other direction.
    pub back: FlowKey<A>,
    /// The flow that begins.
    pub flow: Flow<A>,
    /// Its other direction.
    pub reply: Flow<A>,
    /// The line of a flow whose other direction is not in the table; it is to be added as `back` and `reply` have it.
    pub half: u32,
    /// The packet.
    pub packet: Packet<A>,
    /// The frontend it dials.
    pub service: Service,
    /// Index into `backends` of what was chosen.
    pub backend: u32,
    /// The [`mesh_ebpf_common::direct::token`] that it came with from another node, else 0: of packets that may begin a
    /// flow.
    pub token: u32,
}

/// IPv4's.
#[map(name = "work4")]
pub static WORK4: PerCpuArray<Work<V4>> = PerCpuArray::with_max_entries(1, 0);
/// IPv6's.
#[map(name = "work6")]
pub static WORK6: PerCpuArray<Work<V6>> = PerCpuArray::with_max_entries(1, 0);

/// The packet at hand.
#[inline(always)]
pub fn work<A: Steps>() -> Option<&'static mut Work<A>> {
    // SAFETY: the entry of this CPU, which runs one program of this kind at a time.
    A::area().get_ptr_mut(0).map(|work| unsafe { &mut *work })
}

/// The functions of a family: `steps` has them.
pub trait Steps: Ip {
    /// Where its packet is.
    fn area() -> &'static PerCpuArray<Work<Self>>;
    /// The line of the table in which a flow is (`table::search`).
    fn locate(key: &FlowKey<Self>, ends: u32) -> u32;
    /// The line that makes room for another flow (`table::yields`).
    fn yields(first: u32, kept: u32) -> u32;
    /// The two ways of a set that make room for both directions of a flow (`table::rooms`).
    fn rooms(first: u32, tag: u32, other: u32) -> u32;
    /// Writes both directions of its flow down in the table, if nothing is in their way (`table::add_both`).
    fn add_both() -> bool;
    /// Writes a flow down in the table (`table::add`).
    fn add(key: &FlowKey<Self>, flow: &Flow<Self>, kept: u32) -> u32;
    /// What becomes of its packet, when its flow is known (`flow::resolve`).
    fn resolve(skb: Skb, line: u32) -> Act;
    /// The line of the cache that is its flow's, when the first one is not (`cache::beside`).
    fn beside(line: u32) -> u32;
    /// Chooses a backend for it (`begin::choice`).
    fn choice() -> Act;
    /// Makes a flow of it (`begin::open`).
    fn open(skb: Skb, line: u32) -> Act;
    /// Writes that flow down, if that is not done (`begin::enroll`).
    fn enroll(line: u32, done: bool) -> Act;
    /// Adds what is missing of a flow (`flow::complete`).
    fn complete();
    /// Holds the place of its answers (`guest::welcome`).
    fn welcome(skb: Skb);
    /// Translates an ICMP error (`icmp::translate`).
    fn concern(skb: Skb, line: u32) -> Act;
    /// Sends it back as an ICMP error (`answer::error`).
    fn error(skb: Skb, error: u32, mtu: u32) -> i32;
    /// Answers it with a reset (`answer::reset`).
    fn reset(skb: Skb) -> i32;
}
