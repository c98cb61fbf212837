//! What goes into a node and what comes out.

use std::net::SocketAddr;

/// One TCP connection between two nodes, as the node knows it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ExchangeId(pub u64);

impl ExchangeId {
    /// Ids from here on are given by the shell, to connections that it accepted.
    pub const ACCEPTED: u64 = 1 << 63;
}

/// Something that happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Input {
    /// A deadline passed.
    Tick,
    /// A datagram arrived, from this address as the network says.
    Datagram(SocketAddr, Vec<u8>),
    /// A connection that the node asked for stands; how long the peer took to answer, in microseconds.
    Opened(ExchangeId, u32),
    /// A peer connected.
    Accepted(ExchangeId),
    /// A frame arrived, opened and complete.
    Frame(ExchangeId, Vec<u8>),
    /// A connection failed, or ended.
    Closed(ExchangeId),
}

/// Whom to connect to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Target {
    /// `host:port`, to be resolved anew.
    Seed(String),
    /// A member.
    Address(SocketAddr),
}

/// Something to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Send a sealed datagram.
    Datagram(SocketAddr, Vec<u8>),
    /// Connect; answered by [`Input::Opened`] or [`Input::Closed`].
    Open(ExchangeId, Target),
    /// Send a frame.
    Frame(ExchangeId, Vec<u8>),
    /// Close, after what was sent.
    Close(ExchangeId),
}

/// First byte of a datagram's body; wire constants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Tag {
    /// A message of the failure detector.
    Membership = 0,
    /// Records.
    Records = 1,
    /// The identity that leaves.
    Goodbye = 2,
    /// A probe in short.
    Ping = 3,
    /// Its answer.
    Ack = 4,
}
