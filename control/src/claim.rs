//! A claim: a service's right to a virtual address or to published ports, or a node's to an overlay subnet, taken
//! without asking anybody.
//!
//! Claims are keyed by what they serve, so each has at most one, which outlives edits and deletion.

use crate::{
    hlc::Hlc,
    model::{Family, NodeName, PortRange, Protocol, ServiceKey},
};
use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};
use std::{cmp::Reverse, net::IpAddr};

/// What a claim serves. The order of the variants is their number on the wire: only ever append.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub(crate) enum ClaimKey {
    /// A service's virtual address of one family.
    Vip { service: ServiceKey, family: Family },
    /// The published ports of the service port (range) that begins with `port`. `fixed` is what the declaration
    /// names, so that one service port may be published several times; absent where the mesh chooses.
    Port { service: ServiceKey, protocol: Protocol, port: u16, fixed: Option<Fixed> },
    /// A node's subnet of the overlay, one of each family.
    Subnet { node: NodeName, family: Family },
}

/// Where a declaration wants a port published: the first port and the one local address, if it names one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub(crate) struct Fixed {
    pub(crate) first: u16,
    pub(crate) address: Option<IpAddr>,
}

/// What is claimed; wire numbers as in [`ClaimKey`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub(crate) enum Held {
    /// A virtual address.
    Address(IpAddr),
    /// Ports on nodes, on one local address or (absent) on all. Ports in host mode do not clash with each other:
    /// they are open on different nodes.
    Ports { range: PortRange, address: Option<IpAddr>, host: bool },
    /// A subnet, its host bits 0.
    Subnet(IpNetwork),
}

/// A claim record's value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Claim {
    /// Counts the times this service gave up one choice for another; the greater one is in force. See
    /// [`Claim::NEWEST`] for the greatest.
    pub(crate) generation: u16,
    /// When it was claimed: the oldest claim of an address or a port wins it.
    pub(crate) stamp: Hlc,
    /// What.
    pub(crate) held: Held,
}

impl Claim {
    /// Of claims with this generation simply the newest version is in force, as with records of other kinds. Subnet
    /// claims have it, as one node writes them; and where a counter was driven up to it, nothing is stuck.
    pub(crate) const NEWEST: u16 = u16::MAX;

    /// The value's bytes: generation and stamp big endian, so that a rank is read without decoding, then the rest.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = self.generation.to_be_bytes().to_vec();
        bytes.extend_from_slice(&self.stamp.0.to_be_bytes());
        bytes.extend(postcard::to_stdvec(&self.held).unwrap_or_default());
        bytes
    }

    /// Reads a value; `None` when malformed.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Claim> {
        let (generation, rest) = bytes.split_first_chunk::<2>()?;
        let (stamp, rest) = rest.split_first_chunk::<8>()?;
        Some(Claim {
            generation: u16::from_be_bytes(*generation),
            stamp: Hlc(u64::from_be_bytes(*stamp)),
            held: postcard::from_bytes(rest).ok()?,
        })
    }
}

/// What decides between two versions of one claim before their version does: the greater generation, then deleted
/// over live, then the *older* stamp. So a node that joins with an empty store and claims anew for a service that
/// has an address already loses against the old claim, whatever its clock says.
///
/// All other kinds rank equal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct ClaimRank(u16, bool, Reverse<u64>);

impl ClaimRank {
    /// What every record of another kind has.
    pub(crate) const NO_CLAIM: ClaimRank = ClaimRank(0, false, Reverse(0));

    /// The rank of a claim's record.
    pub(crate) fn of(deleted: bool, value: &[u8]) -> ClaimRank {
        match Claim::decode(value) {
            Some(claim) if claim.generation == Claim::NEWEST => ClaimRank(Claim::NEWEST, false, Reverse(0)),
            Some(claim) => ClaimRank(claim.generation, deleted, Reverse(claim.stamp.0)),
            None => ClaimRank(0, deleted, Reverse(u64::MAX)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_survive_the_wire_and_garbage_is_none() {
        let claim = Claim {
            generation: 3,
            stamp: Hlc::from_millis(5),
            held: Held::Ports { range: "80-90".parse().unwrap(), address: None, host: true },
        };
        let bytes = claim.encode();
        assert_eq!(Claim::decode(&bytes), Some(claim));
        for cut in 0..bytes.len() {
            assert_eq!(Claim::decode(&bytes[..cut]), None);
        }
    }

    #[test]
    fn no_bytes_make_the_decoder_panic_and_what_it_takes_it_keeps() {
        use rand::{RngExt, SeedableRng, rngs::StdRng};
        let mut rng = StdRng::seed_from_u64(41);
        let ports = Held::Ports { range: "80-90".parse().unwrap(), address: None, host: true };
        let subnets = ["10.128.4.0/24", "fd00::/64"].map(|s| Held::Subnet(s.parse().unwrap()));
        let held = [ports, Held::Address([10, 0, 0, 7].into()), subnets[0], subnets[1]];
        for round in 0..20_000 {
            let good = Claim { generation: Claim::NEWEST, stamp: Hlc(7), held: held[round % held.len()] };
            let mut bytes = good.encode();
            for _ in 0..rng.random_range(1..4) {
                let at = rng.random_range(0..bytes.len());
                bytes[at] = rng.random();
            }
            bytes.truncate(rng.random_range(0..=bytes.len() * 2));
            let rank = ClaimRank::of(false, &bytes);
            if let Some(claim) = Claim::decode(&bytes) {
                assert_eq!(Claim::decode(&claim.encode()), Some(claim));
                assert_eq!(ClaimRank::of(false, &claim.encode()), rank);
            }
        }
    }
}
