//! What the kernel holds of ours, as last read or written.

use super::{
    direct::{self, Direct},
    realize::{Placed, Program, Realized},
    rules::{MOST_ADDRESSES, layouts},
};
use crate::{
    dataplane::netfilter::{base::Outline, elements::Place, layout::Layout, sets::Common},
    plan::{FrontendKey, Listen, Table, maglev},
    sys::ipvs::Virtual,
};
use imbl::{OrdMap, OrdSet};
use mesh_control::model::{Family, Protocol};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

/// What the plane was started with.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) place: Place,
    pub(super) outline: Outline,
    /// Where packets to VIPs go as they are; else all are translated here.
    pub(super) direct: Option<Direct>,
}

/// Which port of a VIP.
pub(super) type VipPort = (IpAddr, Protocol, u16);

/// The numbers that marks carry. Copying them costs the same however many there are.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Numbers {
    /// Of single addresses that ports are published on.
    pub(super) addresses: OrdMap<IpAddr, u8>,
    /// Of ports of VIPs whose packets come by the overlay.
    arriving: OrdMap<VipPort, u32>,
    taken: OrdSet<u32>,
}

impl Numbers {
    /// That of the address that a frontend is published on; 0 for all, and for VIPs.
    pub(super) fn address(&self, key: &FrontendKey) -> u8 {
        match key.listen {
            Listen::Address(address) => self.addresses.get(&address).copied().unwrap_or(0),
            Listen::Vip(_) | Listen::AnyLocal(_) => 0,
        }
    }

    /// That of a port of a VIP.
    pub(super) fn arriving(&self, at: &VipPort) -> Option<u32> {
        self.arriving.get(at).copied()
    }

    /// Gives a port that has none a number, unless another has that.
    pub(super) fn arrive(&mut self, at: VipPort, number: u32) -> bool {
        let free = self.taken.insert(number).is_none();
        if free {
            self.arriving.insert(at, number);
        }
        free
    }

    /// Takes those of a frontend that is gone, but for those that are `used`: ranges are cut anew.
    pub(super) fn left(&mut self, key: &FrontendKey, used: impl Fn(u32) -> bool) {
        for at in direct::ports(key) {
            if let Some(number) = self.arriving(&at).filter(|number| !used(*number)) {
                self.arriving.remove(&at);
                self.taken.remove(&number);
            }
        }
    }
}

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

/// The numbers with one for `address`: its own, else a free one from a number of its own on; those that no frontend of
/// `table` uses are free. `None` when all are taken.
pub(super) fn numbered(
    numbers: &OrdMap<IpAddr, u8>,
    table: &Table,
    address: IpAddr,
) -> Option<OrdMap<IpAddr, u8>> {
    if numbers.contains_key(&address) {
        return Some(numbers.clone());
    }
    let used: BTreeSet<IpAddr> = table
        .keys()
        .filter_map(|key| if let Listen::Address(a) = key.listen { Some(a) } else { None })
        .collect();
    let mut kept: OrdMap<IpAddr, u8> =
        numbers.iter().filter(|(a, _)| used.contains(a)).map(|(a, n)| (*a, *n)).collect();
    let start = maglev::client_hash(address) >> 32;
    let most = u64::from(MOST_ADDRESSES);
    let mut all = (0..most).filter_map(|n| u8::try_from((start + n) % most + 1).ok());
    let free = all.find(|number| !kept.values().any(|held| held == number))?;
    kept.insert(address, free);
    Some(kept)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::ipvs::rules::{MARK, address_of, mark};

    #[test]
    fn every_published_address_has_a_number_of_its_own() {
        let mut numbers = OrdMap::new();
        let mut table = Table::new();
        for n in 1..=MOST_ADDRESSES {
            let address = IpAddr::from([192, 0, 2, n]);
            numbers = numbered(&numbers, &table, address).unwrap();
            table.insert(key(address), entry(key(address)));
        }
        let all: BTreeSet<u8> = numbers.values().copied().collect();
        assert!(all.len() == usize::from(MOST_ADDRESSES) && !all.contains(&0));
        let more = IpAddr::from([198, 51, 100, 1]);
        assert_eq!(numbered(&numbers, &table, more), None);
        table.remove(&key([192, 0, 2, 7].into()));
        let again = numbered(&numbers, &table, more).unwrap();
        assert_eq!(again[&more], numbers[&IpAddr::from([192, 0, 2, 7])], "what nobody uses is free");
    }

    #[test]
    fn marks_tell_addresses_protocols_and_ports_apart() {
        let mut seen = BTreeSet::new();
        for address in [0, 1, 64, 127] {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                for port in [1, 80, 65_535] {
                    let mark = mark(address, protocol, port);
                    assert!(seen.insert(mark) && mark & 0xff00_0000 == MARK && mark != MARK);
                    assert_eq!(address_of(mark), address);
                }
            }
        }
    }

    fn key(address: IpAddr) -> FrontendKey {
        let ports = mesh_control::model::PortRange::single(80).unwrap();
        FrontendKey { listen: Listen::Address(address), ports, protocol: Protocol::Tcp }
    }

    fn entry(key: FrontendKey) -> crate::plan::Entry {
        crate::dataplane::ipvs::tests::entry(key)
    }
}
