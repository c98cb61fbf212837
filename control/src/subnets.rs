//! Who holds which overlay subnet, and what is free: pure functions of the claims known.
//!
//! A node holds a subnet when no other node has an overlapping claim with a lesser (stamp, name). So no two nodes of
//! one view ever hold overlapping subnets, also while they are configured with different prefix lengths.

use crate::{
    claim::{ClaimKey, Held},
    few::Few,
    hash::hash64,
    hlc::Hlc,
    model::{Family, NodeName, is_unicast},
    record::Record,
    value,
};
use ipnetwork::IpNetwork;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

/// Candidates by hash before the network is walked.
const PROBES: u64 = 64;
/// Subnets walked before giving up.
const WALK: u128 = 65_536;

/// Where nodes claim their subnets, in one address family.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OverlayNetwork {
    /// The whole overlay; the same on every node of a mesh.
    pub network: IpNetwork,
    /// Prefix length of the subnet that this node claims out of it.
    pub node_prefix: u8,
}

impl OverlayNetwork {
    /// The prefix length that nodes claim unless told otherwise: room for 253 endpoints, or an IPv6 link's usual one.
    #[must_use]
    pub fn default_prefix(family: Family) -> u8 {
        match family {
            Family::V4 => 24,
            Family::V6 => 64,
        }
    }

    /// The longest prefix of a node, which leaves it some addresses.
    #[must_use]
    pub fn longest_prefix(family: Family) -> u8 {
        match family {
            Family::V4 => 28,
            Family::V6 => 112,
        }
    }

    /// Its address family.
    #[must_use]
    pub fn family(&self) -> Family {
        Family::of(&self.network.ip())
    }

    /// Checks the two against each other and against `vip_cidrs`.
    ///
    /// # Errors
    /// The value, the rule and the fix.
    pub fn check(&self, vip_cidrs: &[IpNetwork]) -> Result<(), String> {
        let OverlayNetwork { network, node_prefix } = self;
        let (least, most) = (network.prefix().saturating_add(1), Self::longest_prefix(self.family()));
        if least > most {
            return Err(format!("{network} has no room for nodes: use /{} or wider", most - 1));
        }
        if !(least..=most).contains(node_prefix) {
            return Err(format!("/{node_prefix} for each node out of {network}: use /{least} to /{most}"));
        }
        let base = network.network();
        if !is_unicast(base) || base.is_loopback() {
            return Err(format!("{network} holds no addresses that other nodes reach: use a private range"));
        }
        match vip_cidrs.iter().find(|vips| vips.contains(base) || network.contains(vips.network())) {
            Some(vips) => Err(format!("{network} overlaps {vips}, where VIPs are claimed: keep them apart")),
            None => Ok(()),
        }
    }

    /// Whether a node configured so may keep `subnet`.
    pub(crate) fn suits(&self, subnet: IpNetwork) -> bool {
        self.contains(subnet) && subnet.prefix() == self.node_prefix
    }

    /// Whether `subnet` is a part of the overlay; a claim of all of it is nobody's.
    fn contains(&self, subnet: IpNetwork) -> bool {
        subnet.prefix() > self.network.prefix() && self.network.contains(subnet.network())
    }

    fn places(&self) -> u128 {
        let bits = u32::from(self.node_prefix.saturating_sub(self.network.prefix()));
        1u128.checked_shl(bits).unwrap_or(u128::MAX)
    }

    fn place(&self, index: u128) -> Option<IpNetwork> {
        let width: u8 = if self.network.is_ipv4() { 32 } else { 128 };
        let offset = index.checked_shl(u32::from(width.checked_sub(self.node_prefix)?))?;
        let address: IpAddr = match self.network.network() {
            IpAddr::V4(base) => {
                std::net::Ipv4Addr::from(u32::from(base) | u32::try_from(offset).ok()?).into()
            }
            IpAddr::V6(base) => std::net::Ipv6Addr::from(u128::from(base) | offset).into(),
        };
        IpNetwork::new(address, self.node_prefix).ok()
    }
}

/// Claims by (first address, prefix length).
#[derive(Debug, Default)]
struct Table(BTreeMap<(IpAddr, u8), Few<(Hlc, NodeName)>>);

impl Table {
    fn set(&mut self, subnet: IpNetwork, claimant: (Hlc, NodeName), there: bool) {
        let place = (subnet.network(), subnet.prefix());
        let claimants = self.0.entry(place).or_default();
        if there {
            claimants.insert(claimant);
        } else {
            claimants.remove(&claimant);
        }
        if claimants.is_empty() {
            self.0.remove(&place);
        }
    }

    /// The claims of what overlaps `subnet`: networks nest, so each begins inside it, or holds it.
    fn overlapping(&self, subnet: IpNetwork) -> impl Iterator<Item = &(Hlc, NodeName)> {
        let first = subnet.network();
        let within = self.0.range((first, 0)..=(subnet.broadcast(), u8::MAX)).map(|(_, claimants)| claimants);
        let around = (0..subnet.prefix()).filter_map(move |prefix| {
            let wide = IpNetwork::new(first, prefix).ok()?.network();
            // One that begins at the same address is `within`.
            if wide == first { None } else { self.0.get(&(wide, prefix)) }
        });
        within.chain(around).flat_map(Few::iter)
    }

    fn has_other(&self, node: &NodeName, subnet: IpNetwork) -> bool {
        self.overlapping(subnet).any(|(_, name)| name != node)
    }
}

/// The subnet claims of one node's view.
#[derive(Debug, Default)]
pub(crate) struct Subnets {
    overlay: Vec<OverlayNetwork>,
    live: Table,
    /// Claims deleted less than a tombstone's life ago.
    freed: Table,
}

impl Subnets {
    /// No claims yet; those outside `overlay` count for nothing.
    pub(crate) fn new(overlay: Vec<OverlayNetwork>) -> Subnets {
        Subnets { overlay, ..Subnets::default() }
    }

    /// The overlay of one family, if there is one.
    pub(crate) fn network_of(&self, family: Family) -> Option<&OverlayNetwork> {
        self.overlay.iter().find(|o| o.family() == family)
    }

    /// Follows the record of `key` from `old` to `new`; returns the nodes whose right may have changed.
    pub(crate) fn note(
        &mut self,
        key: &ClaimKey,
        old: Option<&Record>,
        new: Option<&Record>,
    ) -> BTreeSet<NodeName> {
        let mut touched = BTreeSet::new();
        let ClaimKey::Subnet { node, family } = key else { return touched };
        for (record, there) in [(old, false), (new, true)] {
            let Some(record) = record else { continue };
            let Some(claim) = value::claim(key, record) else { continue };
            let Held::Subnet(subnet) = claim.held else { continue };
            if !self.network_of(*family).is_some_and(|overlay| overlay.contains(subnet)) {
                continue;
            }
            let table = if record.deleted { &mut self.freed } else { &mut self.live };
            table.set(subnet, (claim.stamp, node.clone()), there);
            touched.extend(self.live.overlapping(subnet).map(|(_, name)| name.clone()));
        }
        touched.insert(node.clone());
        touched
    }

    /// Whether `node` has the best claim of all that `subnet` overlaps.
    pub(crate) fn wins(&self, node: &NodeName, subnet: IpNetwork) -> bool {
        self.live.overlapping(subnet).min().is_some_and(|(_, winner)| winner == node)
    }

    /// The newest claim by another that overlaps `subnet`: who yields to it is stamped later.
    pub(crate) fn newest_rival(&self, node: &NodeName, subnet: IpNetwork) -> Hlc {
        let rivals = self.live.overlapping(subnet).filter(|(_, name)| name != node);
        rivals.map(|(stamp, _)| *stamp).max().unwrap_or_default()
    }

    /// A free subnet for `node`: `preferred` if nobody else claims it, else the first free one of hash(node, 0),
    /// hash(node, 1), …, else the next free one. Those of nodes that are gone are taken only when nothing else is left.
    pub(crate) fn free(
        &self,
        node: &NodeName,
        overlay: &OverlayNetwork,
        preferred: Option<IpNetwork>,
    ) -> Option<IpNetwork> {
        if let Some(subnet) = preferred.filter(|s| overlay.suits(*s) && !self.live.has_other(node, *s)) {
            return Some(subnet);
        }
        let places = overlay.places();
        let probe =
            |k: u64| u128::from(hash64(&[b"subnet", node.as_str().as_bytes(), &k.to_be_bytes()])) % places;
        let candidates = || {
            (0..PROBES)
                .map(probe)
                .chain((0..places.min(WALK)).map(move |i| (probe(0) + i) % places))
                .filter_map(|index| overlay.place(index))
                .filter(|subnet| !self.live.has_other(node, *subnet))
        };
        candidates().find(|s| !self.freed.has_other(node, *s)).or_else(|| candidates().next())
    }
}

#[cfg(test)]
mod tests;
