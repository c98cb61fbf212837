//! The only code that talks to the kernel beside the data planes.

pub mod clock;
pub mod conntrack;
pub mod file;
pub mod link;
pub mod netns;
mod nfnetlink;
pub mod process;
pub mod rlimit;
pub mod ruleset;
pub mod vxlan;
