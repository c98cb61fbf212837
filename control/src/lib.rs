//! The control plane of the mesh, deliberately small: the [`model`] every other part speaks, the record store
//! and its merge, claims of virtual IPs, published ports and overlay subnets, and gossip.
//!
//! Data flows one way: a source hands [`LocalChange`]s to [`ControlHandle::submit`]; the store merges them with
//! what peers gossip; every merged state comes out as an immutable [`model::Snapshot`].
//!
//! ```text
//! submit ─▶ node/submit ─▶ node/records ─▶ store ─▶ view ─▶ Snapshot
//!                            ▲      │        ▲ claims: who holds which address and port
//! datagrams ─▶ packet ───────┤      └─▶ gossip ─▶ datagrams to 3 members, 8 times
//! TCP ─▶ session ─▶ frame ───┘          node/exchange ─▶ anti-entropy and membership push/pull
//!                            membership (foca): who is up
//! ```
//! Everything but `shell/` is a pure function of inputs, the time and a seed: [`node::Node`] is a whole node without
//! sockets, which `tests/simulation.rs` runs by the dozen.
//!
//! # What is trusted
//! Whoever has a cluster key is a member and may write any shared record; members are trusted not to lie about time,
//! and a clock that is off by hours harms nobody but itself. Whoever has none learns only sizes, times and addresses, and
//! can neither forge, replay nor redirect a message. Every decoder bounds what it reads before it allocates.
#![forbid(unsafe_code)]

mod api;
mod claim;
mod claims;
mod few;
mod frame;
#[cfg(test)]
mod fuzz;
mod gossip;
mod hash;
mod hlc;
mod key;
mod keyring;
mod keys;
mod member;
mod membership;
pub mod model;
pub mod node;
mod packet;
mod probe;
mod record;
mod session;
mod shell;
mod sources;
mod state_file;
mod store;
mod subnets;
mod token;
mod told;
mod value;
mod view;

pub use api::{
    CLOCK_OFF, ControlConfig, ControlError, ControlStats, KeyChange, KeyView, Lag, LocalChange, PeerStats,
};
pub use hlc::Now;
pub use keyring::{ClusterKey, KEY_LEN, KeyError, MAX_KEYS, generate_key};
pub use shell::{Control, ControlHandle};
pub use subnets::OverlayNetwork;
pub use token::{JoinToken, MAX_SEEDS, TokenError, is_seed};
