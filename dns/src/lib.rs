//! The embedded DNS.
