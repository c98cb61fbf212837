//! Cluster keys: the first seals, all open, so that keys rotate without a flag day.

use ring::{
    aead::{AES_256_GCM, LessSafeKey, UnboundKey},
    hkdf,
    rand::{SecureRandom, SystemRandom},
};
use std::fmt;

/// Bytes of a cluster key.
pub const KEY_LEN: usize = 32;
/// Most keys of a ring.
pub(crate) const MAX_KEYS: usize = 8;

/// Names a key on the wire without saying anything of it.
pub(crate) type KeyId = [u8; 4];

/// Why a key is refused. Never holds key material.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// No key at all.
    #[error("no cluster key: make one with `mesh-agent key generate` and give it to every node")]
    None,
    /// More than a ring holds.
    #[error("{0} cluster keys: at most 8 may be in use at once; remove the oldest")]
    TooMany(usize),
    /// Not base64 of 32 bytes.
    #[error("cluster key number {0} is not base64 of 32 bytes: use the output of `mesh-agent key generate`")]
    Malformed(usize),
    /// The same key twice.
    #[error("cluster key number {0} repeats an earlier one: remove it")]
    Repeated(usize),
    /// The system gave no random numbers.
    #[error("the system gives no random numbers")]
    NoRandom,
}

/// The cluster keys of one node.
pub(crate) struct Keyring {
    keys: Vec<(KeyId, hkdf::Prk)>,
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids: Vec<_> = self.keys.iter().map(|(id, _)| id).collect();
        f.debug_tuple("Keyring").field(&ids).finish()
    }
}

impl Keyring {
    /// A ring of base64 keys, the sealing one first.
    ///
    /// # Errors
    /// [`KeyError`] naming the key by its number, from 1.
    pub(crate) fn new(keys: &[String]) -> Result<Keyring, KeyError> {
        if keys.is_empty() {
            return Err(KeyError::None);
        }
        if keys.len() > MAX_KEYS {
            return Err(KeyError::TooMany(keys.len()));
        }
        let mut ring: Vec<(KeyId, hkdf::Prk)> = Vec::new();
        for (i, text) in keys.iter().enumerate() {
            let key = decode_base64(text.trim()).ok_or(KeyError::Malformed(i + 1))?;
            let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, b"mesh-control key v1");
            let prk = salt.extract(&key);
            let mut id = KeyId::default();
            prk.expand(&[b"id"], Length(id.len()))
                .and_then(|okm| okm.fill(&mut id))
                .map_err(|_| KeyError::Malformed(i + 1))?;
            if ring.iter().any(|(other, _)| *other == id) {
                return Err(KeyError::Repeated(i + 1));
            }
            ring.push((id, prk));
        }
        Ok(Keyring { keys: ring })
    }

    /// The id of the key that seals.
    pub(crate) fn sealing(&self) -> KeyId {
        self.keys[0].0
    }

    /// The AES-256-GCM key of `context` under the cluster key `id` (RFC 5869 expand); `None` for an unknown id.
    pub(crate) fn subkey(&self, id: KeyId, context: &[&[u8]]) -> Option<LessSafeKey> {
        let (_, prk) = self.keys.iter().find(|(known, _)| *known == id)?;
        let okm = prk.expand(context, &AES_256_GCM).ok()?;
        Some(LessSafeKey::new(UnboundKey::from(okm)))
    }
}

struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

/// A new cluster key: base64 of 32 random bytes.
///
/// # Errors
/// [`KeyError::NoRandom`] when the system has no random numbers.
pub fn generate_key() -> Result<String, KeyError> {
    let mut key = [0; KEY_LEN];
    SystemRandom::new().fill(&mut key).map_err(|_| KeyError::NoRandom)?;
    Ok(encode_base64(&key))
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// RFC 4648 section 4, with padding.
fn encode_base64(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0usize, |w, b| (w << 8) | usize::from(*b)) << (8 * (3 - chunk.len()));
        for i in 0..4 {
            let sextet = (word >> (18 - 6 * i)) & 63;
            text.push(if i <= chunk.len() { char::from(ALPHABET[sextet]) } else { '=' });
        }
    }
    text
}

/// The inverse for exactly [`KEY_LEN`] bytes; `None` for anything else.
fn decode_base64(text: &str) -> Option<[u8; KEY_LEN]> {
    let digits = text.strip_suffix('=')?.as_bytes();
    if digits.len() != 43 {
        return None;
    }
    let mut bits = Vec::with_capacity(43);
    for digit in digits {
        bits.push(ALPHABET.iter().position(|a| a == digit)?);
    }
    let mut key = [0; KEY_LEN];
    for (i, byte) in key.iter_mut().enumerate() {
        let (first, shift) = (i * 8 / 6, i * 8 % 6);
        let pair = (bits[first] << 6) | bits[first + 1];
        *byte = u8::try_from((pair >> (4 - shift)) & 0xff).ok()?;
    }
    (encode_base64(&key) == text).then_some(key)
}

/// Random bytes of the system.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], KeyError> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| KeyError::NoRandom)?;
    Ok(bytes)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A ring of one fixed key.
    pub(crate) fn ring(byte: u8) -> Keyring {
        Keyring::new(&[encode_base64(&[byte; KEY_LEN])]).unwrap()
    }

    #[test]
    fn keys_are_checked_and_never_shown() {
        assert_eq!(Keyring::new(&[]).unwrap_err(), KeyError::None);
        let key = generate_key().unwrap();
        assert_eq!(key.len(), 44);
        assert_ne!(key, generate_key().unwrap());
        let ring = Keyring::new(std::slice::from_ref(&key)).unwrap();
        assert!(!format!("{ring:?}").contains(&key));
        assert_eq!(Keyring::new(&[key.clone(), key.clone()]).unwrap_err(), KeyError::Repeated(2));
        for bad in ["", "abc", &key[1..], &format!("{key}="), &key.replace('=', "!")] {
            assert_eq!(Keyring::new(&[key.clone(), bad.to_owned()]).unwrap_err(), KeyError::Malformed(2));
        }
    }

    #[test]
    fn base64_is_that_of_the_rfc() {
        assert_eq!(encode_base64(b"foobar"), "Zm9vYmFy");
        assert_eq!(encode_base64(b"fooba"), "Zm9vYmE=");
        assert_eq!(encode_base64(b"foob"), "Zm9vYg==");
        let key: [u8; KEY_LEN] = std::array::from_fn(|i| u8::try_from(i * 7 % 256).unwrap());
        assert_eq!(decode_base64(&encode_base64(&key)), Some(key));
    }
}
