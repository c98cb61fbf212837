//! Which frontend an address and a port are, and what differs between IPv4 and IPv6 about that.

use crate::maps::{ALLOW4, ALLOW6, LOCALS4, LOCALS6, SERVICES4, SERVICES6};
use aya_ebpf::maps::{HashMap, lpm_trie::Key};
use mesh_ebpf_common::{Config, Service, ServiceKey, V4, V6, hash};

/// An address of one family, with the maps of that family.
pub trait Family: Copy + PartialEq + 'static {
    /// No address.
    const ZERO: Self;
    /// 4 or 6.
    const NUMBER: u32;
    /// The frontends.
    fn services() -> &'static HashMap<ServiceKey<Self>, Service>;
    /// Whether it leads to this host: its published ports answer there.
    fn is_local(self) -> bool;
    /// The address of this node.
    fn node(config: &Config) -> Self;
    /// Whether it never leaves this host.
    fn is_loopback(self) -> bool;
    /// Whether it is in a range of VIPs.
    fn is_vip(self, config: &Config) -> bool;
    /// Whether it may dial a frontend that asks.
    fn is_allowed(self, frontend: u32) -> bool;
    /// The hash by which clients are spread.
    fn hash(self) -> u32;
    /// In 16 bytes, IPv4 in the first four.
    fn wide(self) -> V6;
    /// Out of 16 bytes.
    fn narrow(wide: &V6) -> Self;
}

/// The frontend that is dialled by this address and port (network order): one of just this address, or a port that is
/// published on every address of this host.
#[inline(always)]
pub fn find<A: Family>(address: A, port: u16, protocol: u8) -> Option<&'static Service> {
    find_of(address, port, protocol, false)
}

/// The same where the address may be `ours` although it is not local.
#[inline(always)]
pub fn find_of<A: Family>(address: A, port: u16, protocol: u8, ours: bool) -> Option<&'static Service> {
    let key = ServiceKey { address, port, protocol, pad: 0 };
    // SAFETY: entries of this map are replaced, never written to, and freed after programs that may see them.
    if let Some(service) = unsafe { A::services().get(&key) } {
        return Some(service);
    }
    if !ours && !address.is_local() {
        return None;
    }
    // SAFETY: as above.
    unsafe { A::services().get(ServiceKey { address: A::ZERO, ..key }) }
}

impl Family for V4 {
    const ZERO: V4 = [0; 4];
    const NUMBER: u32 = 4;

    #[inline(always)]
    fn services() -> &'static HashMap<ServiceKey<V4>, Service> {
        &SERVICES4
    }

    #[inline(always)]
    fn is_local(self) -> bool {
        self.is_loopback() || LOCALS4.get_ptr(self).is_some()
    }

    #[inline(always)]
    fn node(config: &Config) -> V4 {
        config.node4
    }

    #[inline(always)]
    fn is_loopback(self) -> bool {
        self[0] == 127
    }

    #[inline(always)]
    fn is_vip(self, config: &Config) -> bool {
        let within = |[network, mask]: [V4; 2]| {
            let mask = u32::from_ne_bytes(mask);
            mask != 0 && u32::from_ne_bytes(self) & mask == u32::from_ne_bytes(network)
        };
        within(config.vips4[0]) || within(config.vips4[1])
    }

    #[inline(always)]
    fn is_allowed(self, frontend: u32) -> bool {
        let ([a, b, c, d], [e, f, g, h]) = (frontend.to_ne_bytes(), self);
        ALLOW4.get(Key::new(64, [a, b, c, d, e, f, g, h])).is_some()
    }

    #[inline(always)]
    fn hash(self) -> u32 {
        hash::client4(self)
    }

    #[inline(always)]
    fn wide(self) -> V6 {
        let [a, b, c, d] = self;
        [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    }

    #[inline(always)]
    fn narrow(&[a, b, c, d, ..]: &V6) -> V4 {
        [a, b, c, d]
    }
}

impl Family for V6 {
    const ZERO: V6 = [0; 16];
    const NUMBER: u32 = 6;

    #[inline(always)]
    fn services() -> &'static HashMap<ServiceKey<V6>, Service> {
        &SERVICES6
    }

    #[inline(always)]
    fn is_local(self) -> bool {
        self.is_loopback() || LOCALS6.get_ptr(self).is_some()
    }

    #[inline(always)]
    fn node(config: &Config) -> V6 {
        config.node6
    }

    #[inline(always)]
    fn is_loopback(self) -> bool {
        let [high, low] = halves(self);
        high | (low ^ 1_u64.to_be()) == 0
    }

    #[inline(always)]
    fn is_vip(self, config: &Config) -> bool {
        let within = |[network, mask]: [V6; 2]| {
            let ([high, low], mask, network) = (halves(self), halves(mask), halves(network));
            mask[0] != 0 && (high & mask[0] ^ network[0]) | (low & mask[1] ^ network[1]) == 0
        };
        within(config.vips6[0]) || within(config.vips6[1])
    }

    #[inline(always)]
    fn is_allowed(self, frontend: u32) -> bool {
        let mut key = [0; 20];
        key[..4].copy_from_slice(&frontend.to_ne_bytes());
        key[4..].copy_from_slice(&self);
        ALLOW6.get(Key::new(160, key)).is_some()
    }

    #[inline(always)]
    fn hash(self) -> u32 {
        hash::client6(self)
    }

    #[inline(always)]
    fn wide(self) -> V6 {
        self
    }

    #[inline(always)]
    fn narrow(wide: &V6) -> V6 {
        *wide
    }
}

/// An address as two numbers, which this target compares at once.
#[inline(always)]
pub fn halves(address: V6) -> [u64; 2] {
    // SAFETY: numbers of the same size.
    unsafe { core::mem::transmute(address) }
}
