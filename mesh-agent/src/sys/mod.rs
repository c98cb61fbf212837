//! The only code that talks to the kernel beside the data planes.

pub mod clock;
pub mod conntrack;
pub mod datagram;
pub mod ethtool;
pub mod file;
mod genl;
pub mod ipvs;
pub mod link;
#[cfg(feature = "ebpf")]
pub mod netdev;
pub mod netns;
mod nfnetlink;
#[cfg(feature = "nftables")]
pub mod nft;
pub mod process;
pub mod rlimit;
pub mod rtnl;
pub mod ruleset;
#[cfg(feature = "ebpf")]
pub mod sockdiag;
pub mod sysctl;
pub mod vxlan;
pub mod wireguard;
