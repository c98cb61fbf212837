//! Cluster keys: what this node says of them, and how they change while it runs.
//!
//! A rotation is `Add` (everybody opens it), `Use` once everybody holds it (everybody seals with it), `Remove` of the
//! old key once nobody seals with it. Each step is a record; each node says in its own record what it holds.

use super::core::Node;
use crate::{
    api::{ControlError, KeyChange, KeyView},
    hlc::{Hlc, Now},
    key::Key,
    keyring::{ClusterKey, MAX_KEYS, wire_id},
    model::{KeyId, NodeState, NodeView},
    told::Told,
};

impl Node {
    /// The key that seals what this node sends.
    #[must_use]
    pub fn sealing_key(&self) -> KeyId {
        self.keys.ring().sealing().id()
    }

    /// Whether this node opens what is sealed with a key.
    #[must_use]
    pub fn knows_key(&self, id: KeyId) -> bool {
        self.keys.ring().opens(wire_id(id))
    }

    /// The key that seals, itself: for a join token, and for nothing that is shown or logged.
    #[must_use]
    pub fn expose_sealing_key(&self) -> ClusterKey {
        self.keys.ring().sealing().clone()
    }

    /// Every key of the ring, the sealing one first, then removed ones that the configuration still lists; with the
    /// nodes that are up and hold or use them.
    #[must_use]
    pub fn keys(&self) -> Vec<KeyView> {
        let mut keys = self.keys.list();
        for node in self.snapshot().nodes.values().filter(|node| node.state.is_up()) {
            for key in &mut keys {
                if node.info.keys.contains(&key.id) {
                    key.held_by.push(node.name.clone());
                }
                if node.info.keys.first() == Some(&key.id) {
                    key.seals_for.push(node.name.clone());
                }
            }
        }
        keys
    }

    /// Puts a changed ring in force and says what this node holds.
    pub(super) fn renew_keys(&mut self, now: Now) {
        if self.keys.take_changed() {
            let ring = self.keys.ring();
            self.sealer.rekey(&ring);
            self.opener.rekey(ring);
            let info = self.config.info.clone();
            self.say_node(&info, now);
        }
    }

    pub(super) fn check_key(&self, change: &KeyChange) -> Result<(), ControlError> {
        let refuse =
            |problem: String, fix: &str| Err(ControlError::KeyChange { problem, fix: fix.to_owned() });
        let ring = self.keys.ring();
        match change {
            KeyChange::Add(key) => {
                let id = key.id();
                if ring.get(id).is_none() && ring.opens(wire_id(id)) {
                    return refuse(format!("key {id} has the short id of another key"), "make another key");
                }
                if ring.get(id).is_none() && ring.ids().len() >= MAX_KEYS {
                    return refuse(
                        format!("the ring has {MAX_KEYS} keys, which is all it holds"),
                        "remove one that seals for no node first: `mesh-agent key ls` shows them",
                    );
                }
                Ok(())
            }
            KeyChange::Use { id, force } => {
                self.check_known(*id)?;
                // Of a node that was heard of a moment ago the record with its keys may be on its way still.
                let silent = self.named(|node| node.state.is_up() && node.info.keys.is_empty());
                if !force && !silent.is_empty() {
                    return refuse(
                        format!("{silent} has not said yet which keys it holds"),
                        "try again when `key ls` says that all hold it; --force uses it anyway",
                    );
                }
                let lacking = self.named(|node| node.state.is_up() && !node.info.keys.contains(id));
                if !force && !lacking.is_empty() {
                    return refuse(
                        format!("{lacking} lacks key {id} and could not read what is sealed with it"),
                        "`key add` it and wait until `key ls` says that all hold it; --force uses it anyway",
                    );
                }
                Ok(())
            }
            KeyChange::Remove { id, force } => {
                self.check_known(*id)?;
                let in_use = ring.sealing().id();
                if in_use == *id {
                    return refuse(
                        format!("key {id} is in use"),
                        "put another in use first: `mesh-agent key use ID`",
                    );
                }
                let sealing = self.named(|node| node.state.is_up() && node.info.keys.first() == Some(id));
                if !force && !sealing.is_empty() {
                    return refuse(
                        format!("{sealing} still seals with key {id} and would be cut off"),
                        "wait until `mesh-agent key ls` says that it seals for none; --force removes it anyway",
                    );
                }
                let away =
                    self.named(|node| node.state == NodeState::Down && !node.info.keys.contains(&in_use));
                if !force && !away.is_empty() {
                    return refuse(
                        format!(
                            "{away} is down and lacks key {in_use}: without key {id} it could not come back"
                        ),
                        "wait until it is back; or --force, and let it join again by `mesh-agent token`",
                    );
                }
                Ok(())
            }
        }
    }

    fn check_known(&self, id: KeyId) -> Result<(), ControlError> {
        match self.keys.ring().get(id) {
            Some(_) => Ok(()),
            None => Err(ControlError::KeyChange {
                problem: format!("no key {id} is in this node's ring"),
                fix: "`mesh-agent key ls` lists those there are; `mesh-agent key add FILE` adds one".into(),
            }),
        }
    }

    /// The names of the nodes of which `what` holds.
    fn named(&self, what: impl Fn(&NodeView) -> bool) -> String {
        let nodes = self.snapshot().nodes.values().filter(|node| what(node));
        nodes.map(|node| node.name.as_str()).collect::<Vec<_>>().join(", ")
    }

    /// Writes a change that was checked; one that changes nothing writes nothing.
    pub(super) fn change_key(&mut self, change: KeyChange, now: Now) {
        let ring = self.keys.ring();
        let used = |keys: &crate::keys::Keys, id| keys.told(id).map_or(Hlc::default(), |told| told.used);
        let (id, told) = match change {
            KeyChange::Add(key) => {
                let id = key.id();
                // A removed key that returns is not in use.
                let used = self.keys.told(id).filter(|told| told.key.is_some()).map(|told| told.used);
                (id, Told { key: Some(key), used: used.unwrap_or_default() })
            }
            KeyChange::Use { id, .. }
                if ring.sealing().id() == id && used(&self.keys, id) > Hlc::default() =>
            {
                return;
            }
            KeyChange::Use { id, .. } => {
                let used = self.clock.tick(now.wall, self.keys.newest_use());
                (id, Told { key: ring.get(id).cloned(), used })
            }
            KeyChange::Remove { id, .. } => (id, Told { key: None, used: Hlc::default() }),
        };
        if self.keys.told(id) != Some(&told) {
            self.write(Key::Ring(id).id(), false, told.encode(), now);
        }
    }
}
