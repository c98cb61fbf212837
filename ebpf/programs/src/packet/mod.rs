//! Packets of other network namespaces and of other hosts.
//!
//! ```text
//! tc ─▶ parse ─▶ flow (cache, then flows) ─▶ nat ─▶ out by the device of the route
//!                  │ unknown
//!                  └▶ begin (frontend, backend, route, source) ─▶ nat
//! ```

mod act;
mod answer;
mod begin;
mod checksum;
mod events;
mod flow;
mod fragment;
mod frame;
mod guest;
mod icmp;
mod ip;
mod nat;
mod parse;
mod route;
mod tc;
mod work;
