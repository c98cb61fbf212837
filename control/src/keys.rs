//! Which cluster keys this node uses: those of its configuration and those that the mesh was told, as key records say.
//!
//! A removed key keeps a record that says so, live for ever: a tombstone's end would let a configuration that still
//! lists the key bring it back.

use crate::{
    api::KeyView,
    hlc::Hlc,
    key::{self, Key},
    keyring::{ClusterKey, KeyError, Keyring, MAX_KEYS, SharedRing, read_keys, wire_id},
    model::KeyId,
    record::Record,
    told::Told,
};
use std::{collections::BTreeMap, sync::Arc};

/// The keys that a node knows.
pub(crate) struct Keys {
    configured: Vec<ClusterKey>,
    told: BTreeMap<KeyId, Told>,
    ring: SharedRing,
    changed: bool,
}

impl Keys {
    /// The keys of a configuration, base64 of 32 bytes each; the first seals until the mesh was told another.
    ///
    /// # Errors
    /// [`KeyError`] naming the key by its number, from 1.
    pub(crate) fn new(texts: &[String]) -> Result<Keys, KeyError> {
        let configured = read_keys(texts)?;
        let ring = SharedRing::new(Keyring::new(configured.clone()));
        Ok(Keys { configured, told: BTreeMap::new(), ring, changed: true })
    }

    /// The ring in force.
    pub(crate) fn ring(&self) -> Arc<Keyring> {
        self.ring.get()
    }

    /// The ring in force, now and later.
    pub(crate) fn shared(&self) -> SharedRing {
        self.ring.clone()
    }

    /// Notes that a record of whatever kind changed, or (`None`) was forgotten.
    pub(crate) fn note(&mut self, id: &key::RecordId, record: Option<&Record>) {
        if id.kind != key::KEY {
            return;
        }
        let Some(Key::Ring(id)) = Key::of(id) else { return };
        match record.and_then(|record| Told::of(id, record)) {
            Some(told) => self.told.insert(id, told),
            None => self.told.remove(&id),
        };
        let ring = self.effective();
        if ring.ids() != self.ring.get().ids() {
            tracing::info!(sealing = %ring.sealing().id(), keys = ?ring.ids(), "the cluster keys changed");
            self.ring.set(ring);
            self.changed = true;
        }
        if self.is_removed(id) && self.is_configured(id) {
            tracing::warn!(key = %id, "cluster.keys lists a key that is removed: update it, or a restart may not join");
        }
    }

    /// Whether the ring changed since the last call.
    pub(crate) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// The key in use, then the configuration's, then what else the mesh was told, without what was removed.
    fn effective(&self) -> Keyring {
        let live = self.told.values().filter_map(|told| Some((told.key.as_ref()?, told.used)));
        let in_use = live.clone().filter(|(_, used)| used.0 > 0).max_by_key(|(key, used)| (*used, key.id()));
        let configured = self.configured.iter().filter(|key| !self.is_removed(key.id()));
        let all = in_use.map(|(key, _)| key).into_iter().chain(configured).chain(live.map(|(key, _)| key));
        let mut keys: Vec<ClusterKey> = Vec::new();
        for key in all {
            if keys.len() < MAX_KEYS && !keys.iter().any(|k| wire_id(k.id()) == wire_id(key.id())) {
                keys.push(key.clone());
            }
        }
        if keys.is_empty() {
            tracing::error!("every known cluster key is removed: going on with those of the configuration");
            keys.clone_from(&self.configured);
        }
        Keyring::new(keys)
    }

    /// What the mesh was told of a key.
    pub(crate) fn told(&self, id: KeyId) -> Option<&Told> {
        self.told.get(&id)
    }

    /// When a key was last put in use; 0 for never.
    pub(crate) fn newest_use(&self) -> Hlc {
        self.told.values().map(|told| told.used).max().unwrap_or_default()
    }

    fn is_removed(&self, id: KeyId) -> bool {
        self.told.get(&id).is_some_and(|told| told.key.is_none())
    }

    fn is_configured(&self, id: KeyId) -> bool {
        self.configured.iter().any(|key| key.id() == id)
    }

    /// Every key of the ring, the sealing one first, then removed ones that the configuration still lists.
    pub(crate) fn list(&self) -> Vec<KeyView> {
        let ids = self.ring.get().ids();
        let lingering = self.configured.iter().map(ClusterKey::id).filter(|id| !ids.contains(id));
        let view = |id: KeyId| KeyView {
            id,
            in_use: ids.first() == Some(&id),
            in_config: self.is_configured(id),
            removed: !ids.contains(&id),
            held_by: Vec::new(),
            seals_for: Vec::new(),
        };
        ids.iter().copied().chain(lingering).map(view).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{model::Name, record::Writer};

    fn key(byte: u8) -> ClusterKey {
        ClusterKey::new([byte; crate::KEY_LEN])
    }

    fn keys(configured: &[u8]) -> Keys {
        Keys::new(&configured.iter().map(|b| key(*b).expose()).collect::<Vec<_>>()).unwrap()
    }

    fn record(id: KeyId, value: Arc<[u8]>) -> Record {
        let writer = Arc::new(Writer { node: Name::new("n1").unwrap(), boot: 1 });
        Record::new(Key::Ring(id).id(), Hlc(1), writer, false, value)
    }

    fn tell(keys: &mut Keys, byte: u8, live: bool, used: u64) {
        let told = Told { key: live.then(|| key(byte)), used: Hlc(used) };
        let record = record(key(byte).id(), told.encode());
        assert_eq!(Told::of(key(byte).id(), &record), Some(told));
        keys.note(&record.id, Some(&record));
    }

    fn ring(keys: &Keys) -> Vec<KeyId> {
        keys.ring().ids()
    }

    fn ids(bytes: &[u8]) -> Vec<KeyId> {
        bytes.iter().map(|b| key(*b).id()).collect()
    }

    #[test]
    fn the_newest_use_seals_and_removed_keys_stay_out() {
        let mut keys = keys(&[1, 2]);
        assert_eq!(ring(&keys), ids(&[1, 2]));
        tell(&mut keys, 3, true, 0);
        assert_eq!(ring(&keys), ids(&[1, 2, 3]));
        tell(&mut keys, 3, true, 7);
        assert_eq!(ring(&keys), ids(&[3, 1, 2]));
        tell(&mut keys, 1, false, 0);
        tell(&mut keys, 2, true, 8);
        assert_eq!(ring(&keys), ids(&[2, 3]));
        let told: Vec<_> = keys.list().iter().map(|k| (k.id, k.in_use, k.in_config, k.removed)).collect();
        let want = [(2, true, true, false), (3, false, false, false), (1, false, true, true)];
        assert_eq!(told, want.map(|(b, used, config, removed)| (key(b).id(), used, config, removed)));
    }

    #[test]
    fn a_ring_is_never_empty_and_never_above_its_limit() {
        let mut keys = keys(&[1]);
        tell(&mut keys, 1, false, 0);
        assert_eq!(ring(&keys), ids(&[1]));
        for byte in 2..40 {
            tell(&mut keys, byte, true, 0);
        }
        assert_eq!(ring(&keys).len(), MAX_KEYS);
        assert!(!ring(&keys).contains(&key(1).id()));
        tell(&mut keys, 39, true, 1);
        assert_eq!((ring(&keys)[0], ring(&keys).len()), (key(39).id(), MAX_KEYS));
    }

    #[test]
    fn values_of_another_key_or_another_length_say_nothing() {
        let mut keys = keys(&[1]);
        let good = Told { key: Some(key(2)), used: Hlc(5) }.encode();
        let mut late = good.to_vec();
        late[0] = 0xff;
        let long = [&good[..], &[0]].concat();
        for bad in [&good[..7], &good[..39], &long, &late] {
            let record = record(key(2).id(), bad.into());
            assert_eq!(Told::of(key(2).id(), &record), None);
            keys.note(&record.id, Some(&record));
        }
        let other = record(key(3).id(), good);
        keys.note(&other.id, Some(&other));
        assert_eq!(ring(&keys), ids(&[1]));
        assert!(!format!("{other:?}").contains("2, 2, 2"), "a record does not show its value");
    }
}
