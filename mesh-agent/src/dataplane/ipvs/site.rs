//! What the plane depends on besides the table.

use super::direct::Direct;
use crate::dataplane::netfilter::{base::Outline, elements::Place};

/// What the plane was started with.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) place: Place,
    pub(super) outline: Outline,
    /// Where packets to VIPs go as they are; else all are translated here.
    pub(super) direct: Option<Direct>,
}
