//! Harness and contract suite.

pub mod contract;
