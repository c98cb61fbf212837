//! TCP: accept, choose, connect, relay.

pub(super) mod accept;
mod connect;
mod flow;
mod leg;
pub(super) mod pipe;
mod relay;
