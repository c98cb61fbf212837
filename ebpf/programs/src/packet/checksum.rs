//! The Internet checksum (RFC 1071) and how it follows what is rewritten (RFC 1624).

/// Adds the carries of a sum into its lower half.
#[inline(always)]
pub fn fold64(sum: u64) -> u32 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    (sum + (sum >> 32)) as u32
}

/// The same, down to 16 bits.
#[inline(always)]
pub fn fold32(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    (sum + (sum >> 16)) as u16
}

/// How a sum changes when `old` goes and `new` comes; both are sums of at most 2^32 words.
#[inline(always)]
pub fn difference(old: u64, new: u64) -> u16 {
    fold32(fold64(u64::from(!fold64(old)) + u64::from(fold64(new))))
}

/// The same for a hop limit, which is the second byte of its word.
#[inline(always)]
pub fn hops(old: u8, new: u8) -> u16 {
    difference(u64::from(old) << 8, u64::from(new) << 8)
}

/// A checksum after such changes, added up.
#[inline(always)]
pub fn apply(checksum: u16, differences: u32) -> u16 {
    !fold32(u32::from(!checksum) + differences)
}
