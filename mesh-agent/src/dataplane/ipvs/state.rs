//! What the kernel holds of ours, as last read or written.

use super::{
    numbers::Numbers,
    realize::{Placed, Program, Realized},
    rules::layouts,
};
use crate::{
    dataplane::netfilter::{layout::Layout, sets::Common},
    plan::Table,
    sys::ipvs::Virtual,
};
use mesh_control::model::Family;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

/// How many frontends need an element.
pub(super) type Shared = BTreeMap<(&'static str, Vec<u8>), u32>;

/// The tables of one family.
#[derive(Debug)]
pub(super) struct Side {
    pub(super) layout: Layout,
    /// Whether table, sets and chains are there.
    pub(super) base: bool,
    pub(super) shared: Shared,
    /// Elements in the way: of nobody, or of a frontend that is damaged.
    pub(super) debris: Vec<Placed>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) table: Table,
    /// IPv4 and IPv6.
    pub(super) sides: [Side; 2],
    /// The link that has the VIPs, once it is there and the host is prepared.
    pub(super) link: Option<u32>,
    /// The VIPs that it has.
    pub(super) vips: BTreeSet<IpAddr>,
    /// What IPVS holds of ours.
    pub(super) programs: BTreeMap<Virtual, Program>,
    /// Those of them that no frontend stands behind.
    pub(super) strays: BTreeSet<Virtual>,
    pub(super) numbers: Numbers,
}

/// Which of the two sides a family is.
pub(super) fn side(family: Family) -> usize {
    usize::from(family == Family::V6)
}

impl State {
    pub(super) fn empty() -> State {
        let new = |layout| Side { layout, base: false, shared: Shared::new(), debris: Vec::new() };
        State {
            table: Table::new(),
            sides: layouts().map(new),
            link: None,
            vips: BTreeSet::new(),
            programs: BTreeMap::new(),
            strays: BTreeSet::new(),
            numbers: Numbers::default(),
        }
    }

    /// The VIPs that frontends have.
    pub(super) fn wanted_vips(&self) -> BTreeSet<IpAddr> {
        let vips = self
            .sides
            .iter()
            .flat_map(|side| side.shared.keys())
            .filter(|(set, _)| *set == Common::Vips.name());
        vips.filter_map(|(_, bytes)| ip(bytes)).collect()
    }
}

/// An address as sets carry it.
pub(super) fn ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        _ => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
    }
}

/// Counts what a frontend needs; the reverse when it is gone.
pub(super) fn hold(shared: &mut Shared, realized: &Realized) {
    for (set, element) in &realized.shared {
        *shared.entry((*set, element.key.clone())).or_default() += 1;
    }
}

/// The reverse of [`hold`].
pub(super) fn release(shared: &mut Shared, realized: &Realized) {
    for (set, element) in &realized.shared {
        let key = (*set, element.key.clone());
        match shared.get_mut(&key) {
            Some(count @ 2..) => *count -= 1,
            _ => drop(shared.remove(&key)),
        }
    }
}
