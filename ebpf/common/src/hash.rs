//! Which slot a client means: the same on every node and data plane.

use crate::{V4, V6};

/// The seed of the hash of clients, as `plan::maglev::SEED`.
pub const SEED: u32 = 0x6d65_7368;

/// The hash of an IPv4 client: `jhash()` of `linux/jhash.h` over its bytes with [`SEED`].
#[must_use]
#[inline(always)]
pub const fn client4(client: V4) -> u32 {
    let [a, b, c] = [start(4); 3];
    last(a.wrapping_add(u32::from_le_bytes(client)), b, c)
}

/// The hash of an IPv6 client, likewise.
#[must_use]
#[inline(always)]
pub const fn client6(client: V6) -> u32 {
    let [a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3, d0, d1, d2, d3] = client;
    let mut a = start(16).wrapping_add(u32::from_le_bytes([a0, a1, a2, a3]));
    let mut b = start(16).wrapping_add(u32::from_le_bytes([b0, b1, b2, b3]));
    let mut c = start(16).wrapping_add(u32::from_le_bytes([c0, c1, c2, c3]));
    a = a.wrapping_sub(c) ^ c.rotate_left(4);
    c = c.wrapping_add(b);
    b = b.wrapping_sub(a) ^ a.rotate_left(6);
    a = a.wrapping_add(c);
    c = c.wrapping_sub(b) ^ b.rotate_left(8);
    b = b.wrapping_add(a);
    a = a.wrapping_sub(c) ^ c.rotate_left(16);
    c = c.wrapping_add(b);
    b = b.wrapping_sub(a) ^ a.rotate_left(19);
    a = a.wrapping_add(c);
    c = c.wrapping_sub(b) ^ b.rotate_left(4);
    b = b.wrapping_add(a);
    last(a.wrapping_add(u32::from_le_bytes([d0, d1, d2, d3])), b, c)
}

/// Where a number of 32 bits lies in `0..slots`, as the kernel's `reciprocal_scale()`.
#[must_use]
#[inline(always)]
pub const fn scale(number: u32, slots: u32) -> u32 {
    ((number as u64 * slots as u64) >> 32) as u32
}

#[inline(always)]
const fn start(len: u32) -> u32 {
    0xdead_beef_u32.wrapping_add(len).wrapping_add(SEED)
}

/// `__jhash_final`.
#[inline(always)]
const fn last(mut a: u32, mut b: u32, mut c: u32) -> u32 {
    c = (c ^ b).wrapping_sub(b.rotate_left(14));
    a = (a ^ c).wrapping_sub(c.rotate_left(11));
    b = (b ^ a).wrapping_sub(a.rotate_left(25));
    c = (c ^ b).wrapping_sub(b.rotate_left(16));
    a = (a ^ c).wrapping_sub(c.rotate_left(4));
    b = (b ^ a).wrapping_sub(a.rotate_left(14));
    (c ^ b).wrapping_sub(b.rotate_left(24))
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::{Ipv4Addr, Ipv6Addr};

    /// The test vectors of `plan::maglev::client_hash`.
    #[test]
    fn clients_hash_as_everywhere() {
        for (client, hash) in
            [([0; 4], 0x65f4_d9e3_u32), ([10, 0, 0, 1], 0xf026_e3f9), ([192, 0, 2, 7], 0x3477_ac33)]
        {
            assert_eq!(client4(client), hash, "{}", Ipv4Addr::from(client));
        }
        for (client, hash) in
            [("::1", 0xd966_89da_u32), ("2001:db8::1", 0xd6a6_3507), ("fe80:1:2:3:4:5:6:7", 0x1486_6edf)]
        {
            assert_eq!(client6(client.parse::<Ipv6Addr>().unwrap().octets()), hash, "{client}");
        }
    }

    #[test]
    fn scaling_covers_every_slot() {
        assert_eq!((scale(0, 7), scale(u32::MAX, 7), scale(u32::MAX, 0)), (0, 6, 0));
    }
}
