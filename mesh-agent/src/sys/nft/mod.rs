//! nf_tables (kernel uapi `linux/netfilter/nf_tables.h`): transactions and dumps, through libnftnl.
//!
//! A [`Transaction`] is one batch that the kernel takes whole or not at all. What the crate `nftnl` has (batch, table,
//! chain, rule) is used as it is; maps, elements with data, further expressions and reading back go to `nftnl-sys`
//! in this folder only.

mod element;
mod expr;
mod object;
mod read;
mod set;
mod socket;
mod table;
mod transaction;

pub use element::{Count, Data, Element};
pub use expr::{Expr, REG, reg};
pub use object::FlowTimeout;
pub use set::{Holds, Kind, Set, concat};
pub use socket::Nft;
pub use table::Table;
pub use transaction::{Hook, HookKind, Transaction};

use std::ffi::CString;

/// A name for the kernel. None of ours has a NUL; one that had would be empty, which the kernel refuses.
fn c(name: &str) -> CString {
    CString::new(name).unwrap_or_default()
}

/// Address families of tables.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Family {
    /// `ip`
    Ip,
    /// `ip6`
    Ip6,
    /// `inet`
    Inet,
    /// `netdev`
    Netdev,
}

impl Family {
    fn proto(self) -> nftnl::ProtoFamily {
        match self {
            Family::Ip => nftnl::ProtoFamily::Ipv4,
            Family::Ip6 => nftnl::ProtoFamily::Ipv6,
            Family::Inet => nftnl::ProtoFamily::Inet,
            Family::Netdev => nftnl::ProtoFamily::NetDev,
        }
    }

    /// `NFPROTO_*`, as messages carry it.
    fn raw(self) -> u16 {
        self.proto() as u16
    }
}
