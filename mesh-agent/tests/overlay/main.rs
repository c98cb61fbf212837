//! The overlay on real kernels: nodes, their containers and an underlay, each a network namespace without a name.

mod dataplane;
mod world;
