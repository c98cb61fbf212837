//! One hash for everything that nodes must compute alike: SHA-256 over length-prefixed parts, cut to 64 bits.
//!
//! Peers are authenticated, so 64 bits only have to keep apart what differs by chance.

use ring::digest::{Context, SHA256};

/// Hashes `parts` so that no two different lists of parts feed the same bytes.
pub(crate) fn hash64(parts: &[&[u8]]) -> u64 {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    let digest = context.finish();
    digest.as_ref().iter().take(8).fold(0, |hash, byte| (hash << 8) | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_borders_of_parts_count() {
        assert_ne!(hash64(&[b"ab", b"c"]), hash64(&[b"a", b"bc"]));
        assert_eq!(hash64(&[b"ab"]), hash64(&[b"ab"]));
    }
}
