//! How keys lie in registers and sets, for one address family.

use crate::sys::nft::{self, Expr, Kind, Table, concat, reg};
use mesh_control::model::{Family, Protocol};
use std::net::{IpAddr, SocketAddr};

/// `IPPROTO_*`.
pub(in crate::dataplane) fn number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
    }
}

/// One address family: what its table is called and where its addresses are.
///
/// Registers are counted in 32-bit words. A packet's key is its destination address, protocol and destination port in
/// words 0 to [`Layout::key_words`] - 1; published ports on every local address have an address of zeros there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::dataplane) struct Layout {
    pub(in crate::dataplane) family: Family,
    pub(in crate::dataplane) table: Table,
}

impl Layout {
    /// Of the tables of that name.
    pub(in crate::dataplane) fn of(family: Family, table: &str) -> Layout {
        let nft = match family {
            Family::V4 => nft::Family::Ip,
            Family::V6 => nft::Family::Ip6,
        };
        Layout { family, table: Table::new(nft, table) }
    }

    fn v4(&self) -> bool {
        self.family == Family::V4
    }

    /// Words of an address.
    pub(in crate::dataplane) fn words(&self) -> u32 {
        if self.v4() { 1 } else { 4 }
    }

    /// Words of a key.
    pub(in crate::dataplane) fn key_words(&self) -> u32 {
        self.words() + 2
    }

    /// Bytes of an address.
    pub(in crate::dataplane) fn bytes(&self) -> u32 {
        self.words() * 4
    }

    /// Bytes of a key.
    pub(in crate::dataplane) fn key_bytes(&self) -> usize {
        usize::try_from(self.key_words() * 4).unwrap_or(0)
    }

    pub(in crate::dataplane) fn nfproto(&self) -> i32 {
        if self.v4() { libc::NFPROTO_IPV4 } else { libc::NFPROTO_IPV6 }
    }

    /// The ICMP protocol and its echo request.
    pub(in crate::dataplane) fn icmp(&self) -> (u8, u8) {
        if self.v4() { (1, 8) } else { (58, 128) }
    }

    /// ICMP's code of "port unreachable".
    pub(in crate::dataplane) fn port_unreachable(&self) -> u8 {
        if self.v4() { 3 } else { 4 }
    }

    /// Types of a set by family.
    pub(in crate::dataplane) fn kinds(&self, v4: &'static [Kind], v6: &'static [Kind]) -> &'static [Kind] {
        if self.v4() { v4 } else { v6 }
    }

    /// Loads the source address, RFC 791 section 3.1 and RFC 8200 section 3.
    pub(in crate::dataplane) fn source(&self, word: u32) -> Expr {
        Expr::network(reg(word), if self.v4() { 12 } else { 8 }, self.bytes())
    }

    /// Loads the destination address.
    pub(in crate::dataplane) fn destination(&self, word: u32) -> Expr {
        Expr::network(reg(word), if self.v4() { 16 } else { 24 }, self.bytes())
    }

    /// Goes on only when the destination is no loopback address (RFC 1122 section 3.2.1.3, RFC 4291 section 2.5.3).
    pub(in crate::dataplane) fn not_loopback(&self) -> Vec<Expr> {
        let mut rule = vec![self.destination(0)];
        if self.v4() {
            rule.extend([
                Expr::mask(reg(0), reg(0), &[255, 0, 0, 0]),
                Expr::cmp(reg(0), false, &[127, 0, 0, 0]),
            ]);
        } else {
            rule.push(Expr::cmp(reg(0), false, &std::net::Ipv6Addr::LOCALHOST.octets()));
        }
        rule
    }

    /// Loads source and destination address, one after the other.
    pub(in crate::dataplane) fn both_addresses(&self, word: u32) -> Expr {
        Expr::network(reg(word), if self.v4() { 12 } else { 8 }, 2 * self.bytes())
    }

    /// Loads the packet's key; `local` with zeros for the address.
    pub(in crate::dataplane) fn load_key(&self, local: bool) -> [Expr; 3] {
        let zeros = [0; 16];
        let address = match local {
            true => Expr::immediate(reg(0), &zeros[..usize::try_from(self.bytes()).unwrap_or(0)]),
            false => self.destination(0),
        };
        let protocol = Expr::meta(reg(self.words()), libc::NFT_META_L4PROTO);
        [address, protocol, Expr::transport(reg(self.words() + 1), 2, 2)]
    }

    /// The key of a frontend's port; no address means every local one.
    pub(in crate::dataplane) fn key(
        &self,
        address: Option<IpAddr>,
        protocol: Protocol,
        port: u16,
    ) -> Vec<u8> {
        let address = match address {
            Some(address) => octets(address),
            None => vec![0; usize::try_from(self.bytes()).unwrap_or(0)],
        };
        concat(&[&address, &[number(protocol)], &port.to_be_bytes()])
    }

    /// The reverse of [`Layout::key`], of its first bytes.
    pub(in crate::dataplane) fn read_key(&self, key: &[u8]) -> Option<(Option<IpAddr>, Protocol, u16)> {
        let (address, rest) = key.split_at_checked(usize::try_from(self.bytes()).ok()?)?;
        let protocol = match rest.first()? {
            6 => Protocol::Tcp,
            17 => Protocol::Udp,
            _ => return None,
        };
        let port = u16::from_be_bytes(rest.get(4..6)?.try_into().ok()?);
        let address = self.address(address)?;
        Some(((!address.is_unspecified()).then_some(address), protocol, port))
    }

    /// The address and port that an element leads to.
    pub(in crate::dataplane) fn read_socket(&self, data: &[u8]) -> Option<SocketAddr> {
        let (address, port) = data.split_at_checked(usize::try_from(self.bytes()).ok()?)?;
        Some((self.address(address)?, u16::from_be_bytes(*port.first_chunk()?)).into())
    }

    fn address(&self, bytes: &[u8]) -> Option<IpAddr> {
        Some(match self.family {
            Family::V4 => <[u8; 4]>::try_from(bytes).ok()?.into(),
            Family::V6 => <[u8; 16]>::try_from(bytes).ok()?.into(),
        })
    }
}

/// An address as packets carry it.
pub(in crate::dataplane) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}
