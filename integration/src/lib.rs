//! Harness and contract suite.
