//! The only code that talks to the kernel beside the data planes.

pub mod rlimit;
