//! What an overlay consists of beside its links.

use crate::sys::rtnl::{Address, Fdb, Mac, Neighbour, Route, Rule};
use mesh_control::model::Family;
use std::{fmt, net::Ipv4Addr};

/// One object in the kernel. The order is the one in which they can be made.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Thing {
    /// An address of the bridge.
    Address(Address),
    /// A peer's gateway and its link-layer address.
    Neighbour(Neighbour),
    /// A peer's link-layer address and its host.
    Fdb(Fdb),
    /// The way to a peer's subnet, to VIPs, or back to where a flow came in.
    Route(Route),
    /// Which packets go back to where their flow came in.
    Rule(Rule),
}

impl Thing {
    /// The same for two things of which the kernel holds one at a time.
    #[must_use]
    pub fn key(&self) -> Thing {
        match *self {
            Thing::Neighbour(n) => Thing::Neighbour(Neighbour { mac: Mac([0; 6]), ..n }),
            Thing::Fdb(f) => Thing::Fdb(Fdb { remote: Ipv4Addr::UNSPECIFIED.into(), ..f }),
            Thing::Route(r) => Thing::Route(Route { via: None, link: 0, source: None, ..r }),
            whole => whole,
        }
    }

    /// The index of the link that it is on; absent for a rule.
    #[must_use]
    pub fn link(&self) -> Option<u32> {
        match self {
            Thing::Address(a) => Some(a.link),
            Thing::Neighbour(n) => Some(n.link),
            Thing::Fdb(f) => Some(f.link),
            Thing::Route(r) => Some(r.link),
            Thing::Rule(_) => None,
        }
    }

    /// The family of the overlay that it serves; absent when it serves all.
    #[must_use]
    pub fn family(&self) -> Option<Family> {
        match self {
            Thing::Address(a) => Some(Family::of(&a.network.ip())),
            Thing::Neighbour(n) => Some(Family::of(&n.address)),
            Thing::Fdb(_) => None,
            Thing::Route(r) => Some(Family::of(&r.destination.ip())),
            Thing::Rule(r) => Some(r.family),
        }
    }
}

impl fmt::Display for Thing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Thing::Address(a) => write!(f, "address {}", a.network),
            Thing::Neighbour(n) => write!(f, "neighbour {} at {}", n.address, n.mac),
            Thing::Fdb(d) => write!(f, "forwarding entry {} to {}", d.mac, d.remote),
            Thing::Route(r) => {
                write!(f, "{}route {}", if r.link == 0 { "unreachable " } else { "" }, r.destination)?;
                if let Some(via) = r.via {
                    write!(f, " via {via}")?;
                }
                if r.table != Route::MAIN {
                    write!(f, " in table {}", r.table)?;
                }
                Ok(())
            }
            Thing::Rule(r) => {
                write!(f, "rule {} fwmark {:#x}/{:#x} lookup {}", r.priority, r.mark, r.mask, r.table)
            }
        }
    }
}
