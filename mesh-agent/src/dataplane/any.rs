//! The data planes there are, as one type.

use super::{
    counters::Counters,
    explain::{Explanation, Flow},
    fake::FakePlane,
    plane::{ApplyReport, Capabilities, DataPlane, PlaneError},
    userspace::UserspacePlane,
};
use crate::plan::{Op, Table};

#[cfg(feature = "ebpf")]
use super::ebpf::EbpfPlane;
#[cfg(feature = "nftables")]
use super::{ipvs::IpvsPlane, nftables::NftablesPlane};

/// Any data plane. An enum rather than a trait object: the set is closed and the calls stay plain `async fn`s.
#[derive(Debug)]
pub enum AnyDataPlane {
    /// The reference in memory.
    Fake(FakePlane),
    /// Programs and maps of our own in the kernel.
    #[cfg(feature = "ebpf")]
    Ebpf(EbpfPlane),
    /// The kernel's virtual server.
    #[cfg(feature = "nftables")]
    Ipvs(Box<IpvsPlane>),
    /// Maps of the kernel's nf_tables.
    #[cfg(feature = "nftables")]
    Nftables(Box<NftablesPlane>),
    /// The proxy that needs no privileges.
    Userspace(UserspacePlane),
}

/// Calls the same method on whichever plane it is.
macro_rules! each {
    ($any:expr, $plane:ident => $call:expr) => {
        match $any {
            AnyDataPlane::Fake($plane) => $call,
            #[cfg(feature = "ebpf")]
            AnyDataPlane::Ebpf($plane) => $call,
            #[cfg(feature = "nftables")]
            AnyDataPlane::Ipvs($plane) => $call,
            #[cfg(feature = "nftables")]
            AnyDataPlane::Nftables($plane) => $call,
            AnyDataPlane::Userspace($plane) => $call,
        }
    };
}

impl DataPlane for AnyDataPlane {
    fn name(&self) -> &'static str {
        each!(self, plane => plane.name())
    }

    fn capabilities(&self) -> Capabilities {
        each!(self, plane => plane.capabilities())
    }

    async fn observe(&mut self) -> Result<Table, PlaneError> {
        each!(self, plane => plane.observe().await)
    }

    async fn apply(&mut self, ops: &[Op]) -> ApplyReport {
        each!(self, plane => plane.apply(ops).await)
    }

    fn counters(&self) -> Counters {
        each!(self, plane => plane.counters())
    }

    fn explain(&self, flow: &Flow) -> Explanation {
        each!(self, plane => plane.explain(flow))
    }

    async fn refuse_new(&mut self) {
        each!(self, plane => plane.refuse_new().await);
    }

    async fn teardown(&mut self) -> Result<(), PlaneError> {
        each!(self, plane => plane.teardown().await)
    }
}

impl From<FakePlane> for AnyDataPlane {
    fn from(plane: FakePlane) -> Self {
        AnyDataPlane::Fake(plane)
    }
}

impl From<UserspacePlane> for AnyDataPlane {
    fn from(plane: UserspacePlane) -> Self {
        AnyDataPlane::Userspace(plane)
    }
}

#[cfg(feature = "nftables")]
impl From<NftablesPlane> for AnyDataPlane {
    fn from(plane: NftablesPlane) -> Self {
        AnyDataPlane::Nftables(Box::new(plane))
    }
}

#[cfg(feature = "ebpf")]
impl From<EbpfPlane> for AnyDataPlane {
    fn from(plane: EbpfPlane) -> Self {
        AnyDataPlane::Ebpf(plane)
    }
}

#[cfg(feature = "nftables")]
impl From<IpvsPlane> for AnyDataPlane {
    fn from(plane: IpvsPlane) -> Self {
        AnyDataPlane::Ipvs(Box::new(plane))
    }
}
