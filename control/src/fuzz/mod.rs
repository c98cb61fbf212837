//! Every decoder of the control plane against damaged input: one mutator, a corpus that two talking nodes leave, and a
//! test for each target that asks more than "no panic".
//!
//! A failure prints target, seed, round and the input. `FUZZ_SEED=… FUZZ_ROUNDS=… cargo test -p mesh-control fuzz` runs
//! others or more of them.

mod mutate;
mod talk;
mod targets;
