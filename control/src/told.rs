//! What the record of a cluster key says.

use crate::{
    hlc::Hlc,
    keyring::{ClusterKey, KEY_LEN},
    model::KeyId,
    record::Record,
};
use std::sync::Arc;

/// A key record's value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Told {
    /// The key; absent once it is removed.
    pub(crate) key: Option<ClusterKey>,
    /// When it was last put in use; 0 for never. The key with the greatest one seals.
    pub(crate) used: Hlc,
}

impl Told {
    /// The value's bytes: the stamp, big endian, then the key's 32 bytes or none.
    pub(crate) fn encode(&self) -> Arc<[u8]> {
        let key = self.key.as_ref().map_or(&[][..], |key| key.bytes());
        [&self.used.0.to_be_bytes(), key].concat().into()
    }

    /// What the record of key `id` says; `None` when malformed, or of another key.
    pub(crate) fn of(id: KeyId, record: &Record) -> Option<Told> {
        let (used, rest) = record.value.split_first_chunk::<8>()?;
        let used = Some(Hlc(u64::from_be_bytes(*used))).filter(|stamp| *stamp < Hlc::LIMIT)?;
        let key = match <[u8; KEY_LEN]>::try_from(rest) {
            Ok(secret) => Some(ClusterKey::new(secret)).filter(|key| key.id() == id).map(Some)?,
            Err(_) if rest.is_empty() => None,
            Err(_) => return None,
        };
        // This release writes no tombstones of keys; one means what it says.
        Some(Told { key: key.filter(|_| !record.deleted), used })
    }
}
