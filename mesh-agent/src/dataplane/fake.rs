//! A reference data plane in memory.
