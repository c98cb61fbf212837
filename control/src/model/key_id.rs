//! How cluster keys are named.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// Names a cluster key and says nothing of it: 8 bytes that HKDF derives from the key, written as 16 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct KeyId(pub(crate) [u8; 8]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for KeyId {
    type Err = String;

    fn from_str(text: &str) -> Result<KeyId, String> {
        let digits = text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit());
        let number = u64::from_str_radix(text, 16).ok().filter(|_| digits);
        number.map(|n| KeyId(n.to_be_bytes())).ok_or_else(|| {
            let short: String = text.chars().take(32).collect();
            format!("`{short}` is no key id: write 16 hex digits, as `mesh-agent key ls` shows them")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_sixteen_hex_digits() {
        let id = KeyId([0, 1, 2, 0xab, 4, 5, 6, 0xff]);
        assert_eq!(id.to_string(), "000102ab040506ff");
        assert_eq!("000102AB040506ff".parse(), Ok(id));
        for bad in ["", "0001", "+00102ab040506ff", "000102ab040506ffx", "000102ab040506f\u{e9}"] {
            assert!(bad.parse::<KeyId>().is_err(), "{bad}");
        }
    }
}
