//! The packet at hand, for functions that the verifier looks at by themselves, once: those have numbers and the context
//! as arguments. Inlined they would multiply each other's paths, and together they need more than the 512 bytes of stack.

use super::{act::Act, frame::Skb, ip::Ip, parse::Packet};
use aya_ebpf::{macros::map, maps::PerCpuArray};
use mesh_ebpf_common::{Service, V4, V6};

/// What is being worked at on this CPU.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Work<A> {
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
    /// What becomes of its packet, when its flow is known (`flow::resolve`).
    fn resolve(skb: Skb, line: u32) -> Act;
    /// The other line of the cache that is its flow's (`flow::beside`).
    fn beside(line: u32) -> u32;
    /// Chooses a backend for it (`begin::choice`).
    fn choice() -> Act;
    /// Begins its flow (`begin::open`).
    fn open(skb: Skb, line: u32) -> Act;
    /// Holds the place of its answers (`guest::welcome`).
    fn welcome(skb: Skb);
    /// Translates an ICMP error (`icmp::translate`).
    fn concern(skb: Skb, line: u32) -> Act;
    /// Sends it back as an ICMP error (`answer::error`).
    fn error(skb: Skb, error: u32, mtu: u32) -> i32;
    /// Answers it with a reset (`answer::reset`).
    fn reset(skb: Skb) -> i32;
}
