//! Packets of other network namespaces and of other hosts.
//!
//! ```text
//! tc ─▶ plain or parse ─▶ cache, then flow ─▶ nat ─▶ out by the device of the route
//!                              │ unknown
//!                              └▶ begin (frontend, backend, route, source) ─▶ nat
//!
//! xdp ─▶ plain ─▶ cache, then flow ─▶ way (neighbour, or another node's end of the overlay) ─▶ out by the same device or another
//!   └──────┴─────────────┴─────────────┴▶ what needs more than that: to tc, untouched
//! ```

mod act;
mod answer;
mod begin;
mod cache;
mod checksum;
mod clock;
mod direct;
mod events;
mod flow;
mod fragment;
mod frame;
mod guest;
mod icmp;
mod ip;
mod nat;
mod parse;
mod plain;
mod pseudo;
mod route;
mod steps;
mod table;
mod tc;
mod way;
mod work;
mod xdp;
