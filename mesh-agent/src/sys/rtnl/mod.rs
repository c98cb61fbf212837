//! rtnetlink(7), spoken on a blocking socket: the kernel answers inside the call that asks, so nothing ever waits.
//!
//! [`Rtnl`] is opened in the namespace of the calling thread and stays there. Every list is read with strict checking
//! on (Linux 4.20), so that the kernel leaves out what was not asked for.

mod address;
mod classifier;
mod link;
mod neighbour;
mod route;
mod rule;
mod socket;
mod watch;

pub use address::Address;
pub use classifier::{Classifier, Classifiers, Direction};
pub use link::{Kind, Link, LinkChange, NewLink, NewVeth, Vxlan};
pub use neighbour::{Fdb, Mac, Neighbour};
pub use route::{PROTOCOL, Route};
pub use rule::Rule;
pub use socket::{Rtnl, errno};
pub use watch::Watch;
