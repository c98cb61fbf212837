//! The admin side: HTTP API, metrics, health endpoints.
//!
//! `AdminServer::start` opens a unix socket, a TCP address for the API and one for metrics, as configured, and
//! answers every request from the agent's [`Operations`]. The way of a request: `server` (accept, connection cap) → `conn` (hyper
//! with its limits) → `handle` (authentication, body limit, route) → `api` or `probes`. To add an operation: a line
//! in `routes`, an arm in `api`, its shape in [`wire`], and its description in `openapi.json`.

mod api;
mod auth;
mod call;
mod config;
mod conn;
mod error;
mod family;
mod follow;
mod handle;
mod listen;
mod mesh_metrics;
mod metrics;
mod overlay_metrics;
mod patient;
mod probes;
mod process;
mod publish;
mod query;
mod routes;
mod server;
mod state;
mod text;
pub mod wire;

pub use api::OPENAPI;
pub use config::{AdminConfig, AdminError, Limits, TcpConfig, TlsConfig};
pub use publish::{publish, unpublish};
pub use routes::{ROUTES, Route};
pub use server::{AdminHandle, AdminServer};
pub use state::{
    Answer, DnsAnswer, DnsRecord, Drain, HealthResult, OperationError, Operations, PlaneStatus,
    PublishRequest, SourceStatus, UnpublishRequest,
};
pub(crate) use text::encode;
