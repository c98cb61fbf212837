//! Names of addresses: `in-addr.arpa` (RFC 1035 section 3.5) and `ip6.arpa` (RFC 3596 section 2.5).

use crate::{index::Owner, scope::Seen};
use hickory_proto::rr::Name;
use ipnetwork::IpNetwork;
use std::net::{IpAddr, Ipv6Addr};

/// What a reverse name spells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reverse {
    /// The network of its octets (IPv4) or nibbles (IPv6); one address when all are there.
    pub(crate) network: IpNetwork,
    /// Whether there are labels left of those that are no further octet or nibble.
    pub(crate) rest: bool,
}

impl Reverse {
    /// Reads `lower`, a name in lower case; `None` when it is no reverse name.
    pub(crate) fn read(lower: &Name) -> Option<Self> {
        let mut labels = lower.iter().rev();
        if labels.next()? != b"arpa" {
            return None;
        }
        let family = labels.next()?;
        let mut labels = labels.peekable();
        let network = match family {
            b"in-addr" => {
                let (mut octets, mut count) = ([0u8; 4], 0u8);
                for octet in &mut octets {
                    let Some(read) = labels.next_if(|l| self::octet(l).is_some()).and_then(self::octet)
                    else {
                        break;
                    };
                    *octet = read;
                    count += 1;
                }
                IpNetwork::new(IpAddr::from(octets), count * 8)
            }
            b"ip6" => {
                let (mut bits, mut count) = (0u128, 0u8);
                while count < 32
                    && let Some(digit) = labels.next_if(|l| nibble(l).is_some()).and_then(nibble)
                {
                    count += 1;
                    bits |= u128::from(digit) << (128 - 4 * u32::from(count));
                }
                IpNetwork::new(IpAddr::V6(Ipv6Addr::from(bits)), count * 4)
            }
            _ => return None,
        };
        Some(Reverse { network: network.ok()?, rest: labels.peek().is_some() })
    }

    /// The address, when the name is that of one.
    pub(crate) fn address(&self) -> Option<IpAddr> {
        let whole = if self.network.is_ipv4() { 32 } else { 128 };
        (self.network.prefix() == whole && !self.rest).then(|| self.network.ip())
    }

    /// Whether all that the name spells lies in `network`.
    pub(crate) fn is_in(&self, network: IpNetwork) -> bool {
        network.prefix() <= self.network.prefix() && network.contains(self.network.ip())
    }

    /// The apex of the reverse zone that this name is in when `network` is ours: cut at the octet (IPv4) or nibble
    /// (IPv6) at or below its prefix, so that nothing in the zone is another's. `10.97.1.2` of `10.96.0.0/12` is in
    /// `97.10.in-addr.arpa.`
    pub(crate) fn apex(&self, network: IpNetwork) -> Name {
        let step = if network.is_ipv4() { 8 } else { 4 };
        let count = usize::from(network.prefix().div_ceil(step));
        let mut labels: Vec<String> = match self.network.ip() {
            IpAddr::V4(a) => a.octets().iter().take(count).map(u8::to_string).collect(),
            IpAddr::V6(a) => nibbles(a).take(count).collect(),
        };
        labels.reverse();
        labels.push(if network.is_ipv4() { "in-addr" } else { "ip6" }.to_owned());
        labels.push("arpa".to_owned());
        Name::from_labels(labels.iter().map(String::as_bytes)).unwrap_or_else(|_| Name::root())
    }
}

/// A reverse name that is ours: one of our addresses, or in a network that is ours whole.
#[derive(Debug)]
pub(crate) struct Pointer<'v> {
    /// What it spells.
    pub(crate) spelled: Reverse,
    /// The network that is ours and that it is in.
    pub(crate) network: Option<IpNetwork>,
    /// The zone it is in. Outside such a network only the one name is ours, and so it is its own apex.
    pub(crate) apex: Name,
    /// Whose address it is, services first.
    pub(crate) owners: Vec<&'v Owner>,
}

impl<'v> Pointer<'v> {
    /// Finds `lower`, a name in lower case, where the networks `local` are ours; `None` when it is not ours. No more
    /// than `most` owners are told.
    pub(crate) fn find(seen: Seen<'v>, lower: &Name, local: &[IpNetwork], most: usize) -> Option<Self> {
        let spelled = Reverse::read(lower)?;
        let network = local.iter().copied().find(|n| spelled.is_in(*n));
        let owners: Vec<&Owner> =
            spelled.address().into_iter().flat_map(|a| seen.owners(a)).take(most).collect();
        let apex = network.map_or_else(|| lower.clone(), |n| spelled.apex(n));
        (network.is_some() || !owners.is_empty()).then_some(Pointer { spelled, network, apex, owners })
    }
}

/// `01` and `+1` parse as numbers but are not how an octet is written.
fn octet(label: &[u8]) -> Option<u8> {
    let text = std::str::from_utf8(label).ok()?;
    text.parse().ok().filter(|octet: &u8| octet.to_string() == text)
}

fn nibble(label: &[u8]) -> Option<u8> {
    let [digit] = label else { return None };
    char::from(*digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

fn nibbles(address: Ipv6Addr) -> impl Iterator<Item = String> {
    let bits = u128::from(address);
    (0..32).rev().map(move |i| format!("{:x}", bits >> (4 * i) & 0xf))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::serialize::binary::BinDecodable;

    fn read(text: &str) -> Option<Reverse> {
        Reverse::read(&Name::from_ascii(text).unwrap())
    }

    fn address(text: &str) -> Option<IpAddr> {
        read(text).and_then(|r| r.address())
    }

    #[test]
    fn reverse_names_are_read() {
        assert_eq!(address("4.3.2.1.in-addr.arpa."), Some("1.2.3.4".parse().unwrap()));
        let v6 = "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa.";
        assert_eq!(address(v6), Some("2001:db8::1".parse().unwrap()));
        for bad in [
            "3.2.1.in-addr.arpa.",
            "04.3.2.1.in-addr.arpa.",
            "256.3.2.1.in-addr.arpa.",
            "5.4.3.2.1.in-addr.arpa.",
            "1.ip6.arpa.",
            "in-addr.arpa.",
            "arpa.",
            "4.3.2.1.in-addr.",
        ] {
            assert_eq!(address(bad), None, "{bad}");
        }
        // On the wire a label may hold any byte.
        let plus = b"\x02+4\x013\x012\x011\x07in-addr\x04arpa\x00";
        let plus = Reverse::read(&Name::from_bytes(plus).unwrap()).unwrap();
        assert_eq!((plus.address(), plus.rest), (None, true));
    }

    #[test]
    fn names_of_networks_are_read_as_far_as_they_go() {
        for (name, network, rest) in [
            ("in-addr.arpa.", "0.0.0.0/0", false),
            ("96.10.in-addr.arpa.", "10.96.0.0/16", false),
            ("x.96.10.in-addr.arpa.", "10.96.0.0/16", true),
            ("9.1.0.96.10.in-addr.arpa.", "10.96.0.1/32", true),
            ("6.9.d.f.ip6.arpa.", "fd96::/16", false),
            ("10.d.f.ip6.arpa.", "fd00::/8", true),
        ] {
            let expected = Reverse { network: network.parse().unwrap(), rest };
            assert_eq!(read(name), Some(expected), "{name}");
        }
    }

    #[test]
    fn a_zone_is_cut_where_all_below_it_is_ours() {
        for (network, name, apex) in [
            ("10.96.0.0/12", "2.1.97.10.in-addr.arpa.", Some("97.10.in-addr.arpa.")),
            ("10.96.0.0/12", "97.10.in-addr.arpa.", Some("97.10.in-addr.arpa.")),
            ("10.96.0.0/12", "10.in-addr.arpa.", None),
            ("10.96.0.0/12", "1.1.112.10.in-addr.arpa.", None),
            ("192.168.7.0/24", "7.168.192.in-addr.arpa.", Some("7.168.192.in-addr.arpa.")),
            ("192.0.2.7/32", "7.2.0.192.in-addr.arpa.", Some("7.2.0.192.in-addr.arpa.")),
            ("fd00::/8", "6.9.d.f.ip6.arpa.", Some("d.f.ip6.arpa.")),
            ("fd00::/8", "2.1.97.10.in-addr.arpa.", None),
        ] {
            let (network, read) = (network.parse().unwrap(), read(name).unwrap());
            let found = read.is_in(network).then(|| read.apex(network).to_string());
            assert_eq!(found.as_deref(), apex, "{name} of {network}");
        }
    }
}
