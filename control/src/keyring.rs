//! Cluster keys: the first of a ring seals, all open, so that keys rotate without a flag day.

use crate::model::KeyId;
use base64::{Engine, prelude::BASE64_STANDARD};
use ring::{
    aead::{AES_256_GCM, LessSafeKey, UnboundKey},
    hkdf,
    rand::{SecureRandom, SystemRandom},
};
use std::{
    fmt,
    str::FromStr,
    sync::{Arc, PoisonError, RwLock},
};

/// Bytes of a cluster key.
pub const KEY_LEN: usize = 32;
/// Most keys of a ring.
pub const MAX_KEYS: usize = 8;

/// Names a key on the wire: the first half of its [`KeyId`].
pub(crate) type WireId = [u8; 4];

/// The wire's name of a key.
pub(crate) fn wire_id(id: KeyId) -> WireId {
    let [a, b, c, d, ..] = id.0;
    [a, b, c, d]
}

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
    #[error("not base64 of 32 bytes: use the output of `mesh-agent key generate`")]
    NoKey,
    /// The same, in a list.
    #[error("cluster key number {0} is not base64 of 32 bytes: use the output of `mesh-agent key generate`")]
    Malformed(usize),
    /// The same key twice.
    #[error("cluster key number {0} repeats an earlier one: remove it")]
    Repeated(usize),
    /// The system gave no random numbers.
    #[error("the system gives no random numbers")]
    NoRandom,
}

/// A cluster key. Its `Debug` is its id; only [`ClusterKey::expose`] gives the key.
#[derive(Clone, PartialEq, Eq)]
pub struct ClusterKey {
    id: KeyId,
    secret: [u8; KEY_LEN],
}

impl ClusterKey {
    /// The key of these bytes.
    pub(crate) fn new(secret: [u8; KEY_LEN]) -> ClusterKey {
        let mut id = KeyId([0; 8]);
        // Filling 8 bytes cannot fail (RFC 5869: up to 255 hashes).
        let _ = extract(&secret).expand(&[b"id"], Length(8)).and_then(|okm| okm.fill(&mut id.0));
        ClusterKey { id, secret }
    }

    /// A new random key.
    ///
    /// # Errors
    /// [`KeyError::NoRandom`] when the system has no random numbers.
    pub fn generate() -> Result<ClusterKey, KeyError> {
        Ok(ClusterKey::new(random()?))
    }

    /// Its public name.
    #[must_use]
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// The key itself: base64 (RFC 4648 section 4) of 32 bytes.
    #[must_use]
    pub fn expose(&self) -> String {
        BASE64_STANDARD.encode(self.secret)
    }

    /// The key itself.
    pub(crate) fn bytes(&self) -> &[u8; KEY_LEN] {
        &self.secret
    }
}

impl fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ClusterKey").field(&self.id).finish()
    }
}

impl FromStr for ClusterKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<ClusterKey, KeyError> {
        let bytes = BASE64_STANDARD.decode(text.trim()).map_err(|_| KeyError::NoKey)?;
        bytes.try_into().map(ClusterKey::new).map_err(|_| KeyError::NoKey)
    }
}

/// Reads a configuration's list of keys.
///
/// # Errors
/// [`KeyError`] naming the key by its number, from 1.
pub(crate) fn read_keys(texts: &[String]) -> Result<Vec<ClusterKey>, KeyError> {
    if texts.is_empty() {
        return Err(KeyError::None);
    }
    if texts.len() > MAX_KEYS {
        return Err(KeyError::TooMany(texts.len()));
    }
    let mut keys: Vec<ClusterKey> = Vec::new();
    for (i, text) in texts.iter().enumerate() {
        let key: ClusterKey = text.parse().map_err(|_| KeyError::Malformed(i + 1))?;
        if keys.iter().any(|other| wire_id(other.id) == wire_id(key.id)) {
            return Err(KeyError::Repeated(i + 1));
        }
        keys.push(key);
    }
    Ok(keys)
}

/// The cluster keys that a node uses at one moment: the first seals, all open.
pub(crate) struct Keyring {
    keys: Vec<(ClusterKey, hkdf::Prk)>,
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Keyring").field(&self.ids()).finish()
    }
}

impl Keyring {
    /// A ring of `keys`, which are not empty and differ; the first one seals.
    pub(crate) fn new(keys: impl IntoIterator<Item = ClusterKey>) -> Keyring {
        let keys = keys.into_iter().map(|key| {
            let prk = extract(&key.secret);
            (key, prk)
        });
        Keyring { keys: keys.collect() }
    }

    /// The key that seals.
    pub(crate) fn sealing(&self) -> &ClusterKey {
        &self.keys[0].0
    }

    /// The ids, the sealing key's first.
    pub(crate) fn ids(&self) -> Vec<KeyId> {
        self.keys.iter().map(|(key, _)| key.id).collect()
    }

    /// The key of an id.
    pub(crate) fn get(&self, id: KeyId) -> Option<&ClusterKey> {
        self.keys.iter().map(|(key, _)| key).find(|key| key.id == id)
    }

    /// Whether it opens what is sealed by the key that the wire calls so.
    pub(crate) fn opens(&self, id: WireId) -> bool {
        self.keys.iter().any(|(key, _)| wire_id(key.id) == id)
    }

    /// The AES-256-GCM key of `context` under the cluster key `id` (RFC 5869 expand); `None` for an unknown id.
    pub(crate) fn subkey(&self, id: WireId, context: &[&[u8]]) -> Option<LessSafeKey> {
        let (_, prk) = self.keys.iter().find(|(key, _)| wire_id(key.id) == id)?;
        let okm = prk.expand(context, &AES_256_GCM).ok()?;
        Some(LessSafeKey::new(UnboundKey::from(okm)))
    }
}

/// The ring in force, which the node swaps and its connections read.
#[derive(Clone, Debug)]
pub(crate) struct SharedRing(Arc<RwLock<Arc<Keyring>>>);

impl SharedRing {
    pub(crate) fn new(ring: Keyring) -> SharedRing {
        SharedRing(Arc::new(RwLock::new(Arc::new(ring))))
    }

    /// The ring as of now.
    pub(crate) fn get(&self) -> Arc<Keyring> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts `ring` in force.
    pub(crate) fn set(&self, ring: Keyring) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(ring);
    }
}

struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

fn extract(secret: &[u8; KEY_LEN]) -> hkdf::Prk {
    hkdf::Salt::new(hkdf::HKDF_SHA256, b"mesh-control key v1").extract(secret)
}

/// A new cluster key: base64 of 32 random bytes.
///
/// # Errors
/// [`KeyError::NoRandom`] when the system has no random numbers.
pub fn generate_key() -> Result<String, KeyError> {
    ClusterKey::generate().map(|key| key.expose())
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
        Keyring::new([ClusterKey::new([byte; KEY_LEN])])
    }

    #[test]
    fn keys_are_checked_and_never_shown() {
        assert_eq!(read_keys(&[]).unwrap_err(), KeyError::None);
        let text = generate_key().unwrap();
        assert_eq!(text.len(), 44);
        assert_ne!(text, generate_key().unwrap());
        let key: ClusterKey = text.parse().unwrap();
        assert_eq!((key.expose(), key.clone()), (text.clone(), ClusterKey::new(*key.bytes())));
        assert_eq!(format!("{key:?}"), format!("ClusterKey({})", key.id()));
        let ring = Keyring::new([key.clone()]);
        assert_eq!(format!("{ring:?}"), format!("Keyring([{}])", key.id()));
        assert_eq!(read_keys(&[text.clone(), text.clone()]).unwrap_err(), KeyError::Repeated(2));
        assert_eq!(read_keys(&vec![text.clone(); 9]).unwrap_err(), KeyError::TooMany(9));
        for bad in ["", "abc", &text[1..], &format!("{text}="), &text.replace('=', "!")] {
            assert_eq!(read_keys(&[text.clone(), bad.to_owned()]).unwrap_err(), KeyError::Malformed(2));
        }
    }

    #[test]
    fn ids_stay_what_they_are_on_the_wire() {
        // The id of earlier releases, 4 bytes of the same derivation, is the beginning of this one.
        let mut four = [0; 4];
        extract(&[7; KEY_LEN]).expand(&[b"id"], Length(4)).unwrap().fill(&mut four).unwrap();
        let key = ClusterKey::new([7; KEY_LEN]);
        assert_eq!(wire_id(key.id()), four);
        assert_ne!(key.id(), ClusterKey::new([8; KEY_LEN]).id());
        assert!(ring(7).opens(four) && !ring(8).opens(four));
    }
}
