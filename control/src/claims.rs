//! Who holds which virtual address and which published port, and what is free: pure functions of the claims known.
//!
//! Of several claims of one thing the one with the least (stamp, service) wins. Every node programs only winners, so
//! no node ever holds a duplicate, whatever it has heard so far.

use crate::{
    claim::{Claim, ClaimKey, Fixed, Held},
    hash::hash64,
    hlc::Hlc,
    key::Key,
    model::{Family, PortRange, Protocol, ServiceKey},
    record::Record,
    value,
};
use ipnetwork::IpNetwork;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// Candidates by hash before the range is walked.
const PROBES: u64 = 64;
/// Addresses or ports walked before giving up.
const WALK: u128 = 65_536;

/// The claims of one node's view.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    /// Every claimed address, also by services that are gone: not to be taken by another.
    held: HashMap<IpAddr, crate::few::Few<ServiceKey>>,
    /// Claims of services that exist and want them.
    vips: HashMap<IpAddr, crate::few::Few<(Hlc, ServiceKey)>>,
    ports: BTreeMap<(Protocol, u16, PortClaimant), PortsHeld>,
    /// The longest range in `ports` ever: how far back an overlapping one may begin.
    longest: u16,
    /// Sorted; a service has one claim or a few.
    contenders: HashMap<ServiceKey, Box<[(ClaimKey, Claim)]>>,
}

/// Orders claims of ports: stamp, service, the service port it publishes and where the declaration wants it.
type PortClaimant = (Hlc, ServiceKey, u16, Option<Fixed>);

#[derive(Clone, Copy, Debug)]
struct PortsHeld {
    range: PortRange,
    address: Option<IpAddr>,
    host: bool,
}

impl PortsHeld {
    fn clashes(&self, other: &PortsHeld) -> bool {
        self.range.overlaps(other.range)
            && !(self.host && other.host)
            && (self.address.is_none() || other.address.is_none() || self.address == other.address)
    }
}

impl Claims {
    /// Follows a claim record from `old` to `new`.
    pub(crate) fn note(&mut self, old: Option<&Record>, new: Option<&Record>) {
        for (record, add) in [(old, false), (new, true)] {
            let Some(record) = record else { continue };
            let Some(Key::Claim(key)) = Key::of(&record.id) else { continue };
            let ClaimKey::Vip { service, .. } = &key else { continue };
            let Some(claim) = value::claim(&key, record) else { continue };
            let Held::Address(address) = claim.held else { continue };
            let names = self.held.entry(address).or_default();
            if add {
                names.insert(service.clone());
            } else {
                names.remove(service);
                if names.is_empty() {
                    self.held.remove(&address);
                }
            }
        }
    }

    /// Sets the claims that `service` has and wants; returns the other services whose right may have changed.
    pub(crate) fn contend(
        &mut self,
        service: &ServiceKey,
        wanted: BTreeMap<ClaimKey, Claim>,
    ) -> BTreeSet<ServiceKey> {
        let before = self.contenders.remove(service).unwrap_or_default();
        let wanted: Box<[(ClaimKey, Claim)]> = wanted.into_iter().collect();
        let mut touched = BTreeSet::new();
        if before != wanted {
            for (key, claim) in &before {
                self.enter(key, claim, false, &mut touched);
            }
            for (key, claim) in &wanted {
                self.enter(key, claim, true, &mut touched);
            }
        }
        touched.remove(service);
        if !wanted.is_empty() {
            self.contenders.insert(service.clone(), wanted);
        }
        touched
    }

    fn enter(&mut self, key: &ClaimKey, claim: &Claim, add: bool, touched: &mut BTreeSet<ServiceKey>) {
        match (key, claim.held) {
            (ClaimKey::Vip { service, .. }, Held::Address(address)) => {
                let claimants = self.vips.entry(address).or_default();
                let claimant = (claim.stamp, service.clone());
                if add {
                    claimants.insert(claimant);
                } else {
                    claimants.remove(&claimant);
                }
                touched.extend(claimants.iter().map(|(_, service)| service.clone()));
                if claimants.is_empty() {
                    self.vips.remove(&address);
                }
            }
            (ClaimKey::Port { service, protocol, port, fixed }, Held::Ports { range, address, host }) => {
                let held = PortsHeld { range, address, host };
                let place = (*protocol, range.first(), (claim.stamp, service.clone(), *port, *fixed));
                if add {
                    self.longest = self.longest.max(range.last() - range.first());
                    self.ports.insert(place, held);
                } else {
                    self.ports.remove(&place);
                }
                touched.extend(self.clashing(*protocol, held).map(|(_, service, ..)| service.clone()));
            }
            _ => {}
        }
    }

    fn clashing(&self, protocol: Protocol, held: PortsHeld) -> impl Iterator<Item = &PortClaimant> {
        let from = held.range.first().saturating_sub(self.longest);
        self.ports
            .iter_from(protocol, from)
            .take_while(move |((p, first, _), _)| *p == protocol && *first <= held.range.last())
            .filter(move |(_, other)| other.clashes(&held))
            .map(|((_, _, claimant), _)| claimant)
    }

    /// Whether `service` has the best claim of `address`.
    pub(crate) fn wins_address(&self, service: &ServiceKey, address: IpAddr) -> bool {
        self.vips.get(&address).and_then(|c| c.first()).is_some_and(|(_, winner)| winner == service)
    }

    /// The service with a better claim of what `key` claims; `None` when it wins.
    pub(crate) fn better_port_claim(&self, key: &ClaimKey, claim: &Claim) -> Option<&ServiceKey> {
        let (ClaimKey::Port { service, protocol, port, fixed }, Held::Ports { range, address, host }) =
            (key, claim.held)
        else {
            return None;
        };
        let me = (claim.stamp, service.clone(), *port, *fixed);
        let rivals = self.clashing(*protocol, PortsHeld { range, address, host });
        rivals.filter(|rival| **rival < me).min().map(|(_, service, ..)| service)
    }

    /// The newest claim by another of what overlaps `held`. A claim that is to yield to those before it, whatever the
    /// claimant's clock says, is stamped later.
    pub(crate) fn newest_rival(&self, key: &ClaimKey, held: Held) -> Hlc {
        let newest = match (key, held) {
            (ClaimKey::Vip { service, .. }, Held::Address(address)) => {
                let claimants = self.vips.get(&address).into_iter().flatten();
                claimants.filter(|(_, s)| s != service).map(|(stamp, _)| *stamp).max()
            }
            (ClaimKey::Port { service, protocol, port, fixed }, Held::Ports { range, address, host }) => self
                .clashing(*protocol, PortsHeld { range, address, host })
                .filter(|(_, s, p, f)| (s, p, f) != (service, port, fixed))
                .map(|(stamp, ..)| *stamp)
                .max(),
            _ => None,
        };
        newest.unwrap_or_default()
    }

    /// A free address of `network` for `service`: `preferred` if it is one and nobody else claims it, else the first free one of
    /// hash(service, 0), hash(service, 1), …, else the next free one of the network. Addresses of services that are
    /// gone are taken only when nothing else is left.
    pub(crate) fn free_address(
        &self,
        service: &ServiceKey,
        network: IpNetwork,
        preferred: Option<IpAddr>,
    ) -> Option<IpAddr> {
        let contested = |a: &IpAddr| {
            self.vips.get(a).is_some_and(|claimants| claimants.iter().any(|(_, s)| s != service))
        };
        let held = |a: &IpAddr| self.held.get(a).is_some_and(|names| names.iter().any(|s| s != service));
        if let Some(address) = preferred.filter(|a| network.contains(*a) && !contested(a)) {
            return Some(address);
        }
        let size = addresses(network);
        let first = probe(service, b"vip", 0) % size;
        let candidates = || {
            (0..PROBES)
                .map(|k| probe(service, b"vip", k) % size)
                .chain((0..size.min(WALK)).map(move |i| (first + i) % size))
                .filter_map(move |offset| address_at(network, offset))
        };
        candidates().find(|a| !held(a) && !contested(a)).or_else(|| candidates().find(|a| !contested(a)))
    }

    /// Free ports for `key`, `count` in a row out of `range`: the first free one of hash(key, 0), hash(key, 1), …,
    /// else the next free one.
    pub(crate) fn free_ports(&self, key: &ClaimKey, count: u32, range: PortRange) -> Option<PortRange> {
        let ClaimKey::Port { service, protocol, port, fixed } = key else { return None };
        let places = u128::from(range.count().checked_sub(count)? + 1);
        let label =
            [b"port".as_slice(), &[u8::from(*protocol == Protocol::Udp)], &port.to_be_bytes()].concat();
        let start = probe(service, &label, 0) % places;
        (0..PROBES)
            .map(|k| probe(service, &label, k) % places)
            .chain((0..places).map(|i| (start + i) % places))
            .filter_map(|offset| {
                let first = u32::from(range.first()) + u32::try_from(offset).ok()?;
                let last = u16::try_from(first + count - 1).ok()?;
                PortRange::new(u16::try_from(first).ok()?, last).ok()
            })
            .find(|candidate| {
                let held = PortsHeld { range: *candidate, address: None, host: false };
                self.clashing(*protocol, held).all(|(_, s, p, f)| s == service && p == port && f == fixed)
            })
    }
}

/// `BTreeMap::range` from a port on, without making up a claimant.
trait FromPort {
    fn iter_from(
        &self,
        protocol: Protocol,
        first: u16,
    ) -> impl Iterator<Item = (&(Protocol, u16, PortClaimant), &PortsHeld)>;
}

impl FromPort for BTreeMap<(Protocol, u16, PortClaimant), PortsHeld> {
    fn iter_from(
        &self,
        protocol: Protocol,
        first: u16,
    ) -> impl Iterator<Item = (&(Protocol, u16, PortClaimant), &PortsHeld)> {
        use crate::model::{DEFAULT_NAMESPACE, Name};
        // The least claimant there can be: the stamp decides before the name.
        let least = Name::new(DEFAULT_NAMESPACE).map(|n| ServiceKey { namespace: n.clone(), name: n });
        let start = least.ok().map(|key| (protocol, first, (Hlc::default(), key, 0, None)));
        start.into_iter().flat_map(move |start| self.range(start..))
    }
}

fn probe(service: &ServiceKey, label: &[u8], k: u64) -> u128 {
    let half = |part: &[u8]| {
        u128::from(hash64(&[
            label,
            part,
            service.namespace.as_str().as_bytes(),
            service.name.as_str().as_bytes(),
            &k.to_be_bytes(),
        ]))
    };
    (half(b"high") << 64) | half(b"low")
}

fn addresses(network: IpNetwork) -> u128 {
    let bits = if network.is_ipv4() { 32 } else { 128 } - u32::from(network.prefix());
    1u128.checked_shl(bits).unwrap_or(u128::MAX)
}

/// The address at `offset`; none for those that some stacks treat specially: the network's first and last, any
/// ending in .0 or .255, and the subnet router anycast address (RFC 4291 section 2.6.1).
fn address_at(network: IpNetwork, offset: u128) -> Option<IpAddr> {
    let size = addresses(network);
    match network.network() {
        IpAddr::V4(base) => {
            let address = u32::from(base).checked_add(u32::try_from(offset).ok()?)?;
            let special = size > 2 && (offset == 0 || offset == size - 1 || matches!(address & 255, 0 | 255));
            (!special).then(|| Ipv4Addr::from(address).into())
        }
        IpAddr::V6(base) => {
            let address = u128::from(base).checked_add(offset)?;
            (size <= 2 || offset != 0).then(|| Ipv6Addr::from(address).into())
        }
    }
}

/// The network of one family.
pub(crate) fn network_of(networks: &[IpNetwork], family: Family) -> Option<IpNetwork> {
    networks.iter().copied().find(|n| n.is_ipv4() == (family == Family::V4))
}

#[cfg(test)]
mod tests;
