//! The forwarder: names that are not ours go to an upstream as they came, and its reply comes back as it is.
//!
//! Pass-through: only the id is replaced, by a random one, and the case of the name, on a socket of its own with a
//! random port that is connected to the upstream (RFC 5452 sections 4.5 and 9). EDNS, DO, unknown types and every
//! response code pass unchanged: an upstream's REFUSED stays REFUSED.
//!
//! A query goes, in this order: by its name to a group of upstreams ([`routes`]), to the [`cache`], to an equal query
//! under way ([`flights`]), into a [`race`] of upstreams, each of which knows how it is doing ([`health`]).

mod cache;
mod case;
mod exchange;
mod explain;
mod flights;
mod forwarder;
mod health;
mod loops;
mod metrics;
mod race;
mod resolv_conf;
mod routes;
mod secure;
mod start;
mod upstream;
mod watch;
mod wire;

pub use forwarder::ForwardError;
pub(crate) use forwarder::{Forwarded, Forwarder, Permit};
