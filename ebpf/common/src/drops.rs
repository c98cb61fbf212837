//! Packets that are not forwarded.

use crate::V6;

/// Why packets were not forwarded: index into the per-CPU `drops`.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Drop {
    /// No backend takes new flows, and the frontend says to be silent.
    NoBackend = 0,
    /// The source is not allowed.
    Denied,
    /// A limit of flows.
    Limited,
    /// More new flows than [`crate::Config::new_flows`].
    Flood,
    /// No room in the flow table, or no free source port.
    Full,
    /// The header says more than the packet has, or what it may not.
    Malformed,
    /// A fragment whose first one was not seen.
    Fragment,
    /// No route to the backend or client.
    NoRoute,
    /// The flow's backend is gone.
    Gone,
}

impl Drop {
    /// How many there are.
    pub const COUNT: u32 = 9;
    /// Their names, as metrics show them.
    pub const NAMES: [&'static str; Drop::COUNT as usize] =
        ["no_backend", "denied", "limited", "flood", "full", "malformed", "fragment", "no_route", "gone"];
}

/// An entry of the ring buffer `events`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event {
    /// Source.
    pub source: V6,
    /// Destination.
    pub destination: V6,
    /// Source port, network order.
    pub source_port: u16,
    /// Destination port, network order.
    pub destination_port: u16,
    /// 4 or 6.
    pub family: u8,
    /// `IPPROTO_*`.
    pub protocol: u8,
    /// A [`Drop`].
    pub reason: u16,
}
