//! The userspace data plane: a TCP and UDP proxy that needs no privileges.
