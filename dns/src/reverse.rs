//! Names of addresses: `in-addr.arpa` (RFC 1035 section 3.5) and `ip6.arpa` (RFC 3596 section 2.5).

use hickory_proto::rr::Name;
use ipnetwork::IpNetwork;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The address that `lower`, a name in lower case, stands for; `None` when it is not the name of one address.
pub(crate) fn address(lower: &Name) -> Option<IpAddr> {
    let mut labels = lower.iter().rev();
    if labels.next()? != b"arpa" {
        return None;
    }
    match labels.next()? {
        b"in-addr" if labels.len() == 4 => {
            let mut octets = [0u8; 4];
            for octet in &mut octets {
                let text = std::str::from_utf8(labels.next()?).ok()?;
                // `01` and `+1` parse as numbers but are not how the octet is written.
                if text.starts_with('+') || (text.len() > 1 && text.starts_with('0')) {
                    return None;
                }
                *octet = text.parse().ok()?;
            }
            Some(IpAddr::V4(Ipv4Addr::from(octets)))
        }
        b"ip6" if labels.len() == 32 => {
            let mut bits = 0u128;
            for label in labels {
                let [digit] = label else { return None };
                bits = bits << 4 | u128::from(char::from(*digit).to_digit(16)?);
            }
            Some(IpAddr::V6(Ipv6Addr::from(bits)))
        }
        _ => None,
    }
}

/// The reverse zone that encloses `network`, cut at an octet (IPv4) or nibble (IPv6): `10.96.0.0/12` is in
/// `10.in-addr.arpa.`
pub(crate) fn zone(network: IpNetwork) -> Name {
    let mut labels: Vec<String> = match network {
        IpNetwork::V4(n) => {
            n.network().octets().iter().take(usize::from(n.prefix() / 8)).map(u8::to_string).collect()
        }
        IpNetwork::V6(n) => nibbles(n.network()).take(usize::from(n.prefix() / 4)).collect(),
    };
    labels.reverse();
    labels.push(if network.is_ipv4() { "in-addr" } else { "ip6" }.to_owned());
    labels.push("arpa".to_owned());
    Name::from_labels(labels.iter().map(String::as_bytes)).unwrap_or_else(|_| Name::root())
}

fn nibbles(address: Ipv6Addr) -> impl Iterator<Item = String> {
    let bits = u128::from(address);
    (0..32).rev().map(move |i| format!("{:x}", bits >> (4 * i) & 0xf))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::serialize::binary::BinDecodable;

    fn read(text: &str) -> Option<IpAddr> {
        address(&Name::from_ascii(text).unwrap())
    }

    #[test]
    fn reverse_names_are_read() {
        assert_eq!(read("4.3.2.1.in-addr.arpa."), Some("1.2.3.4".parse().unwrap()));
        let v6 = "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa.";
        assert_eq!(read(v6), Some("2001:db8::1".parse().unwrap()));
        for bad in [
            "3.2.1.in-addr.arpa.",
            "04.3.2.1.in-addr.arpa.",
            "256.3.2.1.in-addr.arpa.",
            "1.ip6.arpa.",
            "arpa.",
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
        assert_eq!(read("5.4.3.2.1.in-addr.arpa."), None);
        // On the wire a label may hold any byte.
        let plus = b"\x02+4\x013\x012\x011\x07in-addr\x04arpa\x00";
        assert_eq!(address(&Name::from_bytes(plus).unwrap()), None);
    }

    #[test]
    fn reverse_zones_enclose_their_network() {
        let zone = |text: &str| zone(text.parse().unwrap()).to_string();
        assert_eq!(zone("10.96.0.0/12"), "10.in-addr.arpa.");
        assert_eq!(zone("192.168.7.0/24"), "7.168.192.in-addr.arpa.");
        assert_eq!(zone("fd00::/8"), "d.f.ip6.arpa.");
    }
}
