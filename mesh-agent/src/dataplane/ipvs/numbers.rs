//! Numbers that marks carry: of addresses that ports are published on, and of ports of VIPs. Pure.

use super::{direct, rules::MOST_ADDRESSES};
use crate::plan::{Frontend, FrontendKey, Listen, Table, maglev};
use imbl::{OrdMap, OrdSet};
use mesh_control::model::Protocol;
use std::{collections::BTreeSet, net::IpAddr};

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
        for at in ports(key) {
            if let Some(number) = self.arriving(&at).filter(|number| !used(*number)) {
                self.arriving.remove(&at);
                self.taken.remove(&number);
            }
        }
    }
}

/// The ports of a frontend on a VIP.
pub(super) fn ports(key: &FrontendKey) -> impl Iterator<Item = VipPort> + use<> {
    let vip = if let Listen::Vip(vip) = key.listen { Some(vip) } else { None };
    let (protocol, ports) = (key.protocol, key.ports);
    vip.into_iter().flat_map(move |vip| ports.iter().map(move |port| (vip, protocol, port)))
}

/// How many numbers there are, from 1 on.
const NUMBERS: u32 = (1 << 24) - 1;

/// Gives every port of a frontend that suits a number, from one of its own on, unless it has one. `false` when all are
/// taken.
pub(super) fn number(numbers: &mut Numbers, frontend: &Frontend) -> bool {
    if !direct::suits(frontend) {
        return true;
    }
    ports(&frontend.key).all(|at| {
        if numbers.arriving(&at).is_some() {
            return true;
        }
        let own = maglev::client_hash(at.0) >> 32 ^ u64::from(at.2) << 1 ^ u64::from(at.1 == Protocol::Udp);
        let start = u32::try_from(own % u64::from(NUMBERS)).unwrap_or(0);
        let mut all = (0..NUMBERS).map(|n| (start + n) % NUMBERS + 1);
        all.any(|number| numbers.arrive(at, number))
    })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::ipvs::rules::{MARK, address_of, mark};
    use mesh_control::model::PortRange;

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

    #[test]
    fn every_port_has_a_number_of_its_own_until_its_frontend_goes() {
        let mut numbers = Numbers::default();
        let mut seen = BTreeSet::new();
        for port in 1..=2000 {
            assert!(number(&mut numbers, &Frontend::plain(on(port))));
            let at = ports(&on(port)).next().unwrap();
            assert!(seen.insert(numbers.arriving(&at).unwrap()));
        }
        let before = numbers.clone();
        assert!(number(&mut numbers, &Frontend::plain(on(7))) && numbers == before, "it has one");
        let at = ports(&on(7)).next().unwrap();
        let held = numbers.arriving(&at).unwrap();
        numbers.left(&on(7), |number| number == held);
        assert_eq!(numbers.arriving(&at), Some(held), "another frontend has it");
        numbers.left(&on(7), |_| false);
        assert_eq!(numbers.arriving(&at), None);
        assert!(numbers.arrive((at.0, Protocol::Udp, 9), held), "it is free");
        assert!(!numbers.arrive((at.0, Protocol::Udp, 10), held), "no more");
    }

    fn on(port: u16) -> FrontendKey {
        let listen = Listen::Vip([10, 96, 0, 1].into());
        FrontendKey { listen, ports: PortRange::single(port).unwrap(), protocol: Protocol::Tcp }
    }

    fn key(address: IpAddr) -> FrontendKey {
        let ports = PortRange::single(80).unwrap();
        FrontendKey { listen: Listen::Address(address), ports, protocol: Protocol::Tcp }
    }

    fn entry(key: FrontendKey) -> crate::plan::Entry {
        crate::dataplane::ipvs::tests::entry(key)
    }
}
