//! Keeps a data plane at what the snapshot asks.
