//! The admin side: HTTP API, metrics, health endpoints.
